"""How well a network predicts side, number of lesions and zones, compared with the reports."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.reports.findings import FIRST_ZONE, findings_of
from c2fvl.reports.predicted_findings import ZONE_THRESHOLD, PredictedFindings
from c2fvl.reports.report import SIDES, Report
from c2fvl.reports.zones import ZONES


def summarise_findings(
    predicted: Sequence[PredictedFindings], reports: Sequence[Report | None]
) -> dict[str, Any] | None:
    """Return the area under the curve and the accuracy of each zone, and the accuracy of side and number.

    Beside each accuracy is that of always guessing the majority on the same cases. Only findings that the reports give
    count; None if they give none.
    """
    given = np.stack([findings_of(report) for report in reports]) if reports else np.empty((0, 0))
    if not (~np.isnan(given)).any():
        return None
    zones = {}
    for column, zone in enumerate(ZONES, start=FIRST_ZONE):
        known = ~np.isnan(given[:, column])
        if not known.any():
            continue
        probabilities = np.array([findings.zones[zone] for findings in predicted])[known]
        zones[zone] = {
            "auc": area_under_curve(probabilities, given[known, column] == 1),
            **_accuracy((probabilities >= ZONE_THRESHOLD).astype(int), given[known, column].astype(int)),
        }
    sides = np.array([int(np.argmax(list(findings.side.values()))) for findings in predicted])
    numbers = np.array([int(np.argmax(findings.number)) for findings in predicted])
    last = len(predicted[0].number) - 1
    knows_side, knows_number = ~np.isnan(given[:, 0]), ~np.isnan(given[:, 1])
    true_numbers = np.minimum(given[knows_number, 1], last).astype(int)
    summary: dict[str, Any] = {"zones": zones, "num_images": len(predicted)}
    if zones:
        summary["zones_mean"] = {
            name: _mean([row[name] for row in zones.values()]) for name in ("auc", "accuracy", "majority")
        }
    if knows_side.any():
        summary["side"] = _accuracy(sides[knows_side], given[knows_side, 0].astype(int)) | {"values": list(SIDES)}
    if knows_number.any():
        errors = np.abs(numbers[knows_number] - true_numbers)
        summary["number"] = _accuracy(numbers[knows_number], true_numbers) | {
            "mean_absolute_error": float(errors.mean()),
            "within_one": float((errors <= 1).mean()),
            "counted_up_to": last,
        }
    return summary


def area_under_curve(scores: NDArray[Any], positive: NDArray[Any]) -> float | None:
    """Return the area under the ROC curve, ties counting half; None if a class is missing."""
    count = int(positive.sum())
    others = len(positive) - count
    if not count or not others:
        return None
    from scipy.stats import rankdata  # takes longer to load than most commands to run

    return float((rankdata(scores)[positive].sum() - count * (count + 1) / 2) / (count * others))


def _accuracy(predicted: NDArray[Any], true: NDArray[Any]) -> dict[str, float]:
    return {"accuracy": float((predicted == true).mean()), "majority": float(np.bincount(true).max() / len(true))}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
