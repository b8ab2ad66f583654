"""JSON and TOML from files that may be damaged or hostile: what cannot be read is an error of one kind. No torch."""

import json
import re
import tomllib
from typing import Any

MAX_KEY_PARTS = 16
"""Parts of a dotted TOML key; more parts take quadratic time to read."""
_TOO_DEEP = "nested too deeply"
_IN_KEY = r"[^=\n\"'#,.]*"
_LONG_KEY = re.compile(rf"^{_IN_KEY}(?:\.{_IN_KEY}){{{MAX_KEY_PARTS}}}", re.MULTILINE)


def parse_json(content: str | bytes) -> Any:
    """Return the content of a JSON text; a `ValueError` (`json.JSONDecodeError`) where it is none or too deep."""
    try:
        return json.loads(content)
    except RecursionError:
        raise json.JSONDecodeError(_TOO_DEEP, "", 0) from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return the content of a TOML text; a `ValueError` (`tomllib.TOMLDecodeError`) where it is none or too deep."""
    if _LONG_KEY.search(text):
        raise tomllib.TOMLDecodeError(f"a key has more than {MAX_KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise tomllib.TOMLDecodeError(_TOO_DEEP) from None
