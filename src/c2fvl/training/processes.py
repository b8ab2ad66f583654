"""The processes that train one network together, by Accelerate; a run in a single process is one of them."""

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, gather_object

from c2fvl.config import TrainConfig
from c2fvl.devices import automatic_device


def start_accelerator(settings: TrainConfig, folder: Path) -> Accelerator:
    """Return the Accelerator of this process.

    Raises `ValueError` for a tracker that is not installed, and for processes that do not know each other.
    """
    if settings.device in ("cuda", "mps") and automatic_device() != settings.device:
        raise ValueError(
            f"train.device is {settings.device!r}, which this machine or this build of torch does not have; auto takes "
            f"{automatic_device()}"
        )
    with warnings.catch_warnings():  # a missing tracker is an error below
        warnings.filterwarnings("ignore", message=".*no supported trackers")
        accelerator = Accelerator(
            cpu=settings.device == "cpu" or not torch.accelerator.is_available(),
            log_with=list(settings.trackers) or None,
            project_dir=str(folder),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    missing = set(settings.trackers) - {str(getattr(name, "value", name)) for name in accelerator.log_with}
    if missing:
        raise ValueError(f"train.trackers names {', '.join(sorted(missing))}, which is not installed here")
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise ValueError(
            f"{started} processes were started but Accelerate sees {accelerator.num_processes}, so each would train "
            "alone; start them by torchrun, or on GPUs by accelerate launch --multi_gpu"
        )
    return accelerator


def any_process(accelerator: Accelerator, wish: object) -> bool:
    """Return whether `wish` is true in any process, so that all processes act alike."""
    if accelerator.num_processes == 1:
        return bool(wish)
    flag = torch.tensor([float(bool(wish))], device=accelerator.device)
    return bool(accelerator.reduce(flag).item())


def of_main_process(accelerator: Accelerator, value: Any) -> Any:
    """Return the `value` of the main process in every process."""
    return value if accelerator.num_processes == 1 else broadcast_object_list([value])[0]


def gather(accelerator: Accelerator, items: Sequence[Any]) -> list[Any]:
    """Return the items of all processes, in the order of the processes."""
    return gather_object(list(items)) if accelerator.num_processes > 1 else list(items)


def mean_over_processes(accelerator: Accelerator, sums: dict[str, float], count: int) -> dict[str, float]:
    """Return the means of what every process summed over `count` batches."""
    everything = gather(accelerator, [(sums, count)])
    total = sum(own_count for _, own_count in everything)
    return {name: math.fsum(own[name] for own, _ in everything) / total for name in sums}


def end_processes() -> None:
    """Leave the other processes in good order; call it last. In a single process it does nothing."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
