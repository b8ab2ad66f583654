"""What a network makes of its text: the battery of changed reports, scored film by film, and masks that see no film.

A film and a text that were computed once are not computed again, so a change that the network cannot tell from another
one costs nothing.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.data.cases import Case
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.part import Part
from c2fvl.data.perturbations import most_common_report, perturbations
from c2fvl.data.prefetch import prefetch
from c2fvl.data.scan import find_splits, inspect
from c2fvl.evaluation.blind_masks import BlindMasks, fit_blind_masks
from c2fvl.evaluation.evaluate import Evaluation, Scored, default_folder, score_part, write_evaluation
from c2fvl.evaluation.summary import pooled
from c2fvl.files import storage
from c2fvl.files.images import read_mask
from c2fvl.files.tables import printable, write_cells
from c2fvl.inference.cases import ORIGINAL, CasePrediction, predict_cases, score_prediction
from c2fvl.inference.compute import Compute
from c2fvl.inference.masks import to_labels, to_original
from c2fvl.inference.torch_engine import for_inference
from c2fvl.metrics.case_scores import TOLERANCES
from c2fvl.metrics.intervals import Bootstrap, difference, holm
from c2fvl.metrics.overlap import Overlap, dice, iou, overlap
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.from_mask import report_from_mask, zone_areas
from c2fvl.reports.report import Report
from c2fvl.reports.zones import ZONES, hand_of, hands_of

SECOND_PASS = "from_own_mask"
_SECOND_TITLE = "read off the mask that it draws without one"
_HEADLINE = ("shuffled", "sides_exchanged")


@dataclass(frozen=True)
class Answer:
    """What the network gave for one film and one text."""

    overlaps: tuple[Overlap, ...]
    """Of each class, on the film's own grid."""
    zones: NDArray[np.float64]
    """(6,), predicted pixels in each of `ZONES`."""
    described: Report
    """What a caption would say of the predicted mask."""

    @property
    def dice(self) -> float:
        """Return the Dice, of several classes their mean."""
        return float(np.mean([dice(own) for own in self.overlaps]))

    @property
    def iou(self) -> float:
        """Return the IoU, of several classes their mean."""
        return float(np.mean([iou(own) for own in self.overlaps]))


class Answers:
    """The network's answers to the films of a data set with any reports, each computed once."""

    def __init__(self, scored: Scored, compute: Compute) -> None:
        self.model, self.cases = scored.model, scored.cases
        self.settings, self.num_classes = scored.dataset.config, scored.dataset.num_classes
        self.encoder = scored.dataset.encoder
        self.network, self.compute = for_inference(scored.model, compute)
        self.known: dict[tuple[int, bytes], Answer] = {}

    def keys(self, reports: Sequence[Report | None]) -> list[tuple[int, bytes]]:
        """Return for each film its place and the text as the network reads it."""
        if self.encoder is None:
            return [(place, b"") for place in range(len(reports))]
        self.encoder.prepare(reports)
        return [(place, self.encoder.encode(report).tobytes()) for place, report in enumerate(reports)]

    def of(self, cases: Sequence[Case], *, progress: Progress) -> list[Answer]:
        """Return the answers to all films with the reports of these cases, in their order."""
        keys = self.keys([case.report for case in cases])
        missing = [place for place, key in enumerate(keys) if key not in self.known]
        if missing:
            settings = dataclasses.replace(self.settings, missing_reports="allow")
            images = CaseDataset([cases[place] for place in missing], settings, num_classes=self.num_classes)
            found = predict_cases(self.network, images, self.compute)
            maximum = 2 * (self.compute.batch_size or 1)
            for place, answer in zip(missing, prefetch(self._answer, found, maximum=maximum), strict=True):
                self.known[keys[place]] = answer
                progress.advance(1, len(cases))
        for _ in range(len(cases) - len(missing)):
            progress.advance(1, len(cases))
        return [self.known[key] for key in keys]

    def _answer(self, prediction: CasePrediction) -> Answer:
        mask = prediction.original_mask
        assert mask is not None  # the data set holds films with a mask only
        score = score_prediction(prediction, scorings=(ORIGINAL,))
        found = (to_labels(to_original(prediction.probability, mask.shape)) > 0).astype(np.uint8)
        areas = zone_areas(found)
        return Answer(
            tuple(own[ORIGINAL] for own in score.classes),
            np.array([areas[zone] for zone in ZONES], np.float64),
            report_from_mask(found, modality=self.cases[0].modality),
        )


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
    """Evaluate a model as `evaluate` does, then with every change of `perturbations`; write one page, and `audit.csv`.

    The summary gets the part "audit": `changes`, one entry for each change of the report; `headline`; `baselines`, of
    masks that never see the film, where there is a training part; `words`, what all this says. For a network that reads
    no text the battery is not run, for it would change nothing. Arguments and errors as `evaluate`.
    """
    folder = storage.check_folder(
        out if out is not None else default_folder(model.path, part.with_text("audit")), what="scores"
    )
    reads = model.config.data.text != "none"
    training = _training_cases(model, part)
    blind = fit_blind_masks(training, model.config.data.mask) if training else None
    num_changes = len(perturbations(None)) + 1 if reads else 0
    counter = _Counter(progress, 1 + num_changes)
    scored = score_part(
        model, part.with_text("right"), compute, spacing=spacing, tolerances=tolerances, progress=counter
    )
    bootstrap = Bootstrap([case.group for case in scored.cases])
    found: dict[str, Any] = {"seed": part.seed, "changes": [], "headline": [], "baselines": [], "words": []}
    given: dict[str, list[Case]] = {}
    answers: dict[str, list[Answer]] = {}
    if reads and any(scored.dataset.encoder.reads(case.report) for case in scored.cases if scored.dataset.encoder):
        every = Answers(scored, compute)
        constant = most_common_report(training) or most_common_report(scored.cases)
        for name, changed in _changed(scored.cases, constant, part.seed, answers):
            given[name] = changed
            answers[name] = every.of(changed, progress=counter)
        found["constant_report"] = None if constant is None else str(constant)
        found["changes"] = _changes(every, given, answers, bootstrap)
        found["headline"] = _headline(answers, bootstrap)
    if blind is not None:
        found["baselines"] = _baselines(scored, blind, answers, bootstrap)
    found["words"] = _words(scored, found, bool(answers))
    scored.summary["audit"] = found
    write_cells(folder / "audit.csv", _case_table(scored, given, answers))
    return write_evaluation(scored, folder)


class _Counter:
    """A `Progress` that counts the calls of several rounds over the same cases as one."""

    def __init__(self, outer: Progress, rounds: int) -> None:
        self.outer, self.rounds, self.done = outer, rounds, 0

    def stage(self, text: str) -> None:
        """Do nothing."""

    def advance(self, done: int, total: int) -> None:
        """Count one more case."""
        self.done += 1
        self.outer.advance(self.done, total * self.rounds)


def _training_cases(model: TrainedModel, part: Part) -> list[Case]:
    """Return the training films with a mask, none where they are among those that are scored.

    A table that holds the captions of the scored part alone is passed over here.
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
    cases: Sequence[Case], constant: Report | None, seed: int, answers: dict[str, list[Answer]]
) -> Iterator[tuple[str, list[Case]]]:
    """Yield each change by its name with the changed cases; the second pass reads the answers without a report."""
    for change in perturbations(constant):
        if change.name != "shuffled" or len(cases) > 1:
            yield change.name, change.apply(cases, seed)
    own = [answer.described for answer in answers["none"]]
    yield SECOND_PASS, [dataclasses.replace(case, report=report) for case, report in zip(cases, own, strict=True)]


def _titles() -> dict[str, tuple[str, bool]]:
    return {**{change.name: (change.title, change.is_wrong) for change in perturbations(None)},
            SECOND_PASS: (_SECOND_TITLE, False)}  # fmt: skip


def _changes(
    every: Answers, given: dict[str, list[Case]], answers: dict[str, list[Answer]], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    right = np.array([answer.dice for answer in answers["right"]])
    own_text = every.keys([case.report for case in given["right"]])
    rows: list[dict[str, Any]] = []
    for name, of_change in answers.items():
        scores = np.array([(answer.dice, answer.iou) for answer in of_change])
        means = bootstrap.means(scores)
        title, is_wrong = _titles()[name]
        text = every.keys([case.report for case in given[name]])
        reports, right_reports = ([case.report for case in cases] for cases in (given[name], given["right"]))
        apart = None if name == "right" else difference(scores[:, 0], right, bootstrap)
        rows.append({
            "name": name, "title": title, "is_wrong": is_wrong,
            "num_changed": sum(new != old for new, old in zip(text, own_text, strict=True)),
            "dice": means[0].as_dict(), "iou": means[1].as_dict(),
            "dice_pooled": pooled([answer.overlaps for answer in of_change], bootstrap)["dice"],
            "difference_to_right": None if apart is None else apart.as_dict(),
            "excluded_lungs": _outside(of_change, reports, bootstrap, lungs=True),
            "excluded_zones": _outside(of_change, reports, bootstrap, lungs=False),
            "wrong_lungs": _outside(of_change, right_reports, bootstrap, lungs=True),
        })  # fmt: skip
    others = [row for row in rows if row["difference_to_right"] is not None]
    corrected = holm([row["difference_to_right"]["permutation_p"] for row in others])
    for row, probability in zip(others, corrected, strict=True):
        row["permutation_p_holm"] = probability
    return rows


def _outside(
    answers: Sequence[Answer], reports: Sequence[Report | None], bootstrap: Bootstrap, *, lungs: bool
) -> dict[str, float | None] | None:
    """Return the share of the predicted area in lungs (or zones) that the reports exclude, pooled over films.

    Only films count whose report names zones, or says that there is no infection, and excludes some; None where there
    are none, or where nothing is predicted on them.
    """
    outside, whole = np.zeros(len(answers)), np.zeros(len(answers))
    for place, (answer, report) in enumerate(zip(answers, reports, strict=True)):
        if report is None or not (report.zones or report.side == "none"):
            continue
        named = hands_of(report.zones) if lungs else report.zones
        excluded = np.array([(hand_of(zone) if lungs else zone) not in named for zone in ZONES])
        if excluded.any():
            outside[place], whole[place] = answer.zones[excluded].sum(), answer.zones.sum()
    # a draw without any of these films would have no share, so they alone are drawn
    counting = np.flatnonzero(whole)
    if not len(counting):
        return None
    drawn = Bootstrap([str(member) for member in bootstrap.members[counting]])
    return drawn.ratios(outside[counting], whole[counting])[0].as_dict()


def _headline(answers: dict[str, list[Answer]], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Return the figures to quote, each with a name, a title and an interval."""
    scores = {name: np.array([answer.dice for answer in found]) for name, found in answers.items()}

    def entry(name: str, title: str, values: NDArray[np.float64]) -> dict[str, Any]:
        return {"name": name, "title": title, **bootstrap.means(values)[0].as_dict()}

    found = [
        entry("right", "Dice with the right text, % (an oracle where captions are made from masks)", scores["right"]),
        entry("none", "Dice without text, %", scores["none"]),
        entry("benefit", "reliance: right − none, points", scores["right"] - scores["none"]),
    ]
    titles = _titles()
    for name in _HEADLINE:
        if name in scores:
            title = f"harm: none − {titles[name][0]}, points"
            found.append(entry(f"harm_{name}", title, scores["none"] - scores[name]))
    return found


def _baselines(
    scored: Scored, blind: BlindMasks, answers: dict[str, list[Answer]], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """Return the scores of masks that never see the film, and by how much the network beats each.

    All classes count as one lesion; the network is then compared by its mean Dice over the classes.
    """
    kind = scored.model.config.data.mask
    constant, of_report = [], []
    for case in scored.cases:
        assert case.mask is not None
        mask = (read_mask(case.mask, kind) > 0).astype(np.uint8)
        constant.append(overlap(blind.constant_mask(mask.shape), mask))
        of_report.append(overlap(blind.mask_of(case.report, mask.shape), mask))
    right = scored.columns["dice"]
    none = np.array([answer.dice for answer in answers["none"]]) if answers else right
    rows = [
        ("constant", "one mask for all films", constant, none, "without text" if answers else "it reads none"),
        ("of_report", "one mask for each report", of_report, right, "with the right text"),
    ]
    if not blind.of_report or not answers:
        rows = rows[:1]
    found = []
    for name, title, counts, network, compared in rows:
        scores = np.array([(dice(own), iou(own)) for own in counts])
        means = bootstrap.means(scores)
        apart = difference(network, scores[:, 0], bootstrap)
        found.append({
            "name": name, "title": title, "num_training_images": blind.num_images, "dice": means[0].as_dict(),
            "iou": means[1].as_dict(), "difference": apart.as_dict(), "compared_with": compared,
        })  # fmt: skip
    return found


def _words(scored: Scored, found: dict[str, Any], has_text: bool) -> list[dict[str, Any]]:
    """Return in words what the figures say, what is a warning marked as such."""
    words: list[tuple[str, bool]] = []
    if scored.model.config.data.text == "none":
        words.append(("This network takes no text: no report, right or wrong, changes its mask.", False))
    elif not has_text:
        words.append(("No film has a report that the network can read, so there was no text to change.", True))
    else:
        by_name = {entry["name"]: entry for entry in found["headline"]}
        words.append((_reliance(by_name["benefit"]), False))
        for name in _HEADLINE:
            if f"harm_{name}" in by_name:
                words.append(_harm(_titles()[name][0], by_name[f"harm_{name}"]))
        worst = min((row for row in found["changes"] if row["is_wrong"]), key=lambda row: row["dice"]["value"])
        words.append((f"The worst of all changes: {worst['title']}, {100 * worst['dice']['value']:.2f} %.", False))
    for row in found["baselines"]:
        apart = row["difference"]
        against = f"{row['title']}, made from {row['num_training_images']} training films without a look at the film"
        if apart["value"] <= 0 or (apart["low"] is not None and apart["low"] <= 0):
            words.append((f"The network ({row['compared_with']}) does not beat {against}.", True))
        else:
            backed = "" if apart["low"] is not None else ", which no interval backs"
            words.append((f"The network ({row['compared_with']}) beats {against}{backed}.", False))
    if not found["baselines"]:
        words.append(("There is no training part here, so no mask could be made that sees no film.", False))
    return [{"text": text, "warning": warning} for text, warning in words]


def _reliance(entry: dict[str, Any]) -> str:
    value, low, high = (None if entry[key] is None else 100 * entry[key] for key in ("value", "low", "high"))
    sure = low is not None and high is not None and (low > 0 or high < 0)
    chance = "" if sure else ", which may be chance"
    return (
        f"The right text is worth {value:.2f} points of Dice to this network{chance}."
        if value is not None and value >= 0
        else f"With the right text it scores {-(value or 0.0):.2f} points lower than without{chance}."
    )


def _harm(title: str, entry: dict[str, Any]) -> tuple[str, bool]:
    value, low = 100 * entry["value"], entry["low"]
    if low is not None and low > 0:
        return f"A wrong report does harm ({title}): {value:.2f} points of Dice below no report at all.", True
    if value > 0:
        return f"A wrong report ({title}) costs {value:.2f} points of Dice against none, which may be chance.", False
    return f"A wrong report ({title}) does no harm: {abs(value):.2f} points of Dice above no report.", False


def _case_table(scored: Scored, given: dict[str, list[Case]], answers: dict[str, list[Answer]]) -> list[list[object]]:
    """Return for each film its score with each change, and the report it was given then."""
    header: list[object] = ["id", "group"]
    for name in answers:
        header += [f"{name}_dice", f"{name}_iou", f"{name}_report"]
    rows = [header]
    for place, case in enumerate(scored.cases):
        row: list[object] = [case.id, case.group or ""]
        for name, of_change in answers.items():
            report = given[name][place].report
            said = "" if report is None else printable(report.text or str(report))
            row += [of_change[place].dice, of_change[place].iou, said]
        rows.append(row)
    return rows
