"""One stage of `gpu_run`, in a process of its own: train a preset, score a model, or measure speed.

What is found is written to WORK/result.json after every step, whole or not at all.
"""

import argparse
import contextlib
import dataclasses
import gc
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.published_c2fvl import PublishedC2FVL
from c2fvl.checkpoints.provenance import provenance
from c2fvl.checkpoints.trained_model import TrainedModel, load_model
from c2fvl.config import Config
from c2fvl.config_files import load_config
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.on_device import DeviceData
from c2fvl.data.part import Part
from c2fvl.data.prefetch import prefetch
from c2fvl.data.shard_writer import cases_of, write_shards
from c2fvl.evaluation.crossval import crossval
from c2fvl.evaluation.statistics import pooled
from c2fvl.files import storage
from c2fvl.inference.cases import (
    SCORINGS,
    CasePrediction,
    CaseScore,
    dataset_of,
    predict_on_device,
    score_prediction,
)
from c2fvl.inference.precision import autocast, settled_precision
from c2fvl.metrics.intervals import Bootstrap
from c2fvl.metrics.overlap import dice, iou
from c2fvl.models import build_model
from c2fvl.models.c2fvl import C2FVL
from c2fvl.training.loop import train

NUM_FOLDS, FOLD_SCORING_FRACTION = 5, 0.12
REPORTS = ("right", "none", "shuffled")
SCORING_FRACTION, MAX_SCORING_SECONDS = 0.2, 60.0
"""Of a training stage's time, kept for scoring."""
BATCH_TO_SCORE = 64
CASES_TO_MEASURE = 1024
MEASURED = (
    ("c2fvl_qata", "auto"), ("filmfirst_qata", "auto"), ("unet_qata", "auto"),
    ("c2fvl_qata", "no"), ("filmfirst_qata", "no"), ("unet_qata", "no"),
)  # fmt: skip
"""What `figures` measures, in this order: preset, and whether steps are captured as CUDA graphs."""
FORMS = ("published, float32", "published, convolutions in TF32 as torch does by default", "ours, eager")
"""The forms of C2FVL whose steps `figures` measures; ours in bfloat16 where the device has it."""
MIN_SECONDS_TO_MEASURE = 15.0


class Found:
    """The result of the stage, written after every change."""

    def __init__(self, work: Path) -> None:
        self.path = work / "result.json"
        self.content: dict[str, Any] = {}

    def note(self, **changes: Any) -> None:
        """Add what was found and write it."""
        self.content.update(changes)
        storage.write_json(self.path, self.content)


def run_training(options: argparse.Namespace, found: Found) -> None:
    """Train a preset until its time is up, or go on with its run folder, then score the best model."""
    run = options.work / "run"
    time_left = options.until - time.time()
    to_score = min(MAX_SCORING_SECONDS, SCORING_FRACTION * time_left)
    config = settings_for(options, minutes=(time_left - to_score) / 60)
    found.note(preset=options.name, settings=list(options.settings), environment=provenance(device_of(options)))
    began = time.monotonic()
    result = train(resume=run) if (run / "last").is_dir() else train(config, run=run)
    found.note(
        reason=result.reason, finished=result.finished, best_epoch=result.best_epoch,
        train_seconds=round(time.monotonic() - began, 1), peak_memory_gb=peak_memory(),
    )  # fmt: skip
    found.note(scores=score(load_model(run / "best", device=device_of(options)), options, found))


def run_crossval(options: argparse.Namespace, found: Found) -> None:
    """Cross-validate a preset; each fold has an equal part of the time that is left."""
    folder, folds = options.work / "folds", NUM_FOLDS
    given = options.work.parent / "folds.csv"
    if given.is_file() and not (folder / "folds.csv").is_file():  # made before, so that the GPU does not wait for it
        storage.make_folder(folder)
        storage.write_bytes(folder / "folds.csv", given.read_bytes())
    found.note(preset=options.name, settings=list(options.settings), environment=provenance(device_of(options)))
    minutes = (options.until - time.time()) * (1 - FOLD_SCORING_FRACTION) / folds / 60
    began = time.monotonic()
    config = settings_for(options, minutes=minutes, more=('data.train_split="train,val"',))
    result = crossval(config, folder, num_folds=folds)
    found.note(
        finished=result.finished, reason=result.reason, summary=result.summary,
        seconds=round(time.monotonic() - began, 1), peak_memory_gb=peak_memory(),
    )  # fmt: skip


def settings_for(options: argparse.Namespace, *, minutes: float, name: str = "", more: tuple[str, ...] = ()) -> Config:
    """Return a preset's settings for this machine: data on the device, captured steps, bf16, a time limit."""
    on_gpu = device_of(options).type == "cuda"
    settings = [
        f'data.root="{options.data}"', "data.image_cache=none", "data.workers=0", "data.on_device=yes",
        "train.graph=auto", f"train.precision={'bf16' if on_gpu else 'fp32'}", f"train.minutes={minutes:.4f}",
        f"train.device={options.device}", *more,
        *(setting.replace("{work}", str(options.work.parent)) for setting in options.settings),
    ]  # fmt: skip
    return load_config(name or options.name, settings)


def score(model: TrainedModel, options: argparse.Namespace, found: Found) -> dict[str, Any]:
    """Return the scores on val with the right, no and another case's report, each noted as it comes.

    For a network that weighs reports they are those at its own trust; the right report follows at trust 1.
    """
    data = model.config.data
    ways = [(text, model) for text in REPORTS if text == "none" or data.text != "none"]
    if data.text == "findings":
        ways.append(("right", model.with_trust(1.0)))
    scores: dict[str, Any] = {}
    for text, network in ways:
        began = time.monotonic()
        dataset = dataset_of(network, Part(options.data, "val", text=text))
        cases = list(prefetch(score_prediction, predict(network, dataset, options), workers=16, maximum=256))
        name = text if network is model else f"{text}, trust 1"
        scores[name] = {**summarise(cases, dataset), "seconds": round(time.monotonic() - began, 1)}
        found.note(scores=scores)
        print(f"{name}: Dice per image {scores[name]['original corrected']['dice_per_image']['value']:.4f}")
    return scores


def predict(model: TrainedModel, dataset: CaseDataset, options: argparse.Namespace) -> Iterator[CasePrediction]:
    """Yield the prediction of every case, computed in batches from data on the device."""
    device = device_of(options)
    data, precision = DeviceData(dataset, device), settled_precision(device, "auto")
    return predict_on_device(model.network, data, batch_size=BATCH_TO_SCORE, precision=precision)


def summarise(cases: list[CaseScore], dataset: CaseDataset) -> dict[str, Any]:
    """Return Dice and IoU per image and pooled, by resolution and protocol, with 95 % intervals by patient."""
    bootstrap = Bootstrap([case.group for case in dataset.cases])
    found: dict[str, Any] = {"intervals": bootstrap.unit}
    for scoring in SCORINGS:
        counts = [[own[scoring] for own in case.classes] for case in cases]
        row: dict[str, Any] = {}
        for name, measure in (("dice", dice), ("iou", iou)):
            values = torch.tensor([[measure(own, protocol=scoring[1]) for own in case] for case in counts]).mean(1)
            (mean,) = bootstrap.means(values.numpy())
            row[f"{name}_per_image"] = dataclasses.asdict(mean)
        row |= {f"{name}_pooled": dataclasses.asdict(own) for name, own in pooled(counts, bootstrap).items()}
        found[" ".join(scoring)] = row
    return found


def run_figures(options: argparse.Namespace, found: Found) -> None:
    """Measure the seconds of an epoch of each network, captured and eager, and C2FVL against its published form."""
    data, num_train = fewer_cases(options)
    found.note(environment=provenance(device_of(options)), num_train=num_train)
    c2fvl = options.name or "c2fvl_qata"
    forms = FORMS if load_config(c2fvl).model.name == "c2fvl" else ()
    steps: list[dict[str, Any]] = [{"form": form} for form in forms]
    for row in steps:
        with noted(row):
            row.update(measure_steps(options, data, c2fvl, row["form"]))
        found.note(steps=steps)
    rows: list[dict[str, Any]] = []
    for preset, graph in [(options.name, graph) for graph in ("auto", "no")] if options.name else MEASURED:
        if options.until - time.time() < MIN_SECONDS_TO_MEASURE:
            break
        rows.append({"preset": preset, "graph": graph})
        with noted(rows[-1]):
            rows[-1] |= measure_epoch(options, data, num_train, preset, graph)
        found.note(epochs=rows)


def fewer_cases(options: argparse.Namespace) -> tuple[str, int]:
    """Write some cases of train and val as shards; return their folder and the number of all training cases."""
    cases = cases_of(options.data, splits=("train", "val"))
    train, val = ([case for case in cases if case.split == split] for split in ("train", "val"))
    few = [*train[:: max(1, len(train) // CASES_TO_MEASURE)][:CASES_TO_MEASURE], *val[:32]]
    write_shards(few, Path(options.work) / "fewer")
    return str(Path(options.work) / "fewer"), len(train)


def measure_epoch(options: argparse.Namespace, data: str, num_train: int, preset: str, graph: str) -> dict[str, Any]:
    """Return the seconds of an epoch by the trainer, from its third epoch of some cases, scaled to all."""
    run = options.work / f"measured-{preset}-{graph}"
    if run.is_dir():
        storage.remove_folder(run)
    reset_memory()
    more = (f'data.root="{data}"', "train.epochs=3", "train.patience=0", f"train.graph={graph}")
    config = settings_for(options, minutes=0, name=preset, more=more)
    train(config, run=run)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "images_per_second": lines[-1]["images_per_second"],
        "seconds_per_epoch": round(num_train / lines[-1]["images_per_second"], 3),
        "peak_memory_gb": peak_memory(),
    }


def measure_steps(options: argparse.Namespace, data: str, preset: str, form: str) -> dict[str, Any]:
    """Return steps per second and peak memory of one form of C2FVL, eager, with the same batches and loss."""
    device, published = device_of(options), form != FORMS[-1]
    torch.backends.cudnn.allow_tf32 = form != FORMS[0]
    config = settings_for(options, minutes=0, name=preset, more=(f'data.root="{data}"', "data.text=attributes"))
    dataset = CaseDataset(Part(data, "train").cases(), config.data, augment=True)
    on_device = DeviceData(dataset, device)
    order = list(range(len(dataset)))
    draws = on_device.draw_epoch(0, order)
    reset_memory()
    arguments = {name: value for name, value in config.model.arguments.items() if name != "gate"}  # published has none
    ours = build_model("c2fvl", arguments).train()
    assert isinstance(ours, C2FVL)
    network: nn.Module = ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if published:
        network = PublishedC2FVL.of(ours, side=config.data.image_size).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network = network.to(device)
    precision = "fp32" if published else settled_precision(device, "auto")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    size = min(config.train.batch_size, len(dataset))

    def step(number: int) -> None:
        places = torch.arange(size, device=device) + (number * size) % (len(order) - size + 1)
        batch = on_device.batch(draws, places)
        optimizer.zero_grad()
        assert batch.mask is not None
        assert batch.text is not None
        with autocast(device, precision):
            output = network(batch.image.contiguous() if published else batch.image, batch.text.nan_to_num())
        if published:
            loss = functional.binary_cross_entropy(output[0][:, 0], batch.mask)
        else:
            loss = functional.binary_cross_entropy_with_logits(output.logits[:, 0].float(), batch.mask)
        loss.backward()
        optimizer.step()

    seconds = timed(step, device, warm_up=3, repeats=20 if device.type == "cuda" else 2)
    return {"batch_size": size, "steps_per_second": round(1 / seconds, 3), "peak_memory_gb": peak_memory()}


def timed(step: Callable[[int], None], device: torch.device, *, warm_up: int, repeats: int) -> float:
    """Return the mean seconds of a step."""
    for number in range(warm_up):
        step(number)
    synchronize(device)
    began = time.perf_counter()
    for number in range(repeats):
        step(number)
    synchronize(device)
    return (time.perf_counter() - began) / repeats


def synchronize(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def reset_memory() -> None:
    """Begin to count the peak of memory anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> float | None:
    """Return the most memory of the GPU that tensors took, in GB; None without a GPU."""
    return round(torch.cuda.max_memory_allocated() / 1e9, 3) if torch.cuda.is_available() else None


@contextlib.contextmanager
def noted(row: dict[str, Any]) -> Iterator[None]:
    """Note an error in a row of a table instead of ending the stage."""
    try:
        yield
    except Exception as error:  # whatever it is, the other rows are worth having
        row["error"] = f"{type(error).__name__}: {error}"
    print(row)


def device_of(options: argparse.Namespace) -> torch.device:
    """Return the GPU, or the processor where there is none or it is asked for."""
    return torch.device("cuda" if options.device == "auto" and torch.cuda.is_available() else "cpu")


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=("train", "crossval", "score", "figures"))
    parser.add_argument("name")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    found = Found(options.work)
    if options.kind == "train":
        run_training(options, found)
    elif options.kind == "crossval":
        run_crossval(options, found)
    elif options.kind == "score":
        score(load_model(options.name, device=device_of(options)), options, found)
    else:
        run_figures(options, found)


if __name__ == "__main__":
    main()
