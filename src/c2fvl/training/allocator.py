"""Reuse of freed memory (glibc only)."""

import ctypes

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1
_MAX_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let freed memory be reused instead of returned to the system; return whether this C library can.

    Every training step frees and allocates maps of tens of MiB. The GNU C library returns them to the system each time,
    so each page is cleared and mapped again. Other C libraries are left as they are.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(set_option(_MMAP_MAX, 0) and set_option(_TRIM_THRESHOLD, _MAX_INT))
