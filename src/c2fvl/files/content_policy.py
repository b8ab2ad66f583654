"""Content-Security-Policy: which inline scripts and styles of a page may run."""

import base64
import hashlib
from collections.abc import Sequence


def hashes_of(elements: Sequence[str]) -> str:
    """Return the sources of a policy that allow these scripts or styles, by their exact text, and no other."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in elements)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
