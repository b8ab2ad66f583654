"""What a machine of the cluster is asked before work is sent to it. It runs there without this package.

The function is sent by value, so that a machine without the package can answer that it has none.
"""


def look_at(token: str) -> dict[str, str]:
    """Return the name of the machine, the version of c2fvl there or why there is none, and whether `token` is seen."""
    import os
    import socket
    import sys

    try:
        from c2fvl.version import __version__ as version

        error = ""
    except ImportError as failure:
        version, error = "", str(failure)
    seen = "yes" if not token or os.path.exists(token) else ""  # noqa: PTH110 - nothing of the package is used here
    return {"host": socket.gethostname(), "version": version, "error": error, "python": sys.executable, "seen": seen}
