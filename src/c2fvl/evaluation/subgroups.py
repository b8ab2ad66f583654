"""Subgroups of the cases: by size, side, number and zone of the lesions, and by the columns of the data's table.

All but the columns come from the true masks, never from the reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c2fvl.data.cases import STRAY_FRACTION, Case
from c2fvl.evaluation.summary import COLUMN
from c2fvl.reports.zones import HANDS, ZONES, hand_in_words, third_key, zone_in_words, zones_of

NUM_FIFTHS = 5
MAX_LABELS = 12

Rows = tuple[tuple[str, NDArray[np.intp]], ...]


@dataclass(frozen=True)
class Division:
    """One way to divide the cases into subgroups."""

    name: str
    rows: Rows
    """Label and indices of its cases; none is empty."""
    overlapping: bool = False
    """Whether a case can be in several rows."""


def subgroups(cases: Sequence[Case], scores: Mapping[str, NDArray[np.float64]]) -> list[Division]:
    """Return the divisions of the cases by their `score_case` scores and by the columns of their table.

    A division into a single subgroup is left out. A column of more than 12 different cells is divided into fifths if
    they are numbers, and left out otherwise.
    """
    area = scores["area_target"]
    divisions = [
        Division("size of the lesion", _sizes(area)),
        Division("side", _sides(scores)),
        Division("number of lesions", _numbers(scores["lesions_target"])),
        Division("zone with a lesion", _zones(scores), overlapping=True),
    ]
    names = dict.fromkeys(name for case in cases for name, _ in case.columns)
    for name in names:
        rows = _column([dict(case.columns).get(name, "") for case in cases])
        divisions.append(Division(f"{COLUMN}{name}", rows))
    return [division for division in divisions if len(division.rows) > 1]


def columns_left_out(cases: Sequence[Case]) -> list[str]:
    """Return the columns of the table that make no subgroups."""
    names = dict.fromkeys(name for case in cases for name, _ in case.columns)
    return [name for name in names if len(_column([dict(case.columns).get(name, "") for case in cases])) < 2]


def _sizes(area: NDArray[np.float64]) -> Rows:
    """Return images without lesion, and fifths of the others by the area of their lesions."""
    filled = np.flatnonzero(area > 0)
    order = filled[np.argsort(area[filled], kind="stable")]
    names = ("smallest fifth", "second fifth", "third fifth", "fourth fifth", "largest fifth")
    fifths = [(name, np.sort(part)) for name, part in zip(names, np.array_split(order, NUM_FIFTHS), strict=True)]
    return _filled([("no lesion", np.flatnonzero(area == 0)), *fifths])


def _true_area(zone: str) -> str:
    """Return the name of the true area in a zone."""
    return f"area_target_{third_key(zone)}"


def _sides(scores: Mapping[str, NDArray[np.float64]]) -> Rows:
    left, right = (
        np.sum([scores[_true_area(zone)] for zone in zones_of(hand)], axis=0, dtype=np.float64) for hand in HANDS
    )
    minimum = STRAY_FRACTION * (left + right)
    both = (left > minimum) & (right > minimum)
    return _filled([
        ("no lesion", np.flatnonzero(left + right == 0)),
        (hand_in_words("left", "image"), np.flatnonzero((left > right) & ~both)),
        (hand_in_words("right", "image"), np.flatnonzero((right > left) & ~both)),
        ("both sides", np.flatnonzero(both)),
    ])  # fmt: skip


def _numbers(lesions: NDArray[np.float64]) -> Rows:
    alone = [(f"{number}", np.flatnonzero(lesions == number)) for number in range(4)]
    return _filled([*alone, ("4 and more", np.flatnonzero(lesions >= 4))])


def _zones(scores: Mapping[str, NDArray[np.float64]]) -> Rows:
    minimum = STRAY_FRACTION * scores["area_target"]
    return _filled(
        [
            (
                zone_in_words(zone, "image"),
                np.flatnonzero((scores[_true_area(zone)] > minimum) & (scores["area_target"] > 0)),
            )
            for zone in ZONES
        ]
    )


def _column(cells: Sequence[str]) -> Rows:
    labels = sorted(set(cells))
    if len(labels) <= MAX_LABELS:
        rows = [(label or "(empty)", [index for index, cell in enumerate(cells) if cell == label]) for label in labels]
        return _filled([(label, np.array(indices, np.intp)) for label, indices in rows])
    try:
        values = np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError:
        return ()
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return ()
    bounds = np.unique(np.quantile(values[known], np.linspace(0, 1, NUM_FIFTHS + 1)[1:-1]))
    part = np.searchsorted(bounds, values[known], side="right")
    rows_of = [(number, known[part == number]) for number in range(len(bounds) + 1)]
    named = [
        (f"{values[indices].min():g} to {values[indices].max():g}", indices) for _, indices in rows_of if len(indices)
    ]
    return _filled([*named, ("(empty)", np.flatnonzero(~np.isfinite(values)))])


def _filled(rows: Sequence[tuple[str, NDArray[np.intp]]]) -> Rows:
    return tuple((label, indices) for label, indices in rows if len(indices))
