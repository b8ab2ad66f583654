"""Cross-validation: a network is trained once for each fold, on the others, and scored on the images it has not seen.

The folder of a cross-validation holds `folds.csv`, `config.toml`, a run folder `fold-K` for each fold, and, when all
folds are done, `summary.json` and `cases.csv`. Each fold adds `out_of_fold.safetensors`: the probabilities of its cases
at the network's resolution (8 bits), their Dice at several thresholds, and a histogram of their logits. A call that was
stopped goes on where it was.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load
from safetensors.numpy import save as to_safetensors

from c2fvl.checkpoints.trained_model import TrainedModel, load_model
from c2fvl.config import Config
from c2fvl.config_files import parse_config, to_toml
from c2fvl.data.cases import Case
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.folds import make_folds, read_folds, split_by_fold, write_folds
from c2fvl.data.on_device import DeviceData
from c2fvl.data.prefetch import prefetch
from c2fvl.data.scan import scan
from c2fvl.evaluation.run_log import read_log
from c2fvl.files import storage
from c2fvl.files.tables import write_cells
from c2fvl.inference.cases import CasePrediction, predict_on_device
from c2fvl.inference.precision import settled_precision
from c2fvl.metrics.intervals import Bootstrap
from c2fvl.metrics.overlap import overlap
from c2fvl.metrics.temperature import LogitHistogram
from c2fvl.models.output import TrustNetwork
from c2fvl.models.registry import num_classes
from c2fvl.progress import SILENT, Progress
from c2fvl.training.callbacks import Observer
from c2fvl.training.loop import train
from c2fvl.training.run_folder import RESUMABLE_SETTINGS

FOLDS, SETTINGS, OUT_OF_FOLD = "folds.csv", "config.toml", "out_of_fold.safetensors"
THRESHOLDS = tuple(round(0.2 + 0.05 * step, 2) for step in range(13))
"""At which Dice is measured: 0.2, 0.25, … 0.8."""
_HALF = THRESHOLDS.index(0.5)
_BATCH = 32
_CHANGEABLE = (*RESUMABLE_SETTINGS, "data.fold", "data.folds")


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation found; `summary` is None where it was stopped before all folds were done."""

    folder: Path
    finished: bool
    reason: str
    summary: dict[str, Any] | None = None
    signal: str | None = None


def crossval(
    config: Config,
    folder: Path,
    *,
    num_folds: int = 5,
    seed: int = 0,
    observer: Observer | None = None,
    progress: Progress = SILENT,
) -> CrossValidation:
    """Train and score each fold of the cases of `data.train_split`, or go on with `folder`; return the scores of all.

    Patients are never in two folds. `folds.csv` in `folder` is used if it is there, and made by `num_folds` and `seed`
    if not. `train.minutes` is the time of each fold. A network that weighs reports is also scored at a trust of 1.

    Raises `ValueError` for a network of several classes, and for a folder of other settings or folds.
    """
    if num_classes(config.model) > 2:
        raise ValueError("cross-validation is for networks of one lesion; this one has several classes")
    storage.make_folder(folder)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, folds=str(folder / FOLDS)))
    cases = scan(config.data.root, config.data.train_split, table=config.data.table or None)
    if not (folder / FOLDS).is_file():
        made = make_folds(cases, num_folds, seed=seed, mask=config.data.mask, progress=progress)
        write_folds(folder / FOLDS, made)
    folds = _read_folds(folder / FOLDS, cases, num_folds)
    _check_settings(config, folder)
    numbers = sorted(set(folds.values()))
    for number in numbers:
        run = folder / f"fold-{number}"
        if (run / OUT_OF_FOLD).is_file():
            continue
        of_fold = dataclasses.replace(config, data=dataclasses.replace(config.data, fold=number))
        progress.stage(f"training fold {number} of {len(numbers)}")
        resume = (run / "last").is_dir()
        result = train(
            None if resume else of_fold, run=None if resume else run, resume=run if resume else None, observer=observer
        )
        if not result.finished:
            return CrossValidation(folder, False, result.reason, signal=result.signal)
        progress.stage(f"scoring fold {number} of {len(numbers)}")
        _score_fold(load_model(run, device=_device(config)), split_by_fold(cases, folds, number)[1], run, progress)
    summary = _summarise(cases, folds, folder)
    storage.write_json(folder / "summary.json", summary)
    return CrossValidation(folder, True, f"all {len(numbers)} folds are done", summary)


def _device(config: Config) -> torch.device:
    return torch.device("cuda" if config.train.device == "auto" and torch.cuda.is_available() else "cpu")


def _read_folds(path: Path, cases: Sequence[Case], num_folds: int) -> dict[str, int]:
    """Return the folds of a folder; `ValueError` for others than were asked for, and for cases without one."""
    folds = read_folds(path)
    split_by_fold(cases, folds, 1)  # every case has a fold
    if max(folds.values()) != num_folds:
        raise ValueError(f"{path} has {max(folds.values())} folds, and {num_folds} were asked for; use another folder")
    return folds


def _check_settings(config: Config, folder: Path) -> None:
    """Write the settings of a new cross-validation; `ValueError` where the folder was begun with others."""
    path = folder / SETTINGS
    if not path.is_file():
        storage.write_text(path, to_toml(config))
        return
    before = _by_name(parse_config(path.read_text(encoding="utf-8"), where=str(path)))
    now = _by_name(config)
    changed = [name for name in now if now[name] != before.get(name) and name not in _CHANGEABLE]
    if changed:
        raise ValueError(f"{folder} was begun with other settings ({', '.join(changed)}); use them, or another folder")


def _by_name(config: Config) -> dict[str, Any]:
    """Return settings by their full names, such as data.root."""
    sections = dataclasses.asdict(config)
    preset = sections.pop("preset")
    named = {f"{section}.{name}": value for section, table in sections.items() for name, value in table.items()}
    return {"preset": preset, **named}


def _score_fold(model: TrainedModel, cases: Sequence[Case], run: Path, progress: Progress) -> None:
    """Predict the cases of a fold without and with their reports, and write what the summary needs of them."""
    settings = dataclasses.replace(model.config.data, missing_reports="allow")
    images = CaseDataset(cases, settings, num_classes=num_classes(model.config.model))
    device = next(model.network.parameters()).device
    data, precision = DeviceData(images, device), settled_precision(device, "auto")
    ways = [("none", model.network, False)]
    if settings.text != "none":
        ways.append(("right", model.network, True))
    if isinstance(model.network, TrustNetwork):
        ways.append(("right_trust_1", model.network.with_trust(1.0), True))
    found: dict[str, np.ndarray] = {}
    for step, (name, network, reports) in enumerate(ways):
        histogram = LogitHistogram()
        predictions = predict_on_device(network, data, batch_size=_BATCH, precision=precision, reports=reports)
        counts, maps = [], []
        for prediction, of_case in prefetch(_counted, predictions, workers=8, maximum=4 * _BATCH):
            counts.append(of_case)
            maps.append(np.rint(prediction.probability * 255).astype(np.uint8))
            histogram.add(prediction.original_probability, prediction.target)
            progress.advance(step * len(images) + len(counts), len(ways) * len(images))
        found |= {
            f"probabilities {name}": np.stack(maps), f"counts {name}": np.stack(counts),
            f"histogram {name}": histogram.counts,
        }  # fmt: skip
    names = json.dumps([case.id for case in cases])
    storage.write_bytes(run / OUT_OF_FOLD, to_safetensors(found, metadata={"ids": names}))


def _counted(prediction: CasePrediction) -> tuple[CasePrediction, np.ndarray]:
    """Return a prediction, and intersection, prediction and target at each threshold (T, 3)."""
    probability, target = prediction.original_probability, prediction.target
    found = (overlap(probability >= threshold, target) for threshold in THRESHOLDS)
    return prediction, np.array([(own.intersection, own.prediction, own.target) for own in found], np.int64)


@dataclass(frozen=True)
class _Report:
    """The out-of-fold scores of all cases with one kind of report."""

    counts: np.ndarray
    """(N, T, 3): intersection, prediction and target at each threshold."""
    histogram: LogitHistogram

    @functools.cached_property
    def dice(self) -> np.ndarray:
        """Return the Dice of each case at each threshold (N, T); 1 where both masks are empty."""
        inside, predicted, target = np.moveaxis(self.counts.astype(float), 2, 0)
        return np.divide(2 * inside, predicted + target, out=np.ones_like(inside), where=predicted + target > 0)


def _summarise(cases: Sequence[Case], folds: dict[str, int], folder: Path) -> dict[str, Any]:
    """Return the scores of all cases with intervals, the best threshold, temperature, and epochs; write cases.csv."""
    ids, reports = _collect(folder, sorted(set(folds.values())))
    by_id = {case.id: case for case in cases}
    bootstrap = Bootstrap([by_id[name].group for name in ids])
    found: dict[str, Any] = {}
    for name, report in reports.items():
        inside, predicted, target = np.moveaxis(report.counts[:, _HALF].astype(float), 1, 0)
        (mean,) = bootstrap.means(report.dice[:, _HALF])
        by_threshold = report.dice.mean(0)
        oracle = report.dice.max(1).mean()
        found[name] = {
            "dice_per_image": mean.as_dict(),
            "dice_pooled": bootstrap.ratios(2 * inside, predicted + target)[0].as_dict(),
            "dice_by_threshold": dict(zip(map(str, THRESHOLDS), by_threshold.tolist(), strict=True)),
            "best_threshold": THRESHOLDS[int(by_threshold.argmax())],
            "dice_at_the_best_threshold_of_each_image": float(oracle),
            **_temperature(report.histogram),
        }  # fmt: skip
    rows = []
    for index, name in enumerate(ids):
        scores = (f"{report.dice[index, _HALF]:.6f}" for report in reports.values())
        rows.append([name, folds[name], by_id[name].group or "", *scores])
    write_cells(folder / "cases.csv", [["id", "fold", "group", *(f"dice_{name}" for name in reports)], *rows])
    return {
        "num_cases": len(ids), "num_folds": len(set(folds.values())), "intervals": bootstrap.unit, "reports": found,
        "epochs": _by_epoch(folder, sorted(set(folds.values()))),
    }  # fmt: skip


def _temperature(histogram: LogitHistogram) -> dict[str, Any]:
    """Return temperature and offset, or why none can be fitted."""
    try:
        scaling = histogram.fit()
    except ValueError as error:
        return {"temperature": None, "offset": None, "why_no_temperature": str(error)}
    return {"temperature": scaling.temperature, "offset": scaling.offset}


def _collect(folder: Path, numbers: Sequence[int]) -> tuple[list[str], dict[str, _Report]]:
    """Return the ids of all cases and their out-of-fold scores, fold after fold."""
    ids: list[str] = []
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for path in (folder / f"fold-{number}" / OUT_OF_FOLD for number in numbers):
        own_ids, tensors = read_out_of_fold(path)
        ids += own_ids
        for key in (name for name in tensors if name.startswith("counts ")):
            name = key.removeprefix("counts ")
            parts.setdefault(name, []).append((tensors[key], tensors[f"histogram {name}"]))
    found = {}
    for name in sorted(parts):
        histogram = LogitHistogram()
        histogram.counts = np.sum([counts for _, counts in parts[name]], axis=0)
        found[name] = _Report(np.concatenate([counts for counts, _ in parts[name]]), histogram)
    return ids, found


def read_out_of_fold(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the ids of a fold and its arrays: "probabilities REPORT" (N, S, S) uint8, "counts REPORT", "histogram …".

    Raises `ValueError` for a damaged file.
    """
    data = path.read_bytes()
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return json.loads(header["__metadata__"]["ids"]), load(data)
    except Exception as error:  # whatever it is, the file is not what was written
        raise ValueError(f"{path} is damaged ({error}); delete it, and the command scores the fold again") from error


def _by_epoch(folder: Path, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Return the mean of the validation scores of all folds, for the epochs that all of them have scored."""
    logs = []
    for number in numbers:
        logs.append({line["epoch"]: line for line in read_log(folder / f"fold-{number}")})
    found = []
    for epoch in sorted(set.intersection(*(set(log) for log in logs))):
        lines_of_epoch = [log[epoch] for log in logs]
        names = [name for name in lines_of_epoch[0] if name.startswith("val_dice")]
        means = {name: float(np.mean([line[name] for line in lines_of_epoch if name in line])) for name in names}
        found.append({"epoch": epoch, **means})
    return found
