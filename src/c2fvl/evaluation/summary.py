"""From the scores of all cases to the figures of a summary: means, quartiles, pooled figures, strata, intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.data.cases import Case
from c2fvl.evaluation.strata import columns_left_out, strata
from c2fvl.metrics.case_scores import LESION_SIZES
from c2fvl.metrics.intervals import Bootstrap, summarise_scores
from c2fvl.metrics.overlap import Overlap

Scores = dict[str, NDArray[np.float64]]

_QUARTILES = ("dice", "iou", "hd95", "assd", "area_difference")
_COUNTS = ("lesions", "lesions_target", "lesions_missed", "area_target_")
"""What begins so is given in other places, not as a mean over cases."""


def as_columns(details: Sequence[Sequence[Mapping[str, float]]]) -> Scores:
    """Return each score as one value per case; of several classes the mean over the classes."""
    names = details[0][0]
    return {
        name: np.array([np.mean([of_class[name] for of_class in case]) for case in details], np.float64)
        for name in names
    }


def figures(cases: Sequence[Case], scores: Scores, overlaps: Sequence[Sequence[Overlap]]) -> dict[str, Any]:
    """Return `intervals` (what was drawn, in words), `per_image`, `pooled`, `lesions`, `columns_left_out` and `strata`.

    `scores` are those of `as_columns`; `overlaps` the pixel counts of each case and class on the same grid, of which
    the pooled figures are made. Every case counts in every figure.
    """
    bootstrap = Bootstrap([case.group for case in cases])
    # means over the classes are no numbers of lesions; sums are
    counted = {
        name: np.rint(values * len(overlaps[0])) for name, values in scores.items() if name.startswith("lesions")
    }
    named = {
        name: values
        for name, values in scores.items()
        if not name.startswith(_COUNTS) and not name.startswith("area_l") and not name.startswith("area_r")
    }
    quartiles = [name for name in _QUARTILES if name in named]
    return {
        "intervals": bootstrap.unit,
        "per_image": summarise_scores(named, bootstrap, quantiles=quartiles),
        "pooled": pooled(overlaps, bootstrap),
        "lesions": _lesions(counted),
        "columns_left_out": columns_left_out(cases),
        "strata": [
            {
                "name": stratum.name, "overlapping": stratum.overlapping,
                "rows": [_stratum_row(label, places, cases, scores) for label, places in stratum.rows],
            }
            for stratum in strata(cases, {**scores, **counted})
        ],
    }  # fmt: skip


def pooled(overlaps: Sequence[Sequence[Overlap]], bootstrap: Bootstrap) -> dict[str, dict[str, float | None]]:
    """Return Dice and IoU of all pixels together with intervals; of several classes the mean over the classes."""
    counts = np.array([[(own.intersection, own.prediction, own.target) for own in case] for case in overlaps], float)
    inside, predicted, true = np.moveaxis(counts, 2, 0)
    found = {}
    for name, parts, wholes in (
        ("dice", 2 * inside, predicted + true),
        ("iou", inside, predicted + true - inside),
    ):
        found[name] = bootstrap.mean_of_ratios(parts, wholes).as_dict()
    return found


def _lesions(scores: Scores) -> dict[str, Any]:
    """Return how many lesions there are, and how many are missed, by size."""
    return {
        name: {
            "min_fraction_of_image": minimum,
            "lesions": int(scores[f"lesions_target_{name}"].sum()),
            "missed": int(scores[f"lesions_missed_{name}"].sum()),
        }
        for name, minimum in LESION_SIZES.items()
    }


def _stratum_row(label: str, places: NDArray[np.intp], cases: Sequence[Case], scores: Scores) -> dict[str, Any]:
    bootstrap = Bootstrap([cases[place].group for place in places])
    means = bootstrap.means(np.stack([scores[name][places] for name in ("dice", "iou")], axis=1))
    return {
        "label": label, "num_cases": len(places), "num_groups": bootstrap.num_groups,
        **{name: mean.as_dict() for name, mean in zip(("dice", "iou"), means, strict=True)},
    }  # fmt: skip
