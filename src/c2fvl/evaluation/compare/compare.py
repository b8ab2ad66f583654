"""Several systems in one table: scores with intervals, paired differences, parameters, operations, speed and memory.

Scores are those of the film's own grid by the corrected rule, per image and pooled. An evaluation of the same weights
on the same films with the same reports is used again; what was scored on other films does not enter one table. A system
is a model or several seeds of one, whose scores are averaged film by film before anything is compared.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from c2fvl.checkpoints.folders import find_model, parse_settings
from c2fvl.checkpoints.small_files import read_metrics
from c2fvl.checkpoints.trained_model import load_model
from c2fvl.config import Config
from c2fvl.data.part import Part
from c2fvl.data.perturbations import SEEDED, text_given
from c2fvl.data.scan import fingerprint
from c2fvl.evaluation.compare.paired import (
    CaseTable,
    PairedDifference,
    all_differences,
    check_same_cases,
    estimates,
    read_case_table,
)
from c2fvl.evaluation.evaluate import OWN_TABLE, default_folder, evaluate
from c2fvl.inference.compute import Compute
from c2fvl.inference.cost import Conditions, Speed, Stage, build_empty, measure_speed, stages
from c2fvl.metrics.intervals import Bootstrap
from c2fvl.progress import SILENT, Progress

logger = logging.getLogger(__name__)

SPEED_BATCH = 8
"""Films at once where speed is measured and no number is given."""

SCORES = {
    "dice_per_image": "Dice per image",
    "iou_per_image": "IoU per image",
    "dice_pooled": "Dice pooled",
    "iou_pooled": "IoU pooled",
}
COSTS = {"parameters": "parameters, M", "gflops": "GFLOP per film"}
SPEEDS = {"images_per_second": "films/s", "peak_memory": "peak memory, MiB"}
LOWER_IS_BETTER = {*COSTS, "peak_memory"}


@dataclass(frozen=True)
class Entry:
    """One system of the table."""

    label: str
    model: str
    """Name of the network."""
    paths: tuple[Path, ...]
    """Of its models, one for each seed; of its evaluation where the model is not at hand."""
    text: str
    """The reports it was given, in words."""
    values: dict[str, float | None]
    """By the keys of `SCORES`, `COSTS` and `SPEEDS`; None where it was not asked for or is not known."""
    evaluations: tuple[Path, ...] = ()
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By the keys of `SCORES`, 95 %; none of those that cannot be told."""


@dataclass(frozen=True)
class Comparison:
    """The table and what it says of."""

    entries: tuple[Entry, ...]
    caption: str
    columns: dict[str, str]
    """Key → heading, of the columns that hold something."""
    differences: tuple[PairedDifference, ...] = ()
    """Of every two systems."""
    statistics: str = ""
    """What intervals and tests are, in words."""

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
class System:
    """What the user named: a label, and a folder for each seed."""

    label: str | None
    folders: tuple[Path, ...]
    """Model folders, or folders of evaluations whose model need not be at hand."""
    settings: tuple[Config, ...]
    """Of the models; empty for evaluations."""

    @property
    def is_evaluation(self) -> bool:
        """Tell whether the folders hold evaluations."""
        return not self.settings

    @property
    def short(self) -> str:
        """Return the name that the network goes by."""
        if self.settings:
            return self.settings[0].preset or self.settings[0].model.name
        model = _summary(self.folders[0])["model"]
        return str(model["preset"] or model["name"])


def read_system(text: Path | str) -> System:
    """Return the system that `LABEL=FOLDER,FOLDER,…`, or a folder alone, names.

    Raises `FileNotFoundError` for folders that hold neither a model nor an evaluation, `ValueError` for damaged ones
    and for seeds of different networks.
    """
    label, parts = None, [str(text)]
    if not Path(text).exists():
        before, mark, after = str(text).rpartition("=")
        label, parts = (before if mark else None), (after if mark else str(text)).split(",")
        if label == "":
            raise ValueError(f"{text!r} has no label before its =; write LABEL=RUN,RUN")
    if not all(parts) or len({Path(part).resolve() for part in parts}) < len(parts):
        raise ValueError(f"{text!r} names a folder twice or none at all; write LABEL=RUN,RUN, each seed once")
    if all(_is_evaluation(Path(part)) for part in parts):
        evaluations = tuple(Path(part) for part in parts)
        _check_alike(evaluations)
        return System(label, evaluations, ())
    for part in map(Path, parts):
        if (part / "summary.json").is_file() and not _is_evaluation(part):
            raise FileNotFoundError(f"{part} holds a summary.json but no cases.csv; score the model again")
    folders = tuple(find_model(part) for part in parts)
    settings = tuple(parse_settings(folder) for folder in folders)
    for folder, config in zip(folders, settings, strict=True):
        if config.model != settings[0].model:
            raise ValueError(
                f"{folder} is another network than {folders[0]}; only seeds of one network are averaged, so name them "
                "as systems of their own"
            )
    return System(label, folders, settings)


def _check_alike(evaluations: Sequence[Path]) -> None:
    """Raise `ValueError` unless all are of one network and of one kind of reports."""
    first, *others = (_summary(folder) for folder in evaluations)
    for folder, other in zip(evaluations[1:], others, strict=True):
        for part, key, what in (("model", "name", "network"), ("text", "kind", "kind of reports")):
            if other[part][key] != first[part][key]:
                raise ValueError(
                    f"{folder} is of another {what} ({other[part][key]}) than {evaluations[0]} ({first[part][key]}); "
                    "only seeds of one network are averaged, so name them as systems of their own"
                )


def _is_evaluation(folder: Path) -> bool:
    return (folder / "cases.csv").is_file() and (folder / "summary.json").is_file()


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}; score the model again") from error
    if not {"model", "data", "text", "scores"} <= found.keys():
        raise ValueError(f"{path} is not of an evaluation; score the model again with `c2fvl evaluate`")
    return found


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

    Evaluations are written beside each model, as `c2fvl evaluate` does; one of the same weights, films and reports is
    used again unless `fresh`. Folders of evaluations are taken as they are. Raises, before anything long begins,
    `FileNotFoundError` and `ValueError` for folders that hold no model, and `ValueError` where two evaluations are not
    of the same films, saying which differ.
    """
    if not models:
        raise ValueError("there is nothing to compare; name run folders or model folders")
    systems = [read_system(entry) for entry in models]
    labels = _labels(systems)
    scored: list[list[tuple[Path, dict[str, Any]]]] = []
    for label, system in zip(labels, systems, strict=True):
        if system.is_evaluation:
            scored.append([(folder, _summary(folder)) for folder in system.folders])
        elif part is None:
            scored.append([])
        else:
            scored.append([
                _evaluation(folder, config, part, compute, text_model=text_model, fresh=fresh, label=label,
                            progress=progress)
                for folder, config in zip(system.folders, system.settings, strict=True)
            ])  # fmt: skip
    tables = [[read_case_table(place) for place, _ in own] for own in scored]
    _check_tables(labels, tables)
    _check_masks(labels, scored)
    for own, seeds in zip(scored, tables, strict=True):
        for (_, summary), cases in zip(own, seeds, strict=True):
            _check_summary(summary, cases)
    with_scores = [own for own in tables if own]
    bootstrap = Bootstrap(with_scores[0][0].groups) if with_scores else None

    entries = []
    speeds: list[Speed] = []
    for label, system, own, seeds in zip(labels, systems, scored, tables, strict=True):
        measured = None
        if speed and system.settings:
            progress.stage(f"measuring {label}")
            conditions = Conditions(compute.device, batch_size=compute.batch_size or SPEED_BATCH)
            measured = measure_speed(system.settings[0], conditions)
            speeds.append(measured)
        entries.append(
            _entry(label, system, own, seeds, bootstrap=bootstrap, speed=measured, text=part.text if part else "right")
        )
    columns = {**(SCORES if with_scores else {}), **COSTS, **(SPEEDS if speeds else {})}
    pairs = {label: seeds for label, seeds in zip(labels, tables, strict=True) if seeds}
    apart = all_differences(pairs, bootstrap) if bootstrap is not None and len(pairs) > 1 else []
    return Comparison(
        tuple(entries), _caption([summary for own in scored for _, summary in own], speeds), columns, tuple(apart),
        _statistics(bootstrap, len(apart)) if bootstrap is not None else "",
    )  # fmt: skip


def _entry(
    label: str,
    system: System,
    scored: Sequence[tuple[Path, dict[str, Any]]],
    seeds: Sequence[CaseTable],
    *,
    bootstrap: Bootstrap | None,
    speed: Speed | None,
    text: str,
) -> Entry:
    values: dict[str, float | None] = {}
    intervals = {}
    if bootstrap is not None and seeds:
        for name in SCORES:
            values[name] = 100 * float(np.mean([summary["scores"][0][name] for _, summary in scored]))
        for name, found in estimates(seeds, bootstrap).items():
            if found.low is not None and found.high is not None:
                intervals[name] = (100 * found.low, 100 * found.high)
    if system.settings:
        whole = _whole(system.settings[0])
        values |= {"parameters": whole.parameters / 1e6, "gflops": whole.flops / 1e9}
    if speed is not None:
        values |= {name: getattr(speed, name) for name in SPEEDS}
    reports = scored[0][1]["text"]["given"] if scored else text_given(text, system.settings[0].data.text, 1, 1)
    model = system.settings[0].model.name if system.settings else scored[0][1]["model"]["name"]
    shown = label if len(system.folders) == 1 else f"{label}, {len(system.folders)} seeds"
    return Entry(shown, model, system.folders, reports, values, tuple(place for place, _ in scored), intervals)


def _evaluation(
    folder: Path,
    config: Config,
    part: Part,
    compute: Compute,
    *,
    text_model: str | None,
    fresh: bool,
    label: str,
    progress: Progress,
) -> tuple[Path, dict[str, Any]]:
    """Return where the scores of a model lie and their summary, made now unless they are there."""
    place = default_folder(folder, part)
    wanted = {
        "root": str(part.root), "table": part.captions(config.data.table) or OWN_TABLE,
        "fingerprint": fingerprint(part.cases(config.data.table)),
        "seed": part.seed if part.text in SEEDED else None,
    }  # fmt: skip
    found = None if fresh else _earlier(place, folder, wanted)
    if found is None:
        progress.stage(f"scoring {label}")
        model = load_model(folder, device=compute.device)
        if text_model is not None and model.config.data.text == "sentence":
            model = model.with_text_model(text_model)
        found = evaluate(model, part, compute, out=place, progress=progress).summary
    return place, found


def _check_tables(labels: Sequence[str], tables: Sequence[Sequence[CaseTable]]) -> None:
    """Raise `ValueError` where scores are of other films; labels are told apart by their seeds' folders."""
    named = [
        (label if len(seeds) == 1 else f"{label} ({own.path.parent})", own)
        for label, seeds in zip(labels, tables, strict=True)
        for own in seeds
    ]
    if named:
        check_same_cases([label for label, _ in named], [own for _, own in named])


def _check_summary(summary: dict[str, Any], cases: CaseTable) -> None:
    """Raise `ValueError` where the mean of a table is not what its summary says."""
    for name, values in cases.scores.items():
        told = summary["scores"][0][f"{name}_per_image"]
        if abs(float(values.mean()) - told) > 1e-6:
            raise ValueError(
                f"{cases.path} has a mean {name} of {values.mean():.6f} and the summary beside it says {told:.6f}: "
                "one of the two was changed; score the model again"
            )


def _check_masks(labels: Sequence[str], scored: Sequence[Sequence[tuple[Path, dict[str, Any]]]]) -> None:
    """Raise `ValueError` where films of the same names were scored against other masks."""
    seen = [
        (label, summary["data"].get("masks")) for label, own in zip(labels, scored, strict=True) for _, summary in own
    ]
    for label, masks in seen:
        if masks != seen[0][1]:
            raise ValueError(
                f"{seen[0][0]} and {label} were scored on films of the same names, but on other masks; score them "
                "again on the same data (--root DATA --fresh)"
            )


def _labels(systems: Sequence[System]) -> list[str]:
    """Return a name for each: the one given, or its preset or network, made distinct by folder names where alike."""
    short = [system.label or system.short for system in systems]
    first = [system.folders[0] for system in systems]
    names = [folder.parent.name if folder.name == "best" else folder.name for folder in first]
    labels = [
        label if short.count(label) == 1 else f"{label} ({name})" for label, name in zip(short, names, strict=True)
    ]
    labels = [label if labels.count(label) == 1 else f"{short[row]} ({first[row]})" for row, label in enumerate(labels)]
    return [label if labels.count(label) == 1 else f"{label}, row {row}" for row, label in enumerate(labels, start=1)]


def _whole(config: Config) -> Stage:
    """Return the network's parameters and operations."""
    network, inputs = build_empty(config)
    return stages(network, inputs)[-1]


def _earlier(place: Path, folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Return the summary that an earlier evaluation left, if it is of these weights, films and reports."""
    try:
        summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
        data, weights = summary["data"], summary["model"]["weights_sha256"]
        fits = (
            Path(data["root"]).resolve() == Path(wanted["root"]).resolve()
            and data["caption_table"] == wanted["table"]
            and data["fingerprint"] == wanted["fingerprint"]
            and summary["text"]["seed"] == wanted["seed"]
            and weights is not None
            and weights == read_metrics(folder).get("weights_sha256")
            and "figures" in summary
            and (place / "cases.csv").is_file()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return summary if fits else None


def _caption(summaries: Sequence[dict[str, Any]], speeds: Sequence[Speed]) -> str:
    parts = []
    if summaries:
        data = summaries[0]["data"]
        parts.append(
            f"Scores in % on the {data['split']} part of {Path(data['root']).name}, {data['num_cases']} films, on the "
            "film's own grid by the corrected rule."
        )
    parts.append("GFLOP: 2 for each multiplication with its addition, one film at the network's size.")
    if speeds:
        speed = speeds[0]
        parts.append(
            f"Speed and memory of the inference form alone on this machine ({speed.device}, {speed.threads} threads, "
            f"batches of {speed.batch_size}, float32): for comparison within this table only."
        )
    return " ".join(parts)


def _statistics(bootstrap: Bootstrap, num_pairs: int) -> str:
    words = f"In brackets 95 % intervals by bootstrap: {bootstrap.unit}."
    if num_pairs:
        words += (
            " Differences are paired, film by film; p values, of Dice, by sign permutation of the groups and by "
            "Wilcoxon's signed ranks of their means"
        )
        words += f", corrected for {num_pairs} pairs (Holm)." if num_pairs > 1 else "."
    return words


def show(column: str, value: float | None) -> str:
    """Return a value with as many digits as mean something."""
    if value is None:
        return "–"
    return f"{value:.2f}" if column in SCORES or value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"
