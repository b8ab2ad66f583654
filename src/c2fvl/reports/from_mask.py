"""Mask → report, by the conventions of the published captions, so that films without text can have one.

The rules were fitted to the train parts of QaTa-COV19 ("film") and MosMedData+ ("ct"); docs/reports.md says how often
they agree with the captions of the val parts. All lengths are fractions of the picture, so that its size is free.

Left and right are the halves of the picture, and a lesion is an 8-connected area. On a film the zones of a lung are
named by how far up and down its lesions reach. On CT, where upper, middle and lower are thirds of the picture, the
captions name one zone for each lung: the third in which its highest lesion of some size begins, or all.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from c2fvl.reports.report import Report
from c2fvl.reports.zones import ZONES

MIN_LESION = 1.5e-4
"""Smaller areas are not counted: 8 pixels of 224 x 224, 10 of 256 x 256."""

_CT_MIN_ZONE_LESION = 7.5e-4
"""Lesions of a CT slice below this (50 pixels of 256 x 256) name no zone where there is a larger one."""
_FILM_UPPER_ABOVE = 0.27
"""A lung's lesions reach the upper zone of a chest film where they begin above this height."""
_FILM_MIDDLE_ABOVE = 0.31
_FILM_LOWER_BELOW = 0.42
"""They reach the lower zone where they end below this height, and the middle one where they begin above the other."""


class _Convention(NamedTuple):
    min_side: float
    """Lesion in a half of the picture, as a fraction of all of it, that makes its lung infected."""
    heights: Callable[[NDArray[np.uint8]], tuple[bool, bool, bool]]


def report_from_mask(mask: NDArray[np.generic], *, modality: Literal["film", "ct"]) -> Report:
    """Return what the captions would say of a mask (H, W) of 0 and 1 (or False and True): a report in viewer's frame.

    An empty mask gives "no pulmonary infection, zero infected areas". Areas below `MIN_LESION` are passed over unless
    there is nothing else. Raises `ValueError` for another shape, other values or an unknown modality.
    """
    convention = _CONVENTIONS.get(modality)
    if convention is None:
        raise ValueError(f"there is no modality {modality!r}; expected one of {', '.join(_CONVENTIONS)}")
    binary = _binary(mask)
    areas = _lesions(binary)[0]
    if not len(areas):
        return Report("none", 0)
    number = max(1, int((areas >= MIN_LESION * binary.size).sum()))
    middle = binary.shape[1] // 2
    halves = {"l": binary[:, :middle], "r": binary[:, middle:]}
    filled = {hand: int(half.sum()) for hand, half in halves.items()}
    infected = [hand for hand in halves if filled[hand] >= max(1, convention.min_side * binary.size)]
    if not infected:
        infected = [max(filled, key=lambda hand: filled[hand])]
    named: set[str] = set()
    for hand in infected:
        zones = [zone for zone in ZONES if zone[0] == hand]
        named.update(zone for zone, hit in zip(zones, convention.heights(halves[hand]), strict=True) if hit)
    return Report("bilateral" if len(infected) == 2 else "unilateral", number, frozenset(named))


def zone_areas(mask: NDArray[np.generic]) -> dict[str, int]:
    """Return the lesion's pixels in each zone of a mask (H, W): thirds of the picture's height, halves of its width.

    Viewer's frame. Raises `ValueError` as `report_from_mask` does.
    """
    binary = _binary(mask)
    height, width = binary.shape
    rows = [0, round(height / 3), round(2 * height / 3), height]
    areas = {}
    for zone in ZONES:
        columns = slice(0, width // 2) if zone[0] == "l" else slice(width // 2, width)
        third = ("upper", "middle", "lower").index(zone[1:])
        areas[zone] = int(binary[rows[third] : rows[third + 1], columns].sum())
    return areas


def _binary(mask: NDArray[np.generic]) -> NDArray[np.uint8]:
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"the mask has the shape {mask.shape}; expected (H, W)")
    binary = mask != 0
    if not (mask == binary).all():
        raise ValueError(f"the mask holds values such as {mask.max()}; expected 0 and 1, as read_mask gives them")
    return np.ascontiguousarray(binary, np.uint8)


def _lesions(binary: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return size and first row of each 8-connected area."""
    statistics = cv2.connectedComponentsWithStats(binary, connectivity=8)[2][1:].astype(np.int64)
    return statistics[:, cv2.CC_STAT_AREA], statistics[:, cv2.CC_STAT_TOP]


def _film_heights(half: NDArray[np.uint8]) -> tuple[bool, bool, bool]:
    rows = np.flatnonzero(half.any(axis=1)) / half.shape[0]
    top, bottom = rows[0], rows[-1] + 1 / half.shape[0]
    upper, lower = top < _FILM_UPPER_ABOVE, bottom > _FILM_LOWER_BELOW
    middle = (top < _FILM_MIDDLE_ABOVE and lower) or not (upper or lower)
    return bool(upper), bool(middle), bool(lower)


def _ct_heights(half: NDArray[np.uint8]) -> tuple[bool, bool, bool]:
    areas, tops = _lesions(half)
    large = areas >= _CT_MIN_ZONE_LESION * 2 * half.size
    thirds = {min(2, int(3 * top) // half.shape[0]) for top in (tops[large] if large.any() else tops)}
    named = thirds if len(thirds) == 3 else {min(thirds)}
    return 0 in named, 1 in named, 2 in named


_CONVENTIONS = {"film": _Convention(4e-3, _film_heights), "ct": _Convention(MIN_LESION, _ct_heights)}
