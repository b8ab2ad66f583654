"""Score a trained network on a part of a data set, and write an evaluation folder with a results page."""

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from c2fvl.checkpoints.provenance import provenance
from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.config_files import to_toml
from c2fvl.data.cases import Case
from c2fvl.data.classes import class_names
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.part import Part
from c2fvl.data.perturbations import SEEDED, text_given
from c2fvl.data.scan import fingerprint, mask_fingerprint
from c2fvl.evaluation.case_table import case_table
from c2fvl.evaluation.evaluation_folder import EvaluationFolder
from c2fvl.evaluation.pages.gallery import gallery_of
from c2fvl.evaluation.pages.page import render
from c2fvl.evaluation.pages.panels import CasePictures, orientation_of
from c2fvl.evaluation.records import from_plain
from c2fvl.evaluation.run_log import LOG, read_log
from c2fvl.evaluation.scored_case import ScoredCase, Scoring, ScoringHere
from c2fvl.evaluation.statistics import Scores, as_columns, compute_statistics
from c2fvl.evaluation.summary import (
    CalibrationSummary,
    FindingsSummary,
    GivenReports,
    ProtocolScores,
    ScoredData,
    ScoredModel,
    Summary,
    TextAudit,
    Unit,
)
from c2fvl.files.images import read_spacing
from c2fvl.inference.cases import ORIGINAL, CaseScore, dataset_of
from c2fvl.inference.compute import Compute
from c2fvl.inference.masks import THRESHOLD
from c2fvl.metrics.calibration import CaseCalibration, summarise
from c2fvl.metrics.case_scores import TOLERANCES
from c2fvl.metrics.findings import summarise_findings
from c2fvl.metrics.overlap import summarise_classes
from c2fvl.models.registry import num_classes
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.findings import DEFAULT_TRUST

logger = logging.getLogger(__name__)

OWN_TABLE = "the split's own"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found and wrote."""

    folder: Path
    page: Path
    summary: Summary


@dataclass(frozen=True)
class ScoredCases:
    """The scores of some cases, before anything is written."""

    cases: list[Case]
    scored: list[ScoredCase]
    columns: Scores
    """Every score of `metrics.score_case` by case."""
    summary: Summary
    history: list[dict[str, Any]]
    """The epochs of the run that the model comes from; empty without its log."""
    mask: str
    """What the true masks hold, as the setting data.mask."""

    @property
    def scores(self) -> list[CaseScore]:
        """Return the scores of the cases in their order."""
        return [case.score for case in self.scored]


@dataclass(frozen=True)
class ScoredPart(ScoredCases):
    """The scores of a model on one part of a data set."""

    model: TrainedModel
    dataset: CaseDataset


def evaluate(
    model: TrainedModel,
    part: Part,
    compute: Compute = Compute(),
    *,
    out: Path | str | None = None,
    spacing: tuple[float, float] | None = None,
    tolerances: Sequence[float] = TOLERANCES,
    scoring: Scoring | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score `model` on a part of a data set and write an `EvaluationFolder` to `out`.

    `spacing` is the distance of rows and of columns in mm; None takes it from the files, or counts pixels where a file
    does not hold it. Captions of QaTa-COV19 and MosMedData+ were made from the masks: a score with them is that of an
    oracle. `scoring` computes elsewhere than in this process, which is what `compute` and `tolerances` are for.
    Raises `ValueError` for data that does not fit, and for an `out` that holds other files.
    """
    folder = EvaluationFolder.of_model(model.path, part) if out is None else EvaluationFolder(Path(out))
    folder.check()
    return write_evaluation(
        score(model, part, compute, spacing=spacing, tolerances=tolerances, scoring=scoring, progress=progress), folder
    )


def score(
    model: TrainedModel,
    part: Part,
    compute: Compute = Compute(),
    *,
    spacing: tuple[float, float] | None = None,
    tolerances: Sequence[float] = TOLERANCES,
    scoring: Scoring | None = None,
    progress: Progress = SILENT,
) -> ScoredPart:
    """Score a model on a part as `evaluate` does, and write nothing."""
    began = time.monotonic()
    history = read_log(model.path.parent) if model.path.name == "best" else []  # a damaged log is said before the work
    images = dataset_of(model, part)
    _warn_of_reports(images, part, model)
    spacings, unit = spacings_of(images.cases, spacing)

    scoring = ScoringHere(model, compute, tolerances=tolerances) if scoring is None else scoring
    compute = scoring.compute
    scored: list[ScoredCase] = []
    for case in scoring(images, spacings):
        scored.append(case)
        progress.advance(len(scored), len(images))

    columns = as_columns([case.score.details for case in scored])
    measured = [case.calibration for case in scored if case.calibration is not None]
    if measured:
        columns["estimated_dice"] = np.array([of_one.confidence for of_one in measured])
    summary = Summary(
        model=ScoredModel(
            model.config.model.name, model.config.preset, str(model.path), model.metrics.get("epoch"),
            model.metrics.get("weights_sha256"),
        ),
        data=_describe_data(images, part),
        text=_describe_reports(images, part, model),
        scores=protocol_scores([case.score for case in scored]),
        unit=unit,
        statistics=compute_statistics(
            images.cases, columns, [[of_class[ORIGINAL] for of_class in case.score.classes] for case in scored]
        ),
        threshold=THRESHOLD,
        class_names=tuple(class_names(images.config, num_classes(model.config.model))),
        calibration=_calibration(measured, model),
        predicted_findings=_findings(scored, images.cases) if part.text == "right" else None,
        settings=to_toml(model.config),
        loss_curves=LOG if history else None,
        software=provenance(torch.device(compute.device)) | {"precision": compute.precision},
        seconds=round(time.monotonic() - began, 2),
    )  # fmt: skip
    return ScoredPart(images.cases, scored, columns, summary, history, images.config.mask, model, images)


def write_evaluation(
    scored: ScoredCases,
    folder: EvaluationFolder,
    *,
    audit: TextAudit | None = None,
    audit_table: Sequence[Sequence[object]] | None = None,
) -> Evaluation:
    """Write everything about what was scored, and about its audit if there is one."""
    summary = scored.summary if audit is None else dataclasses.replace(scored.summary, audit=audit)
    drawn = CasePictures(
        scored.cases, scored.scores, lambda index: scored.scored[index].labels,
        classes=summary.class_names, mask=scored.mask,
    )  # fmt: skip
    groups = drawn.panels()
    pictures = {panel.file: panel.png for group in groups for panel in group.panels}
    page = render(
        summary, scored.columns, panels=groups, history=scored.history,
        orientation=orientation_of(scored.cases),
        gallery=gallery_of(scored.cases, scored.scores, scored.columns, drawn.thumbnails()),
    )  # fmt: skip
    table = case_table(scored.cases, scored.scores, scored.columns)
    return Evaluation(folder.path, folder.write(summary, table, page, pictures, audit=audit_table), summary)


def _warn_of_reports(images: CaseDataset, part: Part, model: TrainedModel) -> None:
    missing = len(images) - images.num_readable
    if part.text != "none" and model.config.data.text != "none" and missing:
        logger.warning("%d of %d images have no report that the network can read", missing, len(images))
        images.warn_of_unread_reports(f"{part.root} ({part.split})")


def _describe_data(images: CaseDataset, part: Part) -> ScoredData:
    groups = {case.group for case in images.cases if case.group}
    return ScoredData(
        root=str(part.root),
        split=part.split,
        num_cases=len(images),
        caption_table=part.captions(images.config.table) or OWN_TABLE,
        fingerprint=fingerprint(images.cases),
        masks=mask_fingerprint(images.cases),
        num_groups=len(groups) or None,
        num_without_report=len(images) - images.num_readable,
    )


def _describe_reports(images: CaseDataset, part: Part, model: TrainedModel) -> GivenReports:
    kind = images.config.text
    return GivenReports(
        part.text,
        text_given(part.text, kind, images.num_readable, len(images)),
        part.seed if part.text in SEEDED else None,
        model.config.model.arguments.get("trust", DEFAULT_TRUST) if kind == "findings" else None,
    )


def protocol_scores(scores: Sequence[CaseScore]) -> tuple[ProtocolScores, ...]:
    """Return the scores of all cases by each scoring that they have."""
    found = []
    for scoring in scores[0].classes[0]:
        overlaps = [[of_class[scoring] for of_class in case.classes] for case in scores]
        values = summarise_classes(overlaps, protocol=scoring[1])
        named = {"resolution": scoring[0], "protocol": scoring[1], **values}
        found.append(from_plain(ProtocolScores, named, where="scores"))
    return tuple(found)


def _calibration(measured: Sequence[CaseCalibration], model: TrainedModel) -> CalibrationSummary | None:
    if not measured:
        return None
    return from_plain(CalibrationSummary, summarise(measured, calibration=model.calibration), where="calibration")


def _findings(scored: Sequence[ScoredCase], cases: Sequence[Case]) -> FindingsSummary | None:
    findings = [case.findings for case in scored if case.findings is not None]
    found = summarise_findings(findings, [case.report for case in cases]) if findings else None
    return None if found is None else from_plain(FindingsSummary, found, where="findings")


def spacings_of(cases: Sequence[Case], given: tuple[float, float] | None) -> tuple[list[tuple[float, float]], Unit]:
    """Return the distance of rows and columns of each image, and which unit it is and where it comes from."""
    if given is not None:
        return [given] * len(cases), Unit("mm", f"given: {given[0]:g} × {given[1]:g} mm")
    found = [read_spacing(case.image) for case in cases]
    known = [spacing for spacing in found if spacing is not None]
    if len(known) == len(cases):
        return known, Unit("mm", "the files")
    some = f"the files: only {len(known)} of {len(cases)} hold a distance in mm"
    return [(1.0, 1.0)] * len(cases), Unit("pixel", some if known else "the files hold no distance in mm")
