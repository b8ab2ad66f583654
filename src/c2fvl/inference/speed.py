"""Speed and memory of a network on this machine, measured in a separate process."""

import contextlib
import dataclasses
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from c2fvl.checkpoints.trained_model import check_device
from c2fvl.config import Config
from c2fvl.extensions import import_extension, used_modules
from c2fvl.inference.cost import example_inputs
from c2fvl.inference.precision import autocast
from c2fvl.models import build_model
from c2fvl.models.inference_model import optimize

WARM_UP, REPEATS = 2, 5
MEBIBYTE = 2**20
Result = TypeVar("Result")


@dataclass(frozen=True)
class Conditions:
    """Under which speed is measured."""

    device: str = "cpu"
    precision: str = "fp32"
    """fp32, bf16 or fp16."""
    batch_size: int = 1
    """Images in a batch."""
    repeats: int = REPEATS
    """Batches that are timed."""
    threads: int = dataclasses.field(default_factory=torch.get_num_threads)
    """Of the processor."""


@dataclass(frozen=True)
class Speed:
    """How fast one network is on one machine; not comparable between machines."""

    images_per_second: float
    """By the median."""
    median_seconds: float
    p95_seconds: float
    """Of a batch."""
    peak_memory: float
    """Peak memory above that before the network was built, in MiB: resident, or of the GPU."""
    device: str
    threads: int
    batch_size: int

    @classmethod
    def of(cls, start: Callable[[], Callable[[], Any]], conditions: Conditions) -> "Speed":
        """Measure what `start` builds, in a fresh process, because the peak of memory never falls."""
        torch.set_num_threads(conditions.threads)
        device, on_gpu = conditions.device, torch.device(conditions.device).type == "cuda"
        with torch.inference_mode():  # a small product first, so that the memory of torch itself is not counted
            nn.functional.conv2d(torch.ones(1, 8, 8, 8, device=device), torch.ones(8, 8, 3, 3, device=device))
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if on_gpu else resident()
        seconds = timed(start(), conditions)
        peak = torch.cuda.max_memory_allocated(device) if on_gpu else resident_peak()
        median = statistics.median(seconds)
        return cls(
            images_per_second=conditions.batch_size / median,
            median_seconds=median,
            p95_seconds=sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1],
            peak_memory=(peak - before) / MEBIBYTE,
            device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
            threads=torch.get_num_threads(),
            batch_size=conditions.batch_size,
        )


def timed(run: Callable[[], Any], conditions: Conditions) -> list[float]:
    """Return the seconds of each of the calls after some that are not counted."""
    seconds = []
    for _ in range(WARM_UP + conditions.repeats):
        began = time.perf_counter()
        run()
        if torch.device(conditions.device).type == "cuda":
            torch.cuda.synchronize(conditions.device)
        seconds.append(time.perf_counter() - began)
    return seconds[WARM_UP:]


def in_own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Return what a function of a module returns in a fresh process. Raises `ValueError` where it fails there."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, used_modules(), function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        succeeded, found = receiver.recv()
    except EOFError:
        succeeded, found = (
            False,
            "its process ended without a message, perhaps out of memory; try a smaller --batch-size",
        )
    process.join()
    if not succeeded:
        raise ValueError(f"this cannot be measured: {found}")
    return found


def _answer(sender: Any, modules: tuple[str, ...], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        for module in modules:
            with contextlib.suppress(ValueError):  # one that is not there may not be needed
                import_extension(module)
        sender.send((True, function(*arguments)))
    except (ValueError, OSError, RuntimeError) as error:
        sender.send((False, str(error)))
    finally:
        sender.close()


def measure_speed(config: Config, conditions: Conditions) -> Speed:
    """Measure the inference model of the settings, with random weights.

    Raises `ValueError` where it cannot be measured.
    """
    check_device(conditions.device)
    return in_own_process(_inference, config, conditions)


def _inference(config: Config, conditions: Conditions) -> Speed:
    device, precision = conditions.device, conditions.precision

    def start() -> Callable[[], Any]:
        network = build_model(config.model.name, config.model.arguments).to(device)
        image, *text = (values.to(device) for values in example_inputs(config, conditions.batch_size))
        image = image.contiguous(memory_format=torch.channels_last)
        form = optimize(network, example=image if precision == "fp32" else None, in_place=True)

        def run() -> None:
            with torch.inference_mode(), autocast(device, precision):
                form(image, *text)

        return run

    return Speed.of(start, conditions)


def resident() -> int:
    """Return the memory of this process in bytes; its peak where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return resident_peak()
    return pages * resource.getpagesize()


def resident_peak() -> int:
    """Return the peak memory of this process in bytes.

    Linux has it in /proc. There `getrusage` includes the memory of the parent process, so it is used elsewhere only;
    macOS gives bytes, others kibibytes.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, ValueError, IndexError, StopIteration):
        pass
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024
