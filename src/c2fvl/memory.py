"""Memory of this process: kept where it is used again at once, measured where that matters."""

import ctypes
import resource
import sys
from pathlib import Path

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


def return_freed_memory() -> bool:
    """Hand memory that was freed back to the system; tell whether it can be done.

    The GNU C library keeps the holes that a network leaves whose weights were rewritten, which are as large as they.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False


def resident() -> int:
    """Return the memory this process has now, in bytes; where the system does not tell, the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return resident_peak()
    return pages * resource.getpagesize()


def resident_peak() -> int:
    """Return the most memory this program ever had, in bytes.

    Linux tells it of the program; what `getrusage` tells there began with the memory of the process that started it,
    and so is asked elsewhere only, where macOS tells bytes and others kibibytes.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, ValueError, IndexError, StopIteration):
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
