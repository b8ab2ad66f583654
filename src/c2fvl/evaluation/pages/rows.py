"""Numbers in words, and the tables that the terminal, Markdown and the results page share."""

from collections.abc import Mapping
from typing import Any

from c2fvl.evaluation.summary import FindingsSummary, LesionsOfSize, Summary, TextAudit
from c2fvl.metrics.intervals import Estimate
from c2fvl.reports.zones import zone_in_words

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""

PROTOCOLS = {
    ("original", "corrected"): "original resolution, corrected protocol",
    ("network", "corrected"): "network resolution, corrected protocol",
    ("network", "published"): "network resolution, published protocol",
}
_COLUMNS = ("dice_per_image", "iou_per_image", "dice_pooled", "iou_pooled")
_LENGTHS = {
    "hd95": "Hausdorff distance, 95th percentile",
    "hd": "Hausdorff distance",
    "assd": "average symmetric surface distance",
}
FRACTIONS = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision of pixels",
    "recall": "recall of pixels",
    "specificity": "specificity of pixels",
    **{
        f"lesion_{name}_{minimum}": f"{word} of lesions, found at IoU ≥ 0.{minimum[0]}"
        for minimum in ("10", "50")
        for name, word in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
    },
    "estimated_dice": "estimated Dice",
}
_AREAS = {"area": "predicted area", "area_target": "true area", "area_difference": "predicted − true area"}


def area_unit(length: str) -> str:
    """Return the unit of areas by that of lengths."""
    return "pixels" if length == "pixel" else f"{length}²"


def label_of(name: str, length: str) -> tuple[str, bool]:
    """Return the name of a score in words with its unit, and whether it is a fraction, to be shown in per cent."""
    if name in _LENGTHS:
        return f"{_LENGTHS[name]}, {length}", False
    if name in _AREAS:
        return f"{_AREAS[name]}, {area_unit(length)}", False
    if name.startswith("nsd_"):
        return f"surface within {name.removeprefix('nsd_')} {length}, %", True
    return f"{FRACTIONS[name]}, %", True


def show(estimate: Estimate | None, *, fraction: bool) -> str:
    """Return an estimate with its confidence interval, a fraction in per cent."""
    if estimate is None:
        return "–"
    value = show_number(estimate.value, fraction=fraction)
    if estimate.low is None or estimate.high is None:
        return value
    low, high = (show_number(bound, fraction=fraction) for bound in (estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def show_number(value: float, *, fraction: bool, digits: int = 2) -> str:
    """Return a number with the digits that matter and a true minus sign, a fraction in per cent."""
    shown = f"{100 * value:.{digits}f}" if fraction else f"{value:.{digits if abs(value) < 100 else 0}f}"
    return shown.replace("-", "−")


def lesion_sizes(lesions: Mapping[str, LesionsOfSize]) -> dict[str, str]:
    """Return the bounds of each size of lesion in words, by its name."""
    bounds = sorted(row.min_fraction_of_image for row in lesions.values())
    found = {}
    for name, row in lesions.items():
        larger = [bound for bound in bounds if bound > row.min_fraction_of_image]
        parts = [f"{100 * row.min_fraction_of_image:g} % or more"] if row.min_fraction_of_image else []
        parts += [f"less than {100 * larger[0]:g} %"] if larger else []
        found[name] = f"{' and '.join(parts)} of the image"
    return found


def show_p(probability: float) -> str:
    """Return a p value as papers print it."""
    return "< 0.001" if probability < 0.001 else f"{probability:.3f}"


def score_table(summary: Summary) -> Table:
    """Return Dice and IoU of each resolution and protocol, and of each class where there are several."""
    labelled = [(PROTOCOLS[row.resolution, row.protocol], row) for row in summary.scores]
    classes = zip(summary.class_names, summary.scores[0].classes, strict=False)
    labelled += [(f"  {name}, original resolution", row) for name, row in classes]  # type: ignore[misc]
    rows = [[label, *(show_number(getattr(row, name), fraction=True) for name in _COLUMNS)] for label, row in labelled]
    return ["%", "Dice per image", "IoU per image", "Dice pooled", "IoU pooled"], rows


def audit_table(audit: TextAudit) -> Table:
    """Return the scores with each change of the reports."""
    header = [
        "report given",
        "Dice per image, %",
        "difference to the correct report, points",
        "in lungs without lesion, %",
    ]
    rows = [
        [row.title, show(row.dice, fraction=True), show(row.difference_to_right, fraction=True),
         show(row.wrong_lungs, fraction=True)]
        for row in audit.changes
    ]  # fmt: skip
    return header, rows


def effect_table(audit: TextAudit) -> Table:
    """Return what each change of the reports brings against no report, for a narrow terminal."""
    rows = [
        [row.title, show_number(row.dice.value, fraction=True), show(row.difference_to_none, fraction=True)]
        for row in audit.changes
    ]
    return ["report given", "Dice, %", "Dice − no report, points"], rows


def trust_table(curve: Mapping[str, Any], titles: Mapping[str, str]) -> Table:
    """Return the scores at each trust of what `fit_trust` found; `titles` names the changes of reports."""
    wrong = list(curve["points"][0]["harm"])
    header = ["trust", "correct report", *(titles[name] for name in wrong), "benefit kept, %", "within bounds"]
    rows = [
        [f"{point['trust']:g}{' (default)' if point['trust'] == curve['default'] else ''}"]
        + [show(Estimate(**point[name]), fraction=True) for name in ("right", *wrong)]
        + ["–" if point["benefit_kept"] is None else f"{100 * point['benefit_kept']:.0f}"]
        + ["yes" if point["within_bounds"] else "no"]
        for point in curve["points"]
    ]
    return header, rows


def findings_table(found: FindingsSummary | None) -> Table:
    """Return how well each finding is read off images, the mean of the zones first; no rows without findings."""
    header = ["finding", "area under the curve", "accuracy, %", "majority guess, %"]
    if found is None:
        return header, []
    named = [
        ("zones, mean", found.zones_mean),
        *((zone_in_words(zone, "image"), row) for zone, row in found.zones.items()),
    ]
    named += [("side", found.side), ("number of lesions", found.number)]
    rows = [
        [name, "–" if row.auc is None else f"{row.auc:.3f}", f"{100 * row.accuracy:.1f}", f"{100 * row.majority:.1f}"]
        for name, row in named
        if row is not None
    ]
    return header, rows
