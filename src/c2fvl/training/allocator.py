"""Memory that is freed is used again (glibc only)."""

import ctypes

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have memory that is freed used again in place of handing it back to the system; tell whether it can be done.

    Every step of a training frees and asks for maps of tens of MiB, which the GNU C library takes from the system and
    hands back each time, so that each page is cleared and entered anew. Other libraries are left as they are.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(set_option(_MMAP_MAX, 0) and set_option(_TRIM_THRESHOLD, _MOST))
