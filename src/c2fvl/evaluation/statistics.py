"""From the scores of all cases to means, quartiles, pooled scores and subgroups, each with its confidence interval."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from c2fvl.data.cases import Case
from c2fvl.evaluation.subgroups import columns_left_out, subgroups
from c2fvl.evaluation.summary import LesionsOfSize, ScoreStatistics, Statistics, SubgroupScores, SubgroupTable
from c2fvl.metrics.case_scores import LESION_SIZES
from c2fvl.metrics.intervals import Bootstrap, Estimate
from c2fvl.metrics.overlap import Overlap

Scores = dict[str, NDArray[np.float64]]
"""Each score as one value per case."""

_WITH_QUARTILES = ("dice", "iou", "hd95", "assd", "area_difference")
_NO_MEANS = ("lesions", "area_target_", "area_image_")
"""Scores whose names begin so are counts, or areas of zones; they are not averaged over cases."""


def as_columns(details: Sequence[Sequence[Mapping[str, float]]]) -> Scores:
    """Return each score as one value per case, averaged over the classes where there are several."""
    names = details[0][0]
    return {
        name: np.array([np.mean([of_class[name] for of_class in case]) for case in details], np.float64)
        for name in names
    }


def compute_statistics(cases: Sequence[Case], scores: Scores, overlaps: Sequence[Sequence[Overlap]]) -> Statistics:
    """Return the statistics of `scores`, as `as_columns` gives them; every case counts everywhere.

    `overlaps` holds the pixel counts of each case and class at the original resolution, for the pooled scores.
    """
    bootstrap = Bootstrap([case.group for case in cases])
    # the mean over classes of a number of lesions is no number of lesions; the sum is
    lesions = {
        name: np.rint(values * len(overlaps[0])) for name, values in scores.items() if name.startswith("lesions")
    }
    return Statistics(
        intervals=bootstrap.unit,
        per_image=_per_image(scores, bootstrap),
        pooled=pooled(overlaps, bootstrap),
        lesions={
            name: LesionsOfSize(
                minimum, int(lesions[f"lesions_target_{name}"].sum()), int(lesions[f"lesions_missed_{name}"].sum())
            )
            for name, minimum in LESION_SIZES.items()
        },
        columns_left_out=tuple(columns_left_out(cases)),
        subgroups=tuple(
            SubgroupTable(
                division.name,
                division.overlapping,
                tuple(_subgroup(label, indices, cases, scores) for label, indices in division.rows),
            )
            for division in subgroups(cases, {**scores, **lesions})
        ),
    )


def _per_image(scores: Scores, bootstrap: Bootstrap) -> dict[str, ScoreStatistics]:
    names = [name for name in scores if not name.startswith(_NO_MEANS)]
    means = bootstrap.means(np.stack([scores[name] for name in names], axis=1))
    found = {}
    for name, mean in zip(names, means, strict=True):
        lower = median = upper = None
        if name in _WITH_QUARTILES:
            lower, median, upper = bootstrap.quantiles(scores[name], (0.25, 0.5, 0.75))
        found[name] = ScoreStatistics(
            mean.value, mean.low, mean.high, median=median, lower_quartile=lower, upper_quartile=upper
        )
    return found


def pooled(overlaps: Sequence[Sequence[Overlap]], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Return Dice and IoU of all pixels together with intervals, averaged over the classes."""
    counts = np.array([[(own.intersection, own.prediction, own.target) for own in case] for case in overlaps], float)
    inside, predicted, true = np.moveaxis(counts, 2, 0)
    return {
        "dice": bootstrap.mean_of_ratios(2 * inside, predicted + true),
        "iou": bootstrap.mean_of_ratios(inside, predicted + true - inside),
    }


def _subgroup(label: str, indices: NDArray[np.intp], cases: Sequence[Case], scores: Scores) -> SubgroupScores:
    bootstrap = Bootstrap([cases[index].group for index in indices])
    dice, iou = bootstrap.means(np.stack([scores[name][indices] for name in ("dice", "iou")], axis=1))
    return SubgroupScores(label, len(indices), bootstrap.num_groups, dice, iou)
