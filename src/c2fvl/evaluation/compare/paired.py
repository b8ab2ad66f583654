"""Systems on the same cases: their scores film by film from the tables of evaluations, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2fvl.files.tables import read_csv
from c2fvl.messages import listed
from c2fvl.metrics.intervals import Bootstrap, Difference, Estimate, difference, holm

SCORES = {"dice": "original_corrected_dice", "iou": "original_corrected_iou"}
"""Score → column of `cases.csv`: on the film's own grid by the corrected rule."""
_COUNTS = ("original_intersection", "original_prediction", "original_target")
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class CaseTable:
    """The table `cases.csv` of one evaluation."""

    path: Path
    ids: tuple[str, ...]
    groups: tuple[str | None, ...]
    scores: Mapping[str, NDArray[np.float64]] = field(repr=False)
    """By the keys of `SCORES`."""
    counts: NDArray[np.float64] | None = field(repr=False)
    """(N, 3) pixels in both, predicted and true; None for several classes."""


@dataclass(frozen=True)
class PairedDifference:
    """How two systems differ, by the keys of `SCORES`, and p values corrected for the number of pairs."""

    first: str
    second: str
    differences: Mapping[str, Difference]
    permutation_holm: Mapping[str, float]
    wilcoxon_holm: Mapping[str, float]


def read_case_table(folder: Path | str) -> CaseTable:
    """Read `cases.csv` of an evaluation's folder, sorted by film.

    Raises `FileNotFoundError` where there is none, `ValueError` for a table that is damaged or of another program.
    """
    path = Path(folder) / "cases.csv"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; score the model first with `c2fvl evaluate`")
    columns, rows = read_csv(path)
    missing = [column for column in ("id", "group", *SCORES.values()) if column not in columns]
    if missing or not rows:
        what = f"has no column {', '.join(missing)}" if missing else "holds no film"
        raise ValueError(f"{path} {what}; expected is a table that `c2fvl evaluate` wrote: score the model again")
    ordered = [row for _, row in sorted(rows, key=lambda entry: entry[1]["id"])]
    ids = tuple(row["id"] for row in ordered)
    if len(set(ids)) < len(ids):
        raise ValueError(f"{path} names a film twice; score the model again")
    counted = [column for column in _COUNTS if column in columns]
    try:
        scores = {name: np.array([float(row[column]) for row in ordered]) for name, column in SCORES.items()}
        counts = np.array([[float(row[column]) for column in counted] for row in ordered])
    except ValueError as error:
        raise ValueError(f"{path} holds what is no number ({error}); score the model again") from None
    if not all(((values >= 0) & (values <= 1)).all() for values in scores.values()):  # a NaN is neither
        raise ValueError(f"{path} holds a score that is not finite or not from 0 to 1; score the model again")
    groups = tuple(row["group"] or None for row in ordered)
    return CaseTable(path, ids, groups, scores, counts if len(counted) == len(_COUNTS) else None)


def check_same_cases(labels: Sequence[str], tables: Sequence[CaseTable]) -> None:
    """Raise `ValueError`, saying which differ, unless all tables are of the same films, groups and masks."""
    for label, table in zip(labels, tables, strict=True):
        first = set(tables[0].ids)
        only_first, only_second = sorted(first - set(table.ids)), sorted(set(table.ids) - first)
        if only_first or only_second:
            parts = [
                f"only {whose} has {listed(names, _NAMES_SHOWN)}"
                for whose, names in ((labels[0], only_first), (label, only_second))
                if names
            ]
            raise ValueError(
                f"{labels[0]} was scored on {len(first)} films and {label} on {len(table.ids)}, not the same ones, of "
                f"which {len(first & set(table.ids))} are common: {'; '.join(parts)}; score them again on one part "
                "(--root DATA --fresh)"
            )
        other = [name for name, one, two in zip(table.ids, tables[0].groups, table.groups, strict=True) if one != two]
        if table.counts is not None and tables[0].counts is not None:
            unequal = tables[0].counts[:, 2] != table.counts[:, 2]
            other += [name for name, differs in zip(table.ids, unequal, strict=True) if differs]
        if other:
            raise ValueError(
                f"{labels[0]} and {label} were scored on other masks or groups of films of the same names: "
                f"{listed(other, _NAMES_SHOWN)}; score them again on the same data (--root DATA --fresh)"
            )


def mean_scores(seeds: Sequence[CaseTable]) -> dict[str, NDArray[np.float64]]:
    """Return the scores of one system film by film, the mean over its seeds."""
    return {name: np.mean([table.scores[name] for table in seeds], axis=0) for name in SCORES}


def estimates(seeds: Sequence[CaseTable], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Return `dice_per_image` and `iou_per_image`, and where pixels are counted `dice_pooled` and `iou_pooled`.

    Of several seeds each is the mean over the seeds.
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
    """Return the paired differences of every two systems, each the mean of its seeds, film by film.

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
            first, second, found[place],
            {name: permutation[name][place] for name in SCORES}, {name: wilcoxon[name][place] for name in SCORES},
        )
        for place, (first, second) in enumerate(pairs)
    ]  # fmt: skip
