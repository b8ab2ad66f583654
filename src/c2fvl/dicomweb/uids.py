"""UIDs: those that an archive names are checked before they become file names or addresses; those of results."""

import hashlib
import json
import re
import uuid
from typing import Any

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MAX_LETTERS = 64


def is_uid(found: object) -> bool:
    """Tell whether this is a UID: numbers with dots between them, of at most 64 letters."""
    return isinstance(found, str) and len(found) <= _MAX_LETTERS and _UID.fullmatch(found) is not None


def derived_uid(*parts: Any) -> str:
    """Return a UID that follows from the parts, plain values: the same for the same parts, on every machine."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"
