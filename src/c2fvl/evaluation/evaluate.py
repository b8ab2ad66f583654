"""Score a trained network on a data set: a table of cases, a summary, pictures and one page to read them in."""

import base64
import functools
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from c2fvl.checkpoints.folders import name_of
from c2fvl.checkpoints.provenance import provenance
from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.config_files import to_toml
from c2fvl.data.cases import Case
from c2fvl.data.classes import class_names
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.part import Part
from c2fvl.data.perturbations import SEEDED, text_given
from c2fvl.data.pictures import case_panel, encode_png
from c2fvl.data.prefetch import prefetch
from c2fvl.data.scan import fingerprint, mask_fingerprint
from c2fvl.evaluation.pages.page import render
from c2fvl.evaluation.summary import Scores, as_columns, figures
from c2fvl.files import storage
from c2fvl.files.images import read_image, read_spacing
from c2fvl.files.tables import printable, write_cells
from c2fvl.inference.cases import (
    ORIGINAL,
    SCORINGS,
    CasePrediction,
    CaseScore,
    dataset_of,
    predict_cases,
    score_prediction,
)
from c2fvl.inference.compute import Compute
from c2fvl.inference.masks import THRESHOLD, to_labels, to_original
from c2fvl.inference.torch_engine import for_inference
from c2fvl.metrics.calibration import CaseCalibration, of_case, summarise
from c2fvl.metrics.case_scores import TOLERANCES, score_case
from c2fvl.metrics.findings import summarise_findings
from c2fvl.metrics.overlap import dice, iou, summarise_classes
from c2fvl.models.registry import num_classes
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.findings import DEFAULT_TRUST
from c2fvl.reports.predicted_findings import PredictedFindings

logger = logging.getLogger(__name__)

NUM_PICTURES = 4
OWN_TABLE = "the split's own"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation wrote and found."""

    folder: Path
    page: Path
    summary: dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """The scores of one part of a data set, before anything is written."""

    model: TrainedModel
    cases: list[Case]
    dataset: CaseDataset
    scores: list[CaseScore]
    columns: Scores
    """Every score of `metrics.score_case` by case."""
    summary: dict[str, Any]


def evaluate(
    model: TrainedModel,
    part: Part,
    compute: Compute = Compute(),
    *,
    out: Path | str | None = None,
    spacing: tuple[float, float] | None = None,
    tolerances: Sequence[float] = TOLERANCES,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score `model` on a part and write `cases.csv`, `summary.json`, `report.html` and `pictures/` to `out`.

    The reports of QaTa-COV19 and MosMedData+ were made from the masks: an image with its own one has an oracle's help.
    `spacing` is the distance of rows and of columns in mm; None takes it from the files, or
    pixels where one of them does not tell it. Raises `ValueError` for data that does not fit.
    """
    folder = storage.check_folder(out if out is not None else default_folder(model.path, part), what="scores")
    scored = score_part(model, part, compute, spacing=spacing, tolerances=tolerances, progress=progress)
    return write_evaluation(scored, folder)


def score_part(
    model: TrainedModel,
    part: Part,
    compute: Compute = Compute(),
    *,
    spacing: tuple[float, float] | None = None,
    tolerances: Sequence[float] = TOLERANCES,
    progress: Progress = SILENT,
) -> Scored:
    """Score a model on one split as `evaluate` does, and write nothing."""
    began = time.monotonic()
    config = model.config
    images = dataset_of(model, part)
    cases = images.cases
    num_reports = images.num_readable
    if part.text != "none" and config.data.text != "none" and num_reports < len(cases):
        logger.warning("%d of %d films have no report that the network can read", len(cases) - num_reports, len(cases))
    spacings, unit = _spacings(cases, spacing)

    scores: list[CaseScore] = []
    network, compute = for_inference(model, compute)
    found = predict_cases(network, images, compute)

    measured: list[CaseCalibration] = []
    readings: list[PredictedFindings] = []

    def score(prediction: CasePrediction) -> tuple[CaseScore, CaseCalibration | None, PredictedFindings | None]:
        details = functools.partial(score_case, spacing=spacings[prediction.index], tolerances=tolerances)
        reading = PredictedFindings.from_logits(prediction.logits, None) if prediction.logits else None
        return score_prediction(prediction, details=details), _calibration_of(prediction, model), reading

    for own, trust, reading in prefetch(score, found, maximum=2 * (compute.batch_size or 1)):
        scores.append(own)
        measured += [] if trust is None else [trust]
        readings += [] if reading is None else [reading]
        progress.advance(len(scores), len(images))

    columns = as_columns([own.details for own in scores])
    if measured:
        columns["estimated_dice"] = np.array([trust.confidence for trust in measured])
    summary = {
        "model": {"name": config.model.name, "preset": config.preset, "path": str(model.path), **_trained(model)},
        "data": {
            "root": str(part.root), "split": part.split,
            "caption_table": part.captions(config.data.table) or OWN_TABLE,
            "fingerprint": fingerprint(cases), "masks": mask_fingerprint(cases),
            "num_cases": len(cases), "num_groups": len({case.group for case in cases if case.group}) or None,
            "num_without_report": len(cases) - num_reports,
        },
        "text": {
            "kind": part.text, "given": text_given(part.text, config.data.text, num_reports, len(cases)),
            "seed": part.seed if part.text in SEEDED else None,
            "trust": config.model.arguments.get("trust", DEFAULT_TRUST) if config.data.text == "findings" else None,
        },
        "threshold": THRESHOLD,
        "unit": unit,
        "class_names": class_names(config.data, num_classes(config.model)),
        "scores": [
            {
                "resolution": scoring[0], "protocol": scoring[1],
                **summarise_classes([[own[scoring] for own in score.classes] for score in scores], protocol=scoring[1]),
            }
            for scoring in SCORINGS
        ],
        "figures": figures(cases, columns, [[own[ORIGINAL] for own in score.classes] for score in scores]),
        "calibration": summarise(measured, calibration=model.calibration) if measured else None,
        "reading": (
            summarise_findings(readings, [case.report for case in cases]) if readings and part.text == "right" else None
        ),
        "settings": to_toml(config),
        "loss_curves": "log.jsonl" if history_of(model) else None,
        "software": provenance(torch.device(compute.device)),
        "seconds": round(time.monotonic() - began, 2),
    }  # fmt: skip
    return Scored(model, cases, images, scores, columns, summary)


def write_evaluation(scored: Scored, folder: Path) -> Evaluation:
    """Write table, pictures, page and summary of what was scored; an older audit of the folder goes."""
    if "audit" not in scored.summary:
        storage.remove_file(folder / "audit.csv")
    cases, scores, summary = scored.cases, scored.scores, scored.summary
    write_cells(folder / "cases.csv", _case_table(scored))
    chosen = _choose(
        [_mean_dice(score) for score in scores],
        [all(own[ORIGINAL].target == 0 for own in score.classes) for score in scores],
    )
    pictures = [
        {
            "title": title,
            "films": _draw(
                scored.model, [cases[i] for i in indices], scored.dataset, folder / "pictures", title.lower()
            ),
        }
        for title, indices in chosen.items()
    ]
    page = folder / "report.html"
    storage.write_text(page, render(summary, scored.columns, pictures=pictures, history=history_of(scored.model)))
    storage.write_json(folder / "summary.json", summary)
    return Evaluation(folder, page, summary)


def _calibration_of(prediction: CasePrediction, model: TrainedModel) -> CaseCalibration | None:
    """Return what a film tells of the probabilities that a user is given; None for several classes."""
    mask = prediction.original_mask
    if prediction.probability.ndim != 2 or mask is None:
        return None
    raw = to_original(prediction.probability, mask.shape)
    return of_case(model.scaling.apply(raw), mask, to_labels(raw))


def _spacings(
    cases: Sequence[Case], given: tuple[float, float] | None
) -> tuple[list[tuple[float, float]], dict[str, Any]]:
    """Return each film's distance of rows and columns, and in words which unit it is and where it is from."""
    if given is not None:
        return [given] * len(cases), {"length": "mm", "from": f"given: {given[0]:g} × {given[1]:g} mm"}
    found = [read_spacing(case.image) for case in cases]
    known = [spacing for spacing in found if spacing is not None]
    if len(known) == len(cases):
        return known, {"length": "mm", "from": "the files"}
    told = f"the files ({len(known)} of {len(cases)} tell a distance in mm, which is not enough for one unit)"
    return [(1.0, 1.0)] * len(cases), {"length": "pixel", "from": told if known else "the files tell no other"}


def _case_table(scored: Scored) -> list[list[object]]:
    """Return a row for each case; of several classes the mean of their scores, and then each of them."""
    further = [name for name in scored.columns if name not in ("dice", "iou")]
    count = len(scored.scores[0].classes)
    endings = [f"_class_{number}" for number in range(1, count + 1)] if count > 1 else []
    header: list[object] = ["id", "group", "report"]
    for resolution, protocol in SCORINGS:
        header += [f"{resolution}_{protocol}_dice", f"{resolution}_{protocol}_iou"]
    counted = ("intersection", "prediction", "target")
    header += [f"original_{name}{ending}" for ending in endings or [""] for name in counted]
    header += further
    for ending in endings:
        header += [
            f"original_corrected_dice{ending}",
            f"original_corrected_iou{ending}",
            *(name + ending for name in further),
        ]
    rows = [header]
    for place, (case, score) in enumerate(zip(scored.cases, scored.scores, strict=True)):
        report = "" if case.report is None else printable(str(case.report))
        row: list[object] = [case.id, case.group or "", report]
        for scoring in SCORINGS:
            for measure in (dice, iou):
                row.append(float(np.mean([measure(own[scoring], protocol=scoring[1]) for own in score.classes])))
        for own in score.classes:
            counts = own[ORIGINAL]
            row += [counts.intersection, counts.prediction, counts.target]
        row += [float(scored.columns[name][place]) for name in further]
        for of_class in score.details if endings else ():
            row += [of_class["dice"], of_class["iou"], *(of_class[name] for name in further)]
        rows.append(row)
    return rows


def _mean_dice(score: CaseScore) -> float:
    return float(np.mean([dice(own[ORIGINAL]) for own in score.classes]))


def _choose(values: Sequence[float], empty: Sequence[bool]) -> dict[str, list[int]]:
    """Return which cases to draw, none twice: the worst, the best (with a lesion if there are), those in between."""
    order = np.argsort(values, kind="stable").tolist()
    count = min(NUM_PICTURES, max(1, len(order) // 3))
    worst, rest = order[:count], order[count:]
    best = sorted(rest, key=lambda index: (empty[index], -values[index]))[:count]
    between = [index for index in rest if index not in best]
    middle = max(0, len(between) // 2 - count // 2)
    return {"Best": best, "Median": between[middle : middle + count], "Worst": worst}


def _draw(model: TrainedModel, cases: list[Case], like: CaseDataset, folder: Path, name: str) -> list[dict[str, Any]]:
    """Predict and draw a few cases on the films' own grid; the network is run again for them."""
    device = next(model.network.parameters()).device
    entries = []
    images = CaseDataset(cases, like.config, num_classes=like.num_classes)
    names = class_names(like.config, like.num_classes)
    for number, prediction in enumerate(predict_cases(model.network, images, Compute(str(device))), start=1):
        case, target = cases[prediction.index], prediction.original_mask
        assert target is not None
        found = to_labels(to_original(prediction.probability, target.shape))
        score = _mean_dice(score_prediction(prediction, scorings=(ORIGINAL,)))
        picture = case_panel(
            read_image(case.image), found, target=target, report=case.report, dice=score, classes=names
        )
        data = encode_png(picture)
        storage.write_bytes(folder / f"{name}-{number}.png", data)
        entries.append(
            {
                "id": case.id,
                "dice": score,
                "source": "data:image/png;base64," + base64.b64encode(data).decode(),
                "report": "no report" if case.report is None else case.report.text or str(case.report),
            }
        )
    return entries


def _trained(model: TrainedModel) -> dict[str, Any]:
    return {"epoch": model.metrics.get("epoch"), "weights_sha256": model.metrics.get("weights_sha256")}


def history_of(model: TrainedModel) -> list[dict[str, Any]]:
    """Return the log of the run that the model folder lies in; empty where there is none."""
    log = model.path.parent / "log.jsonl"
    if model.path.name != "best" or not log.is_file():
        return []
    try:
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        logger.warning("%s is damaged, so the page shows no curves: %s", log, error)
        return []


def default_folder(model: Path, part: Part) -> Path:
    """Return where the scores of a model folder go: beside the run's best, or into the folder itself.

    Those of a model that is found by its name go to `scores/<name>` in the current folder, for its own folder belongs
    to the package or to the cache.
    """
    name = name_of(model)
    parent = Path("scores") / name if name else model.parent if model.name == "best" else model
    return parent / f"evaluation-{part.split}" / part.text
