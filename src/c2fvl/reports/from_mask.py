"""Make a report from a mask by the conventions of the published captions, for images without a report.

The rules were fitted to the train splits of QaTa-COV19 ("film") and MosMedData+ ("ct"); docs/reports.md says how often
they agree with the captions of the val splits. All lengths are fractions of the image, so its size does not matter.

Left and right are the halves of the image, and a lesion is an 8-connected region. On a chest film, the zones of a lung
follow from how far up and down its lesions reach. On CT, where upper, middle and lower are thirds of the image, the
captions name one zone for each lung: the third in which its highest lesion of some size begins, or all three.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from c2fvl.reports.report import Report
from c2fvl.reports.zones import HANDS, HEIGHTS, ZONES, hand_of, height_of, zones_of

MIN_LESION = 1.5e-4
"""Smaller lesions are not counted: 8 pixels of 224 x 224, 10 of 256 x 256."""

_CT_MIN_ZONE_LESION = 7.5e-4
"""A smaller lesion of a CT slice (50 pixels of 256 x 256) names no zone if there is a larger one."""
_FILM_UPPER_ABOVE = 0.27
"""On a chest film, the lesions of a lung reach the upper zone if they begin above this height."""
_FILM_MIDDLE_ABOVE = 0.31
_FILM_LOWER_BELOW = 0.42
"""They reach the lower zone if they end below this height, and the middle zone if they begin above the other."""


class _Convention(NamedTuple):
    min_side: float
    """Lesion in one half, as a fraction of the whole image, from which on its lung is infected."""
    heights: Callable[[NDArray[np.uint8]], tuple[bool, bool, bool]]


def report_from_mask(mask: NDArray[np.generic], *, modality: Literal["film", "ct"]) -> Report:
    """Return the report, in image orientation, that a caption would give for a mask (H, W) of 0 and 1 (or booleans).

    An empty mask gives "no pulmonary infection, zero infected areas". Lesions below `MIN_LESION` are ignored unless
    there are no others. Raises `ValueError` for another shape, other values or an unknown modality.
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
    halves = dict(zip(HANDS, (binary[:, :middle], binary[:, middle:]), strict=True))
    filled = {hand: int(half.sum()) for hand, half in halves.items()}
    infected = [hand for hand in halves if filled[hand] >= max(1, convention.min_side * binary.size)]
    if not infected:
        infected = [max(filled, key=lambda hand: filled[hand])]
    named: set[str] = set()
    for hand in infected:
        named.update(zone for zone, hit in zip(zones_of(hand), convention.heights(halves[hand]), strict=True) if hit)
    return Report("bilateral" if len(infected) == 2 else "unilateral", number, frozenset(named))


def zone_areas(mask: NDArray[np.generic]) -> dict[str, int]:
    """Return the number of lesion pixels in each zone of a mask (H, W): thirds of its height, halves of its width.

    Left is image left (patient's right). Raises `ValueError` as `report_from_mask` does.
    """
    binary = _binary(mask)
    height, width = binary.shape
    rows = [0, round(height / 3), round(2 * height / 3), height]
    areas = {}
    for zone in ZONES:
        columns = slice(0, width // 2) if hand_of(zone) == "left" else slice(width // 2, width)
        third = HEIGHTS.index(height_of(zone))
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
    """Return size in pixels and first row of each 8-connected region."""
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
