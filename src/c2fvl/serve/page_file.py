"""The page as it is sent, and the Content-Security-Policy that lets its own script and style run and nothing else."""

import base64
import hashlib
import re
from importlib import resources


def read_page() -> tuple[bytes, str]:
    """Return the page and its policy; the hashes are computed from the page."""
    page = (resources.files("c2fvl.serve") / "page" / "index.html").read_bytes()
    return page, policy_of(page.decode("utf-8"))


def policy_of(page: str) -> str:
    """Return the Content-Security-Policy of a page with inline scripts and styles."""
    scripts, styles = _hashes(page, "script"), _hashes(page, "style")
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(page: str, element: str) -> str:
    found = re.findall(rf"<{element}>(.*?)</{element}>", page, re.S)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
