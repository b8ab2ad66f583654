"""What a run was made with: day, versions, commit, machine and command."""

import datetime
import platform
import subprocess
import sys
from typing import Any

import torch

from c2fvl.checkpoints.folders import CHECKOUT
from c2fvl.version import __version__


def _commit() -> str | None:
    """Return the commit of the checkout, with "-dirty" if files were changed; None outside of a checkout."""
    if not (CHECKOUT / ".git").exists():
        return None
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def provenance(device: torch.device) -> dict[str, Any]:
    """Return day, versions, commit, machine and command, which are kept with a run."""
    return {
        "date": datetime.datetime.now().astimezone().date().isoformat(),
        "c2fvl": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }
