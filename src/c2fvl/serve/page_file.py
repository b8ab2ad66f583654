"""The page as it is sent, and the Content-Security-Policy that lets its own script and style run and nothing else."""

import re
from importlib import resources

from c2fvl.files.content_policy import hashes_of


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
    return hashes_of(re.findall(rf"<{element}>(.*?)</{element}>", page, re.S))
