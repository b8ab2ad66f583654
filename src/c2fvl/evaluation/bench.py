"""How fast networks predict and train on this machine, and what fraction of its peak they reach.

Each number is measured in a fresh process. The machine's peak is measured in the same run: the best of three large
convolutions and a large matrix product in the same precision. Only ratios within one run can be compared.
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from c2fvl.checkpoints.folders import find_model
from c2fvl.checkpoints.model_files import parse_settings
from c2fvl.checkpoints.provenance import provenance
from c2fvl.checkpoints.trained_model import check_device
from c2fvl.config import Config
from c2fvl.data.batches import EpochBatches, iterate_batches
from c2fvl.data.cases import Case
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.image_cache import SETTLED
from c2fvl.data.phantom.draw import write_phantom
from c2fvl.data.scan import scan
from c2fvl.extensions import import_extension, is_extension
from c2fvl.inference.cases import CasePrediction, score_prediction
from c2fvl.inference.compute import MEASURABLE
from c2fvl.inference.cost import build_empty, count_flops, example_inputs, example_settings
from c2fvl.inference.open_engine import ONNX
from c2fvl.inference.precision import autocast, check_precision
from c2fvl.inference.speed import Conditions, Speed, in_own_process, measure_speed, timed
from c2fvl.models import build_model
from c2fvl.models.inference_model import optimize
from c2fvl.models.layers.blocks import ConvNormReLU
from c2fvl.models.registry import NETWORKS, num_classes
from c2fvl.progress import SILENT, Progress
from c2fvl.training.allocator import keep_freed_memory
from c2fvl.training.losses import build_loss
from c2fvl.training.optimizers import build_optimizer
from c2fvl.version import __version__

_CONVOLUTIONS, _MATRIX = ((64, 224), (128, 112), (256, 56)), 2048
_NUM_IMAGES = 128
_LOADED = 8  # images in a batch that is loaded
_TIMES_FORWARD = 3  # operations of a training step, as a multiple of those of its forward pass


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one network costs."""

    model: str
    part: str
    """inference or training."""
    gflop: float | None
    """Per image; None for an exported network."""
    fraction_of_peak: float | None
    speed: Speed


@dataclasses.dataclass(frozen=True)
class Bench:
    """What a run measured."""

    peak: dict[str, float]
    """GFLOP/s of each large operation."""
    networks: list[Measured]
    loading: dict[str, float] | None
    """Images per second: of the published loader in every epoch, and of ours in the first and in later epochs."""
    metrics: float | None
    """Images scored per second."""
    conditions: Conditions
    environment: dict[str, Any]


def bench(
    models: Sequence[str] = (),
    *,
    conditions: Conditions | None = None,
    root: Path | str | None = None,
    parts: Sequence[str] = MEASURABLE,
    progress: Progress = SILENT,
) -> Bench:
    """Measure networks: names of networks, model folders, or exported files (inference, in the precision of the file).

    Images are loaded from the training split of `root`, or from synthetic data. Raises `ValueError` for unknown names,
    and for a precision that the device does not support.
    """
    conditions = conditions or Conditions()
    check_device(conditions.device)
    check_precision(conditions.device, conditions.precision)
    unknown = sorted(set(parts) - set(MEASURABLE))
    if unknown or not parts:
        raise ValueError(f"the parts are {', '.join(parts) or 'none'}; expected some of {', '.join(MEASURABLE)}")
    named = [(name, _settings(name)) for name in models or ("c2fvl",)]
    if root is not None and "loading" in parts:
        scan(root, (named[0][1] or Config()).data.train_split)  # a wrong path is an error before anything is timed
    progress.stage("measuring the machine's peak")
    peak = in_own_process(_peak, conditions)
    networks = []
    for name, config in named:
        for part in ("inference", "training"):
            if part not in parts or (config is None and part == "training"):
                continue
            progress.stage(f"measuring {name}: {part}")
            networks.append(_measure(name, config, part, conditions, max(peak.values())))
    loading = None
    if "loading" in parts:
        progress.stage("measuring loading")
        loading = in_own_process(_loading, None if root is None else str(root), named[0][1] or Config(), conditions)
    scored = in_own_process(_scoring, conditions) if "metrics" in parts else None
    return Bench(peak, networks, loading, scored, conditions, provenance(torch.device(conditions.device)))


def _settings(name: str) -> Config | None:
    """Return the settings of a network; None for an exported file."""
    if Path(name).suffix == ONNX:
        if not Path(name).is_file():
            raise FileNotFoundError(f"{name}: the file does not exist")
        return None
    if is_extension(name):
        import_extension(name)
    return example_settings(name) if name in NETWORKS or is_extension(name) else parse_settings(find_model(name))


def _measure(name: str, config: Config | None, part: str, conditions: Conditions, peak: float) -> Measured:
    if config is None:
        return Measured(name, part, None, None, in_own_process(_exported, name, conditions))
    network, inputs = build_empty(config)
    if part == "inference":
        gflop = count_flops(optimize(network), inputs)[""] / 1e9
        speed = measure_speed(config, conditions)
    else:
        gflop = _TIMES_FORWARD * count_flops(network, inputs)[""] / 1e9
        if not network(*inputs).aux:  # the loss of a network without side maps reads none
            config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, alignment=0.0, side_maps=0.0))
        speed = in_own_process(_training, config, conditions)
    return Measured(name, part, gflop, gflop * speed.images_per_second / peak, speed)


def _peak(conditions: Conditions) -> dict[str, float]:
    torch.set_num_threads(conditions.threads)
    device, precision, found = conditions.device, conditions.precision, {}
    with torch.inference_mode(), autocast(device, precision):
        for width, side in _CONVOLUTIONS:
            image = torch.rand(1, width, side, side, device=device).to(memory_format=torch.channels_last)
            plain = nn.Sequential(ConvNormReLU(width, width)).to(device).eval()
            unit = optimize(plain, example=image if precision == "fp32" else None)
            seconds = statistics.median(timed(lambda: unit(image), conditions))  # noqa: B023 - called at once
            found[f"convolution {width}→{width} at {side}²"] = 2 * 9 * width**2 * side**2 / seconds / 1e9
        matrix = torch.rand(_MATRIX, _MATRIX, device=device)
        seconds = statistics.median(timed(lambda: torch.mm(matrix, matrix), conditions))
        found[f"matrix product {_MATRIX}²"] = 2 * _MATRIX**3 / seconds / 1e9
    return found


def _exported(name: str, conditions: Conditions) -> Speed:
    from c2fvl.inference.onnx_engine import OnnxModel

    def start() -> Callable[[], Any]:
        network = OnnxModel(name, device=conditions.device)
        image, *text = (values.numpy() for values in example_inputs(network.config, conditions.batch_size))
        return lambda: network.compute(image, text[0] if text else None)

    return Speed.of(start, conditions)


def _training(config: Config, conditions: Conditions) -> Speed:
    device, batch = conditions.device, conditions.batch_size
    if device == "cpu":
        keep_freed_memory()

    def start() -> Callable[[], Any]:
        network = build_model(config.model.name, config.model.arguments).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer, loss = build_optimizer(network.train(), config.optimizer), build_loss(config.loss)
        image, *text = (values.to(device) for values in example_inputs(config, batch))
        image = image.contiguous(memory_format=torch.channels_last)
        mask = (torch.rand(batch, *image.shape[2:], device=device) > 0.7).float()

        def step() -> None:
            optimizer.zero_grad()
            with autocast(device, conditions.precision):
                output = network(image, *text)
            loss(output, mask)["loss"].backward()
            optimizer.step()

        return step

    return Speed.of(start, conditions)


def _loading(root: str | None, config: Config, conditions: Conditions) -> dict[str, float]:
    torch.set_num_threads(conditions.threads)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="c2fvl-bench-") as folder:
        if root is None:
            root = str(Path(folder) / "phantom")
            write_phantom(Path(root), num_cases=_NUM_IMAGES, seed=0, size=256)
        cases = scan(root, config.data.train_split)[:_NUM_IMAGES]
        data = dataclasses.replace(
            config.data,
            image_cache=str(Path(folder) / "cache"),
            text="none",
            augmentation="none",
            missing_reports="allow",
        )
        classes = num_classes(config.model)
        images = CaseDataset(cases, data, num_classes=classes)
        moved = CaseDataset(
            cases, dataclasses.replace(data, augmentation="consistent"), num_classes=classes, augment=True
        )

        def epoch(images: CaseDataset = images) -> None:
            for _ in iterate_batches(images, EpochBatches(len(images), _LOADED), workers=0):
                pass

        def rate(run: Callable[[], None]) -> float:
            began = time.perf_counter()
            run()
            return len(cases) / (time.perf_counter() - began)

        def published() -> None:
            _read_as_published(cases, data.image_size)

        published()  # so that the system has all files in memory
        found = {"first epoch": rate(epoch)}
        time.sleep(SETTLED)  # as long as an epoch of training takes, or longer
        epoch()
        turns = [(rate(published), rate(epoch), rate(lambda: epoch(moved))) for _ in range(conditions.repeats)]
        names = ("as published", "later epochs", "later epochs, augmented")
        return found | {name: statistics.median(turn[index] for turn in turns) for index, name in enumerate(names)}


def _read_as_published(cases: Sequence[Case], side: int) -> None:
    """Read images and masks from their files into batches, as the published loader does in every epoch."""
    for start in range(0, len(cases), _LOADED):
        images, masks = [], []
        for case in cases[start : start + _LOADED]:
            image = cv2.imread(str(case.image), cv2.IMREAD_COLOR)
            mask = cv2.imread(str(case.mask), cv2.IMREAD_GRAYSCALE)
            if image is None or mask is None:
                raise ValueError(f"OpenCV alone does not read {case.image} and its mask; name another --root")
            images.append(torch.from_numpy(cv2.resize(image, (side, side))).permute(2, 0, 1).contiguous().div(255))
            masks.append(torch.from_numpy(cv2.resize(mask, (side, side)) > 0).long())
        torch.stack(images), torch.stack(masks)


def _scoring(conditions: Conditions) -> float:
    torch.set_num_threads(conditions.threads)
    coarse = np.random.default_rng(0).random((8, 8), np.float32)
    probability = cv2.resize(coarse, (224, 224), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    case = CasePrediction("", 0, probability, np.roll(probability > 0.5, 9).astype(np.uint8), None)
    return 1 / statistics.median(timed(lambda: score_prediction(case), dataclasses.replace(conditions, device="cpu")))


def to_markdown(found: Bench) -> str:
    """Return the results as tables."""
    conditions, rates = found.conditions, (f"{name} {rate:.0f} GFLOP/s" for name, rate in found.peak.items())
    lines = [
        f"c2fvl {__version__}, {conditions.device}, {conditions.threads} threads, {conditions.precision}.",
        "",
        f"The machine's peak: {', '.join(rates)}; fractions are of the best, {max(found.peak.values()):.0f}.",
    ]
    if found.networks:
        lines += [
            "",
            "| network | part | batch | median | p95 | images/s | peak memory, MiB | GFLOP/image | of peak |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
    for row in found.networks:
        speed = row.speed
        costs = ["", ""] if row.gflop is None or row.fraction_of_peak is None else [
            f"{row.gflop:.1f}", f"{100 * row.fraction_of_peak:.0f} %",
        ]  # fmt: skip
        cells = [
            row.model, row.part, str(speed.batch_size), f"{1000 * speed.median_seconds:.0f} ms",
            f"{1000 * speed.p95_seconds:.0f} ms", f"{speed.images_per_second:.2f}", f"{speed.peak_memory:.0f}", *costs,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    if found.loading is not None:
        base = found.loading["as published"]
        rates = (f"{name} {rate:.0f} ({rate / base:.1f} ×)" for name, rate in found.loading.items())
        lines += ["", "Images and masks loaded per second: " + ", ".join(rates) + "."]
    if found.metrics is not None:
        lines += ["", f"Images of 224 × 224 scored per second: {found.metrics:.0f}."]
    return "\n".join(lines) + "\n"
