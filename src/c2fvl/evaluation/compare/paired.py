"""Paired differences of systems that were scored on the same cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from c2fvl.evaluation.evaluation_folder import SCORES, CaseTable
from c2fvl.messages import listed
from c2fvl.metrics.intervals import Bootstrap, Difference, Estimate, difference, holm


@dataclass(frozen=True)
class PairedDifference:
    """The paired difference first − second by the keys of `SCORES`, and p values corrected for the number of pairs."""

    first: str
    second: str
    differences: Mapping[str, Difference]
    permutation_holm: Mapping[str, float]
    wilcoxon_holm: Mapping[str, float]


def check_same_cases(labels: Sequence[str], tables: Sequence[CaseTable]) -> None:
    """Raise `ValueError`, saying which differ, unless all tables are of the same images, groups and masks."""
    for label, table in zip(labels, tables, strict=True):
        first = set(tables[0].ids)
        only_first, only_second = sorted(first - set(table.ids)), sorted(set(table.ids) - first)
        if only_first or only_second:
            parts = [
                f"only {whose} has {listed(names, 3)}"
                for whose, names in ((labels[0], only_first), (label, only_second))
                if names
            ]
            raise ValueError(
                f"{labels[0]} was scored on {len(first)} images and {label} on {len(table.ids)}, not the same ones; "
                f"{len(first & set(table.ids))} are common: {'; '.join(parts)}; score them again on one split "
                "(--root DATA --fresh)"
            )
        other = [name for name, one, two in zip(table.ids, tables[0].groups, table.groups, strict=True) if one != two]
        if table.counts is not None and tables[0].counts is not None:
            unequal = tables[0].counts[:, 2] != table.counts[:, 2]
            other += [name for name, differs in zip(table.ids, unequal, strict=True) if differs]
        if other:
            raise ValueError(
                f"{labels[0]} and {label} were scored on other masks or groups of images with the same names: "
                f"{listed(other, 3)}; score them again on the same data (--root DATA --fresh)"
            )


def mean_scores(seeds: Sequence[CaseTable]) -> dict[str, NDArray[np.float64]]:
    """Return the scores of one system case by case, averaged over its seeds."""
    return {name: np.mean([table.scores[name] for table in seeds], axis=0) for name in SCORES}


def estimates(seeds: Sequence[CaseTable], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Return `dice_per_image` and `iou_per_image`, and where pixels are counted `dice_pooled` and `iou_pooled`.

    They are averaged over the seeds.
    """
    means = mean_scores(seeds)
    found = {f"{name}_per_image": bootstrap.means(values)[0] for name, values in means.items()}
    counts = [table.counts for table in seeds if table.counts is not None]
    if len(counts) == len(seeds):
        inside, predicted, true = np.moveaxis(np.stack(counts, axis=1), 2, 0)  # (cases, seeds) each
        found["dice_pooled"] = bootstrap.mean_of_ratios(2 * inside, predicted + true)
        found["iou_pooled"] = bootstrap.mean_of_ratios(inside, predicted + true - inside)
    return found


def all_differences(systems: Mapping[str, Sequence[CaseTable]], bootstrap: Bootstrap) -> list[PairedDifference]:
    """Return the paired differences of every two systems, each averaged over its seeds, case by case.

    With more than two systems p values are corrected for the number of pairs (Holm).
    """
    scores = {label: mean_scores(seeds) for label, seeds in systems.items()}
    pairs = list(combinations(scores, 2))
    found = [
        {name: difference(scores[first][name], scores[second][name], bootstrap) for name in SCORES}
        for first, second in pairs
    ]
    permutation = {name: holm([pair[name].permutation for pair in found]) for name in SCORES}
    wilcoxon = {name: holm([pair[name].wilcoxon for pair in found]) for name in SCORES}
    return [
        PairedDifference(
            first, second, found[index],
            {name: permutation[name][index] for name in SCORES}, {name: wilcoxon[name][index] for name in SCORES},
        )
        for index, (first, second) in enumerate(pairs)
    ]  # fmt: skip
