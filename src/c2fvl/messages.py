"""Parts of messages that several modules share."""

import difflib
from collections.abc import Iterable, Sequence


def nearest_names(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return the end of an error about an unknown name: the nearest known names, or all of them, after `prefix`."""
    known = list(known)
    return did_you_mean(name, known, prefix) or f"; known are {', '.join(prefix + entry for entry in known)}."


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return the question for the nearest known names, each after `prefix`; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), n=2)
    return f"; did you mean {' or '.join(prefix + entry for entry in near)}?" if near else ""


def listed(items: Sequence[str], maximum: int = 12, *, separator: str = ", ") -> str:
    """Return the first items and the number of the others: "A, B and 3 more"; "none" without items."""
    shown = separator.join(items[:maximum]) or "none"
    rest = len(items) - maximum
    return f"{shown}{separator.replace(',', '')}and {rest} more" if rest > 0 else shown


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def printable(text: str) -> str:
    r"""Return the text as one line that a terminal, a log or a page only shows: "\x1b" for an escape character.

    White space of any kind becomes a space. Control characters, those that change the direction of writing, and bytes
    of file names that are no text are written as in Python.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else " " if character.isspace() else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class LinesError(ValueError):
    """An error that is shown as several lines, each of which is one line whatever it holds."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
