"""Parts of messages that several modules word alike."""

import difflib
from collections.abc import Iterable


def nearest_names(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about a name that is not known: the nearest that are, or all."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=2)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(known)}."
