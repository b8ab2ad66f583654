"""Several systems in one table: scores with intervals, paired differences, parameters, operations, speed and memory.

Scores are those of the original resolution by the corrected protocol, per image and pooled. An evaluation of the same
weights on the same images with the same reports is used again; scores on other images do not enter one table. A system
is a model or several seeds of one, whose scores are averaged case by case before anything is compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from c2fvl.checkpoints.model_files import ModelFiles
from c2fvl.checkpoints.small_files import read_metrics
from c2fvl.checkpoints.trained_model import load_model
from c2fvl.config import Config
from c2fvl.data.part import Part
from c2fvl.data.perturbations import SEEDED, text_given
from c2fvl.data.scan import fingerprint
from c2fvl.evaluation.compare.paired import PairedDifference, all_differences, check_same_cases, estimates
from c2fvl.evaluation.compare.systems import System, distinct_labels, read_system
from c2fvl.evaluation.evaluate import OWN_TABLE, evaluate
from c2fvl.evaluation.evaluation_folder import CaseTable, EvaluationFolder
from c2fvl.evaluation.summary import Summary
from c2fvl.inference.compute import Compute
from c2fvl.inference.cost import build_empty, stages
from c2fvl.inference.speed import Conditions, Speed, measure_speed
from c2fvl.metrics.intervals import Bootstrap
from c2fvl.progress import SILENT, Progress

SPEED_BATCH = 8
"""Images at once where speed is measured and no number is given."""
SCORES = {
    "dice_per_image": "Dice per image",
    "iou_per_image": "IoU per image",
    "dice_pooled": "Dice pooled",
    "iou_pooled": "IoU pooled",
}
COSTS = {"parameters": "parameters, M", "gflops": "GFLOP per image"}
SPEEDS = {"images_per_second": "images/s", "peak_memory": "peak memory, MiB"}
LOWER_IS_BETTER = {*COSTS, "peak_memory"}


@dataclass(frozen=True)
class Entry:
    """One system of the table."""

    label: str
    model: str
    """Name of the network."""
    paths: tuple[Path, ...]
    """Of its models, one for each seed; of its evaluations where the models are gone."""
    text: str
    """The reports it was given, in words."""
    values: dict[str, float | None]
    """By the keys of `SCORES`, `COSTS` and `SPEEDS`; None where it was not asked for or is not known."""
    evaluations: tuple[Path, ...] = ()
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By the keys of `SCORES`, 95 % confidence intervals; without those that cannot be computed."""


@dataclass(frozen=True)
class Comparison:
    """The table and what belongs to it."""

    entries: tuple[Entry, ...]
    caption: str
    columns: dict[str, str]
    """Key and heading of the columns that hold something."""
    differences: tuple[PairedDifference, ...] = ()
    """Of every two systems."""
    statistics: str = ""
    """How intervals and tests are made, in words."""

    def best(self, column: str) -> set[int]:
        """Return the rows that hold the best value of a column; none where there is only one row."""
        values = [entry.values.get(column) for entry in self.entries]
        known = [value for value in values if value is not None]
        if len(known) < 2:
            return set()
        shown = [None if value is None else show(column, value) for value in values]
        aim = show(column, (min if column in LOWER_IS_BETTER else max)(known))
        return {row for row, value in enumerate(shown) if value == aim}


@dataclass(frozen=True)
class _Seed:
    """The evaluation of one seed of a system."""

    path: Path
    summary: Summary
    cases: CaseTable

    @classmethod
    def read(cls, folder: EvaluationFolder) -> "_Seed":
        """Read an evaluation."""
        return cls(folder.path, folder.read_summary(), folder.read_cases())

    def check(self) -> None:
        """Raise `ValueError` where the means of the table are not those of the summary."""
        for name, values in self.cases.scores.items():
            mean = getattr(self.summary.scores[0], f"{name}_per_image")
            if abs(float(values.mean()) - mean) > 1e-6:
                raise ValueError(
                    f"{self.cases.path} has a mean {name} of {values.mean():.6f}, and the summary beside it says "
                    f"{mean:.6f}: one of the two was changed; score the model again"
                )


def compare(
    models: Sequence[Path | str],
    part: Part | None = None,
    compute: Compute = Compute(batch_size=SPEED_BATCH),
    *,
    text_model: str | None = None,
    speed: bool = True,
    fresh: bool = False,
    progress: Progress = SILENT,
) -> Comparison:
    """Return the table of systems (`read_system`), scored on `part`; without one, of their costs alone.

    Evaluations are written beside each model, as `c2fvl evaluate` does; one of the same weights, images and reports is
    used again unless `fresh`. Folders of evaluations are taken as they are. Raises, before anything long begins,
    `FileNotFoundError` and `ValueError` for folders that hold no model, and `ValueError` where two evaluations are not
    of the same images, saying which differ.
    """
    if not models:
        raise ValueError("there is nothing to compare; name run folders or model folders")
    systems = [read_system(entry) for entry in models]
    labels = distinct_labels(systems)
    to_score = set() if part is None else _folders_to_score(systems, part, fresh=fresh)
    evaluated: dict[str, list[_Seed]] = {}
    for label, system in zip(labels, systems, strict=True):
        if system.is_evaluation:
            folders = [EvaluationFolder(path) for path in system.folders]
        elif part is None:
            continue
        else:
            folders = [
                _evaluated(folder, part, compute, to_score, text_model=text_model, label=label, progress=progress)
                for folder in system.folders
            ]  # fmt: skip
        evaluated[label] = [_Seed.read(folder) for folder in folders]
    _check_comparable(evaluated)
    tables = {label: [seed.cases for seed in seeds] for label, seeds in evaluated.items()}
    bootstrap = Bootstrap(next(iter(tables.values()))[0].groups) if tables else None

    entries = []
    speeds: list[Speed] = []
    for label, system in zip(labels, systems, strict=True):
        measured = None
        if speed and system.settings:
            progress.stage(f"measuring {label}")
            conditions = Conditions(compute.device, batch_size=compute.batch_size or SPEED_BATCH)
            measured = measure_speed(system.settings[0], conditions)
            speeds.append(measured)
        text = part.text if part else "right"
        entries.append(_entry(label, system, evaluated.get(label, []), bootstrap=bootstrap, speed=measured, text=text))
    differences = all_differences(tables, bootstrap) if bootstrap is not None and len(tables) > 1 else []
    return Comparison(
        tuple(entries),
        _caption([seed.summary for seeds in evaluated.values() for seed in seeds], speeds),
        {**(SCORES if tables else {}), **COSTS, **(SPEEDS if speeds else {})},
        tuple(differences),
        _statistics(bootstrap, len(differences)) if bootstrap is not None else "",
    )


def _entry(
    label: str, system: System, seeds: Sequence[_Seed], *, bootstrap: Bootstrap | None, speed: Speed | None, text: str
) -> Entry:
    values: dict[str, float | None] = {}
    intervals = {}
    if bootstrap is not None and seeds:
        for name in SCORES:
            values[name] = 100 * float(np.mean([getattr(seed.summary.scores[0], name) for seed in seeds]))
        for name, found in estimates([seed.cases for seed in seeds], bootstrap).items():
            if found.low is not None and found.high is not None:
                intervals[name] = (100 * found.low, 100 * found.high)
    if system.settings:
        whole = stages(*build_empty(system.settings[0]))[-1]
        values |= {"parameters": whole.parameters / 1e6, "gflops": whole.flops / 1e9}
    if speed is not None:
        values |= {name: getattr(speed, name) for name in SPEEDS}
    reports = seeds[0].summary.text.given if seeds else text_given(text, system.settings[0].data.text, 1, 1)
    model = system.settings[0].model.name if system.settings else seeds[0].summary.model.name
    shown = label if len(system.folders) == 1 else f"{label}, {len(system.folders)} seeds"
    return Entry(shown, model, system.folders, reports, values, tuple(seed.path for seed in seeds), intervals)


def _folders_to_score(systems: Sequence[System], part: Part, *, fresh: bool) -> set[Path]:
    """Return the model folders without a usable evaluation, after a check that all of them can be written."""
    to_score = set()
    for system in systems:
        for model_folder, config in () if system.is_evaluation else zip(system.folders, system.settings, strict=True):
            folder = EvaluationFolder.of_model(model_folder, part)
            if fresh or not _is_of(folder, model_folder, config, part):
                folder.check()
                to_score.add(model_folder)
    return to_score


def _evaluated(
    model_folder: Path,
    part: Part,
    compute: Compute,
    to_score: set[Path],
    *,
    text_model: str | None,
    label: str,
    progress: Progress,
) -> EvaluationFolder:
    """Return the evaluation of a model on a part, made now if the model is one of those `to_score`."""
    folder = EvaluationFolder.of_model(model_folder, part)
    if model_folder not in to_score:
        return folder
    to_score.remove(model_folder)  # it may be named again
    progress.stage(f"scoring {label}")
    model = load_model(model_folder, device=compute.device)
    if text_model is not None and model.config.data.text == "sentence":
        model = model.with_text_model(text_model)
    evaluate(model, part, compute, out=folder.path, progress=progress)
    return folder


def _is_of(folder: EvaluationFolder, model_folder: Path, config: Config, part: Part) -> bool:
    """Tell whether an evaluation is there that is of these weights, images and reports."""
    cases = part.cases(config.data.table)
    if not folder.exists:
        return False
    try:
        summary = folder.read_summary()
    except ValueError:
        return False
    data, weights = summary.data, summary.model.weights_sha256
    return (
        Path(data.root).resolve() == Path(part.root).resolve()
        and data.caption_table == (part.captions(config.data.table) or OWN_TABLE)
        and data.fingerprint == fingerprint(cases)
        and summary.text.seed == (part.seed if part.text in SEEDED else None)
        and weights is not None
        and weights == (read_metrics(ModelFiles(model_folder)) or {}).get("weights_sha256")
    )


def _check_comparable(evaluated: dict[str, list[_Seed]]) -> None:
    """Raise `ValueError` where scores are of other images or masks, or were changed."""
    seeds = [
        (label if len(group) == 1 else f"{label} ({seed.path})", seed)
        for label, group in evaluated.items()
        for seed in group
    ]
    if not seeds:
        return
    check_same_cases([name for name, _ in seeds], [seed.cases for _, seed in seeds])
    first_name, first = seeds[0]
    for name, seed in seeds:
        if seed.summary.data.masks != first.summary.data.masks:
            raise ValueError(
                f"{first_name} and {name} were scored on images of the same names, but on other masks; score them "
                "again on the same data (--root DATA --fresh)"
            )
    for _, seed in seeds:
        seed.check()


def _caption(summaries: Sequence[Summary], speeds: Sequence[Speed]) -> str:
    parts = []
    if summaries:
        data = summaries[0].data
        parts.append(
            f"Scores in % on the {data.split} split of {Path(data.root).name}, {data.num_cases} images, at the "
            "original resolution by the corrected protocol."
        )
    parts.append("GFLOP: 2 for each multiplication with its addition, one image at the network's size.")
    if speeds:
        speed = speeds[0]
        parts.append(
            f"Speed and memory of the inference model alone on this machine ({speed.device}, {speed.threads} threads, "
            f"batches of {speed.batch_size}, float32): for comparison within this table only."
        )
    return " ".join(parts)


def _statistics(bootstrap: Bootstrap, num_pairs: int) -> str:
    words = f"95 % confidence intervals by bootstrap: {bootstrap.unit}."
    if num_pairs:
        words += (
            " Differences A − B are paired, image by image; p values, of Dice, by sign permutation of the groups and "
            "by Wilcoxon's signed ranks of their means"
        )
        words += f", corrected for {num_pairs} pairs (Holm)." if num_pairs > 1 else "."
    return words


def show(column: str, value: float | None) -> str:
    """Return a value with the digits that matter."""
    if value is None:
        return "–"
    return f"{value:.2f}" if column in SCORES or value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"
