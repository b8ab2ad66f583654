"""The device and the number of threads that are used where none is named. Torch is loaded only where a GPU may be."""

import functools
import importlib.util
import os
import platform
import sys
from pathlib import Path

_GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""Device files of the drivers that torch calls cuda: of NVIDIA, in the Linux of Windows, and of AMD."""


def automatic_device() -> str:
    """Return "cuda", else "mps", else "cpu": the first that this machine and this build of torch have."""
    if not _may_have_gpu():
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@functools.cache
def automatic_threads() -> int:
    """Return how many threads an inference uses by default: the processor cores that are free, at least one.

    Threads of a network wait for each other, so on a busy machine more of them than free cores are slower than one.
    The number stays what it was when it was first asked for, because it changes the last digits of a result.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, cores - round(busy))


def has_torch() -> bool:
    """Tell whether torch is installed, without loading it."""
    return importlib.util.find_spec("torch") is not None


def _may_have_gpu() -> bool:
    """Tell whether torch should be asked for a GPU; loading torch takes seconds."""
    if not has_torch():
        return False
    if sys.platform == "linux":
        return any(Path(file).exists() for file in _GPU_FILES)
    return sys.platform != "darwin" or platform.machine() == "arm64"
