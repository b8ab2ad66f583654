"""What a network costs: parameters and floating-point operations of each stage, speed and memory of the whole.

Operations are counted on the meta device, so that nothing is computed, by the counter that comes with torch: 2 for each
multiplication with its addition in convolutions and matrix products, attention included. Norms, activations and
resizing, which such counts leave out by custom, are left out.
"""

import contextlib
import dataclasses
import inspect
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from c2fvl.checkpoints.trained_model import check_device
from c2fvl.config import Config
from c2fvl.config_files import override
from c2fvl.extensions import import_extension, used_modules
from c2fvl.inference.precision import autocast
from c2fvl.models import build_model
from c2fvl.models.inference_model import optimize
from c2fvl.models.registry import find_network, network_class
from c2fvl.reports.encoders import text_shape

WARM_UP, REPEATS = 2, 5
MEBIBYTE = 2**20
Result = TypeVar("Result")


@dataclass(frozen=True)
class Stage:
    """One part of a network."""

    name: str
    kind: str
    output: str
    """Shape of what it returned last, as 64×14×14; "" where that is no tensor."""
    parameters: int
    flops: int


def count_flops(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """Return the operations of a forward pass by the name of the module, "" for the whole network.

    The network and its inputs should lie on the meta device: attention on others may hide from the counter.
    """
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    root = type(network).__name__
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    named = {name.removeprefix(f"{root}."): count for name, count in counts.items() if name.startswith(f"{root}.")}
    return {**named, "": counter.get_total_flops()}


def stages(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Stage]:
    """Return the parts of a network in the order of their names in it: its children, and those of lists of modules.

    What a network computes outside of its parts is the difference to the whole, "" , which comes last.
    """
    parts: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        inner = child.named_children() if isinstance(child, nn.ModuleList) else ()
        parts |= {f"{name}.{place}": module for place, module in inner} or {name: child}
    shapes: dict[str, str] = {}

    def watch(name: str) -> Any:
        def note(module: nn.Module, arguments: Any, result: Any) -> None:
            shapes[name] = "×".join(map(str, result.shape[1:])) if isinstance(result, Tensor) else ""

        return note

    hooks = [module.register_forward_hook(watch(name)) for name, module in parts.items()]
    counts = count_flops(network, inputs)
    for hook in hooks:
        hook.remove()
    found = [
        Stage(name, type(module).__name__, shapes.get(name, ""), _parameters(module), counts.get(name, 0))
        for name, module in parts.items()
    ]
    return [*found, Stage("", type(network).__name__, "", _parameters(network), counts[""])]


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def example_settings(name: str, arguments: Iterable[str] = (), image_size: int | None = None) -> Config:
    """Return settings of a network by name with `argument=value` changes and a text of the size that it reads.

    For a look at the network alone: they can be trained only after a vocabulary is settled. Raises `ValueError` for
    names and arguments that are not known.
    """
    entry = find_network(name)
    config = override(Config(), [f"model.name={name}", *(f"model.arguments.{item}" for item in arguments)])
    free = dict(config.model.arguments)
    sizes = inspect.signature(network_class(name)).parameters
    if image_size is not None and "image_size" in sizes:
        free.setdefault("image_size", image_size)
    default = sizes["image_size"].default if "image_size" in sizes else config.data.image_size
    data = dataclasses.replace(config.data, image_size=image_size or free.get("image_size", default))
    if entry.text == "sentence":
        words = free.get("vocabulary_size", 0)
        tokens = free.get("text_tokens", sizes["text_tokens"].default)
        free.setdefault("text_features", sizes["text_features"].default)
        data = dataclasses.replace(data, text="words" if words else "sentence", text_tokens=tokens)
    else:
        data = dataclasses.replace(data, text=entry.text)
    return dataclasses.replace(config, data=data, model=dataclasses.replace(config.model, arguments=free))


def build_empty(config: Config) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the network of the settings and one image with its report, all without numbers, on the meta device."""
    with torch.device("meta"):
        network = build_model(config.model.name, config.model.arguments)
        return network, example_inputs(config, 1)


def example_inputs(config: Config, batch: int) -> tuple[Tensor, ...]:
    """Return that many images and, for a network that reads them, reports of the settings' size; all zero."""
    side = config.data.image_size
    image = torch.zeros(batch, int(config.model.arguments.get("in_channels", 3)), side, side)
    shape = text_shape(config)
    return (image,) if shape is None else (image, torch.zeros(batch, *shape))


@dataclass(frozen=True)
class Conditions:
    """Under which speed is measured."""

    device: str = "cpu"
    precision: str = "fp32"
    """fp32, bf16 or fp16."""
    batch_size: int = 1
    """Films at once."""
    repeats: int = REPEATS
    """Batches that are timed."""
    threads: int = dataclasses.field(default_factory=torch.get_num_threads)
    """Of the processor."""


@dataclass(frozen=True)
class Speed:
    """How fast one network is on one machine; never to be compared between machines."""

    images_per_second: float
    """By the median."""
    median_seconds: float
    p95_seconds: float
    """Of a batch."""
    peak_memory: float
    """Most memory above what was there before the network was built, in MiB: resident, or of the GPU."""
    device: str
    threads: int
    batch_size: int

    @classmethod
    def of(cls, start: Callable[[], Callable[[], Any]], conditions: Conditions) -> "Speed":
        """Measure what `start` builds; to be called in a process of its own, for a peak of memory never falls."""
        torch.set_num_threads(conditions.threads)
        device, on_gpu = conditions.device, torch.device(conditions.device).type == "cuda"
        with torch.inference_mode():  # a first small product, so that what torch itself needs is there before
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
            "its process ended without a word, perhaps for want of memory; try a smaller --batch-size",
        )
    process.join()
    if not succeeded:
        raise ValueError(f"it cannot be measured: {found}")
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
    """Measure the inference form of the network of some settings; weights change nothing and are drawn.

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


def as_rows(found: list[Stage]) -> list[dict[str, Any]]:
    """Return the stages ready for JSON."""
    return [dataclasses.asdict(stage) for stage in found]


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
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024
