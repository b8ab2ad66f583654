"""Test how correct, altered, wrong and missing reports change the result, and compare with baselines."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.data.cases import Case
from c2fvl.data.part import Part
from c2fvl.data.perturbations import most_common_report, perturbations
from c2fvl.data.scan import find_splits, inspect
from c2fvl.evaluation.audit_remarks import WRONG_REPORTS, audit_remarks
from c2fvl.evaluation.evaluate import Evaluation, ScoredPart, score, write_evaluation
from c2fvl.evaluation.evaluation_folder import EvaluationFolder
from c2fvl.evaluation.mean_masks import MeanMasks, fit_mean_masks
from c2fvl.evaluation.records import from_plain
from c2fvl.evaluation.report_answers import Answer, ReportAnswers
from c2fvl.evaluation.statistics import pooled
from c2fvl.evaluation.summary import Baseline, HeadlineScore, PairedEstimate, ReportChange, TextAudit
from c2fvl.files.images import read_mask
from c2fvl.inference.compute import Compute
from c2fvl.messages import printable
from c2fvl.metrics.case_scores import TOLERANCES
from c2fvl.metrics.intervals import Bootstrap, Estimate, difference, holm
from c2fvl.metrics.overlap import dice, iou, overlap
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.report import Report
from c2fvl.reports.zones import ZONES, hand_of, hands_of

SECOND_PASS = "from_own_mask"
_SECOND_TITLE = "read off the mask predicted without a report"

Answers = Mapping[str, Sequence[Answer]]
"""The answers to all cases, by the name of the change of their reports."""
Given = Mapping[str, Sequence[Case]]
"""The cases with the reports that they were given, by the same names."""


def audit(
    model: TrainedModel,
    part: Part,
    compute: Compute = Compute(),
    *,
    out: Path | str | None = None,
    spacing: tuple[float, float] | None = None,
    tolerances: Sequence[float] = TOLERANCES,
    progress: Progress = SILENT,
) -> Evaluation:
    """Evaluate a model as `evaluate` does, then with every change of `perturbations`; write both to one folder.

    The text of `part` is not used. Baselines are made where there is a training split. For a network that reads no
    text the reports are not changed, for that would change nothing. Arguments and errors as `evaluate`.
    """
    folder = (
        EvaluationFolder.of_model(model.path, part.with_text("audit")) if out is None else EvaluationFolder(Path(out))
    )
    folder.check()
    reads = model.config.data.text != "none"
    training = _training_cases(model, part)
    masks = fit_mean_masks(training, model.config.data.mask) if training else None
    rounds = _Rounds(progress, 2 + len(perturbations(None)) if reads else 1)
    scored = score(model, part.with_text("right"), compute, spacing=spacing, tolerances=tolerances, progress=rounds)
    bootstrap = Bootstrap([case.group for case in scored.cases])
    given: dict[str, list[Case]] = {}
    answers: dict[str, list[Answer]] = {}
    constant = None
    changes: list[ReportChange] = []
    if reads and scored.dataset.num_readable:
        network = ReportAnswers(model, scored.dataset, compute)
        constant = most_common_report(training) or most_common_report(scored.cases)
        for name, cases in _changed(scored.cases, constant, part.seed, answers):
            given[name], answers[name] = cases, network.of(cases, progress=rounds)
        changes = _changes(network, given, answers, bootstrap)
    found = TextAudit(
        seed=part.seed,
        constant_report=None if constant is None else str(constant),
        changes=tuple(changes),
        headline=tuple(_headline(answers, bootstrap)) if answers else (),
        baselines=() if masks is None else tuple(_baselines(scored, masks, answers, bootstrap)),
    )
    found = dataclasses.replace(found, remarks=tuple(audit_remarks(found, reads_text=reads)))
    return write_evaluation(scored, folder, audit=found, audit_table=_audit_table(scored.cases, given, answers))


class _Rounds:
    """A `Progress` that counts several rounds over the same cases as one."""

    def __init__(self, outer: Progress, rounds: int) -> None:
        self.outer, self.rounds, self.finished = outer, rounds, 0

    def stage(self, text: str) -> None:
        """Do nothing."""

    def advance(self, done: int, total: int) -> None:
        """Count on from the rounds that are finished."""
        self.outer.advance(self.finished * total + done, self.rounds * total)
        self.finished += done == total


def _training_cases(model: TrainedModel, part: Part) -> list[Case]:
    """Return the training cases with a mask; none where they are among those that are scored.

    A table that holds the captions of the scored split alone is not used here.
    """
    if part.split.lower() in ("train", "all") or "train" not in find_splits(part.root):
        return []
    table = part.table if part.table and _holds_captions_of_train(part.root, part.table) else None
    training = Part(part.root, "train", table)
    return [case for case in training.cases(model.config.data.table) if case.mask is not None]


def _holds_captions_of_train(root: Path | str, table: str) -> bool:
    try:
        return not inspect(root, "train", table=table).errors
    except FileNotFoundError:
        return False


def _changed(
    cases: Sequence[Case], constant: Report | None, seed: int, answers: Answers
) -> Iterator[tuple[str, list[Case]]]:
    """Yield the name of each change and the changed cases; the second pass needs the answers without a report."""
    for change in perturbations(constant):
        if change.name != "shuffled" or len(cases) > 1:
            yield change.name, change.apply(cases, seed)
    reports = [answer.described for answer in answers["none"]]
    yield SECOND_PASS, [dataclasses.replace(case, report=report) for case, report in zip(cases, reports, strict=True)]


def _changes(network: ReportAnswers, given: Given, answers: Answers, bootstrap: Bootstrap) -> list[ReportChange]:
    titles = {change.name: (change.title, change.is_wrong) for change in perturbations(None)}
    titles[SECOND_PASS] = (_SECOND_TITLE, False)
    right, none = (np.array([answer.dice for answer in answers[name]]) for name in ("right", "none"))
    own_texts = network.texts(given["right"])
    right_reports = [case.report for case in given["right"]]
    changes = []
    for name, of_change in answers.items():
        scores = np.array([(answer.dice, answer.iou) for answer in of_change])
        mean_dice, mean_iou = bootstrap.means(scores)
        reports = [case.report for case in given[name]]
        changes.append(
            ReportChange(
                name,
                *titles[name],
                num_changed=sum(new != old for new, old in zip(network.texts(given[name]), own_texts, strict=True)),
                dice=mean_dice,
                iou=mean_iou,
                dice_pooled=pooled([answer.overlaps for answer in of_change], bootstrap)["dice"],
                difference_to_right=None if name == "right" else _paired(scores[:, 0], right, bootstrap),
                difference_to_none=None if name == "none" else _paired(scores[:, 0], none, bootstrap),
                excluded_lungs=_outside(of_change, reports, bootstrap, lungs=True),
                excluded_zones=_outside(of_change, reports, bootstrap, lungs=False),
                wrong_lungs=_outside(of_change, right_reports, bootstrap, lungs=True),
            )
        )
    p_values = {row.name: row.difference_to_right.permutation_p for row in changes if row.difference_to_right}
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [dataclasses.replace(row, permutation_p_holm=corrected.get(row.name)) for row in changes]


def _paired(first: NDArray[np.float64], second: NDArray[np.float64], bootstrap: Bootstrap) -> PairedEstimate:
    return from_plain(PairedEstimate, difference(first, second, bootstrap).as_dict(), where="difference")


def _outside(
    answers: Sequence[Answer], reports: Sequence[Report | None], bootstrap: Bootstrap, *, lungs: bool
) -> Estimate | None:
    """Return the fraction of the predicted area in lungs (or zones) that the reports exclude, pooled over cases.

    Only cases count whose report names zones, or says that there is no infection, and excludes some; None where there
    are none, or where nothing is predicted on them.
    """
    outside, whole = np.zeros(len(answers)), np.zeros(len(answers))
    for index, (answer, report) in enumerate(zip(answers, reports, strict=True)):
        if report is None or not (report.zones or report.side == "none"):
            continue
        named = hands_of(report.zones) if lungs else report.zones
        excluded = np.array([(hand_of(zone) if lungs else zone) not in named for zone in ZONES])
        if excluded.any():
            outside[index], whole[index] = answer.zones[excluded].sum(), answer.zones.sum()
    counting = np.flatnonzero(whole)
    if not len(counting):
        return None
    # a draw without any of these cases would have no fraction, so they alone are drawn
    drawn = Bootstrap([str(member) for member in bootstrap.members[counting]])
    return drawn.ratios(outside[counting], whole[counting])[0]


def _headline(answers: Answers, bootstrap: Bootstrap) -> list[HeadlineScore]:
    """Return the numbers to quote, with their intervals."""
    scores = {name: np.array([answer.dice for answer in of_change]) for name, of_change in answers.items()}
    values = {
        "right": (
            "Dice with the correct report, % (oracle reports, where captions are made from masks)",
            scores["right"],
        ),
        "none": ("Dice without a report, %", scores["none"]),
        "benefit": ("benefit of the correct report: correct − none, points", scores["right"] - scores["none"]),
    }
    titles = {change.name: change.title for change in perturbations(None)}
    for name in WRONG_REPORTS:
        if name in scores:
            values[f"harm_{name}"] = (f"harm: none − {titles[name]}, points", scores["none"] - scores[name])
    headline = []
    for name, (title, of_case) in values.items():
        (mean,) = bootstrap.means(of_case)
        headline.append(HeadlineScore(mean.value, mean.low, mean.high, name, title))
    return headline


def _baselines(scored: ScoredPart, masks: MeanMasks, answers: Answers, bootstrap: Bootstrap) -> Iterator[Baseline]:
    """Yield the scores of image-independent masks, and by how much the network is better.

    All classes count as one lesion; the network is compared by its Dice averaged over the classes.
    """
    kind = scored.model.config.data.mask
    constant, of_report = [], []
    for case in scored.cases:
        assert case.mask is not None  # only cases with a mask are scored
        mask = (read_mask(case.mask, kind) > 0).astype(np.uint8)
        constant.append(overlap(masks.constant_mask(mask.shape), mask))
        of_report.append(overlap(masks.mask_of(case.report, mask.shape), mask))
    right = scored.columns["dice"]
    none = np.array([answer.dice for answer in answers["none"]]) if answers else right
    without = "without a report" if answers else "it reads none"
    rows = [("constant", "one mask for all images", constant, none, without)]
    if masks.of_report and answers:
        rows.append(("of_report", "one mask for each report", of_report, right, "with the correct report"))
    for name, title, counts, network, compared in rows:
        scores = np.array([(dice(own), iou(own)) for own in counts])
        mean_dice, mean_iou = bootstrap.means(scores)
        apart = _paired(network, scores[:, 0], bootstrap)
        yield Baseline(name, title, masks.num_images, mean_dice, mean_iou, apart, compared)


def _audit_table(cases: Sequence[Case], given: Given, answers: Answers) -> list[list[object]]:
    """Return for each case its score with each change, and the report it was given then."""
    header: list[object] = ["id", "group"]
    for name in answers:
        header += [f"{name}_dice", f"{name}_iou", f"{name}_report"]
    rows = [header]
    for index, case in enumerate(cases):
        row: list[object] = [case.id, case.group or ""]
        for name, of_change in answers.items():
            report = given[name][index].report
            text = "" if report is None else printable(report.text or str(report))
            row += [of_change[index].dice, of_change[index].iou, text]
        rows.append(row)
    return rows
