"""How well a network reads side, number and zones off films, against what their captions say."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from c2fvl.reports.findings import FIRST_ZONE, findings_of
from c2fvl.reports.predicted_findings import ZONE_THRESHOLD, PredictedFindings
from c2fvl.reports.report import SIDES, Report
from c2fvl.reports.zones import ZONES


def summarise_findings(
    readings: Sequence[PredictedFindings], reports: Sequence[Report | None]
) -> dict[str, Any] | None:
    """Return per zone the area under the curve and the accuracy, of side and number the accuracy.

    Beside each accuracy stands that of the majority guess on the same films. Only what a report tells counts, by its
    own film; None where no report tells anything.
    """
    told = np.stack([findings_of(report) for report in reports]) if reports else np.empty((0, 0))
    if not (~np.isnan(told)).any():
        return None
    zones = {}
    for place, zone in enumerate(ZONES, start=FIRST_ZONE):
        known = ~np.isnan(told[:, place])
        if not known.any():
            continue
        fractions = np.array([reading.zones[zone] for reading in readings])[known]
        zones[zone] = {
            "auc": area_under_curve(fractions, told[known, place] == 1),
            **_accuracy((fractions >= ZONE_THRESHOLD).astype(int), told[known, place].astype(int)),
        }
    sides = np.array([max(range(3), key=lambda side: list(reading.side.values())[side]) for reading in readings])
    numbers = np.array([int(np.argmax(reading.number)) for reading in readings])
    last = len(readings[0].number) - 1
    knows_side, knows_number = ~np.isnan(told[:, 0]), ~np.isnan(told[:, 1])
    true_numbers = np.minimum(told[knows_number, 1], last).astype(int)
    found: dict[str, Any] = {"zones": zones, "num_images": len(readings)}
    if zones:
        found["zones_mean"] = {
            name: _mean([row[name] for row in zones.values()]) for name in ("auc", "accuracy", "majority")
        }
    if knows_side.any():
        found["side"] = _accuracy(sides[knows_side], told[knows_side, 0].astype(int)) | {"values": list(SIDES)}
    if knows_number.any():
        off = np.abs(numbers[knows_number] - true_numbers)
        found["number"] = _accuracy(numbers[knows_number], true_numbers) | {
            "mean_absolute_error": float(off.mean()), "within_one": float((off <= 1).mean()), "counted_up_to": last,
        }  # fmt: skip
    return found


def area_under_curve(scores: NDArray[Any], positive: NDArray[Any]) -> float | None:
    """Return the area under the receiver operating characteristic, ties counting half; None for one class alone."""
    count = int(positive.sum())
    others = len(positive) - count
    if not count or not others:
        return None
    return float((rankdata(scores)[positive].sum() - count * (count + 1) / 2) / (count * others))


def _accuracy(found: NDArray[Any], true: NDArray[Any]) -> dict[str, float]:
    return {"accuracy": float((found == true).mean()), "majority": float(np.bincount(true).max() / len(true))}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
