"""Grey values as no network was trained on, which neither a network's confidence nor a user may notice.

Values that use a small part of the range are stretched; that costs a sound film 0.6 points of Dice at most. Values that
are lost, or black and white exchanged, cannot be repaired here. All of it is said. The limits are set by the
training part of QaTa-COV19; `benchmarks/grey_values.py` measures what slips through.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_SAMPLE_SIDE = 256
_PERCENTILES = (0.5, 99.5)
_MIN_RANGE = 0.22
"""Of the values between the percentiles 1 and 99."""
_QUARTER, _MIN_BEYOND_QUARTER = 0.25, 0.05
"""Where hardly a pixel is over a quarter of the range, 12 or 14 bits were read as 16; the exception is a marker."""
_MAX_INSIDE = ((0.0, 0.17), (0.2, 0.04))
"""Of black and white pixels together in an image without its border, less this part of the rest on each side."""
_MAX_LOST = 0.6
"""Of black and white pixels in an image that can be stretched."""
_MIN_SIDE = 32
"""Of an image large enough to show a chest."""
_JUMP, _MAX_JUMPS = 0.8, 0.012
"""Of neighbours that differ by more than this part of the range: where upper bits are cut off, values jump."""
_MIN_CONTRAST = 0.03
"""Of a row or a column at the border that belongs to the image."""
_TYPICAL_HALF = np.array(
    [
        [-0.39, -0.17, -0.04, -0.06],
        [-0.20, 0.00, -0.17, 0.22],
        [-0.07, -0.14, -0.13, 0.09],
        [0.22, -0.19, -0.30, -0.12],
        [-0.04, 0.11, -0.14, 0.38],
        [-0.19, -0.05, 0.15, 0.55],
        [-0.16, -0.18, 0.14, 0.54],
        [-0.09, 0.06, 0.13, 0.26],
    ],
    np.float32,
)
_TYPICAL = np.hstack([_TYPICAL_HALF, _TYPICAL_HALF[:, ::-1]])
"""Where a frontal chest film, and less so a slice of CT, is brighter (above 0) and darker than its mean: least squares
on the training part of QaTa-COV19, and on MosMedData+ as it is and upside down."""


@dataclass(frozen=True)
class Checked:
    """An image whose grey values are sound or were repaired as far as they can be."""

    pixels: NDArray[np.float32]
    window_source: str
    """"values", or "percentile" if the grey values were stretched."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fault:
    """What is wrong with the range of grey values."""

    reason: str
    counts: NDArray[np.bool_]
    """Which pixels of the sample tell the range of a stretch."""
    is_lost: bool
    """Whether the grey values between black and white are gone, so that only values from before help."""

    @property
    def repaired(self) -> str:
        """Return the warning where the values were stretched."""
        return f"{self.reason}, so the grey values were stretched between their percentiles 0.5 and 99.5."

    @property
    def remaining(self) -> str:
        """Return the warning where nothing could be done."""
        return f"{self.reason}. What the image showed there is lost; export it again with a wider window."


def check_grey_values(pixels: NDArray[np.float32]) -> Checked:
    """Return the image (H, W) or (H, W, 3) in [0, 1], stretched if its values use a small part of the range."""
    sample = sampled(pixels)
    found = fault_of(sample.reshape(len(sample), -1))
    if found is None:
        return Checked(pixels, "values", remarks_on_chest(sample))
    if found.is_lost:
        return Checked(pixels, "values", (found.remaining,))
    low, high = stretch_range(sample.reshape(len(sample), -1)[found.counts])
    sample, stretched = (np.clip((values - low) / (high - low), 0, 1) for values in (sample, pixels))
    return Checked(stretched.astype(np.float32, copy=False), "percentile", (found.repaired, *remarks_on_chest(sample)))


def sampled(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return about 256 × 256 of the pixels, evenly spaced."""
    rows, columns = (max(1, length // _SAMPLE_SIDE) for length in pixels.shape[:2])
    return pixels[::rows, ::columns]


def fault_of(sample: NDArray[Any], counts: NDArray[np.bool_] | None = None) -> Fault | None:
    """Return what is wrong with the range of grey values (H, W) in [0, 1]; None if nothing is.

    `counts` leaves out pixels that show nothing, such as padding.
    """
    counts = np.ones(sample.shape, bool) if counts is None else counts
    values = sample[counts]
    if not values.size:
        return None
    lowest, highest = values.min(), values.max()
    if lowest == highest:
        return Fault(f"All pixels have the same grey value ({100 * lowest:.0f} % of white)", counts, True)
    for name, side in (
        ("darker than a quarter", sample <= _QUARTER),
        ("brighter than three quarters", sample >= 1 - _QUARTER),
    ):
        if np.mean(side[counts]) > 1 - _MIN_BEYOND_QUARTER:
            is_lost = bool(np.mean((values <= 0) | (values >= 1)) > _MAX_LOST)
            return Fault(f"Nearly all pixels are {name} of the range", side & counts, is_lost)
    at_ends = _too_much_at_ends(sample)
    if at_ends:
        return Fault(at_ends, counts, True)
    low, high = np.percentile(values, (1, 99))
    if high - low < _MIN_RANGE:
        return Fault(f"98 % of the pixels lie within {100 * (high - low):.1f} % of the range", counts, False)
    return None


def _too_much_at_ends(sample: NDArray[Any]) -> str:
    """Return how many pixels are black and white if that is too much; there may be a border of either."""
    if min(sample.shape) < _MIN_SIDE:
        return ""
    inside = _without_border(sample)
    for part, limit in _MAX_INSIDE:
        rows, columns = (int(part * length) for length in inside.shape)
        center = inside[rows : len(inside) - rows, columns : inside.shape[1] - columns]
        black, white = np.mean(center <= 0), np.mean(center >= 1)
        if black + white > limit:
            where = f"{100 * black:.0f} % of the pixels in the middle of the image are black"
            return f"{where} and {100 * white:.0f} % white"
    return ""


def stretch_range(sample: NDArray[Any]) -> tuple[float, float]:
    """Return the values that become black and white: the percentiles 0.5 and 99.5, and never the same."""
    if not sample.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(sample, _PERCENTILES))
    if high <= low:
        low, high = float(sample.min()), float(sample.max())
    return (low, high) if high > low else (low, low + 1)


def remarks_on_chest(sample: NDArray[Any]) -> tuple[str, ...]:
    """Return what a grey image (H, W), in [0, 1], has that no upright image of a chest has. Colour is passed over."""
    if sample.ndim == 3 or min(sample.shape) < _MIN_SIDE:
        return ()
    jumps = np.mean(np.abs(np.diff(sample, axis=1)) > _JUMP)
    if jumps > _MAX_JUMPS:
        return (
            f"The grey values jump from black to white at {100 * jumps:.0f} % of the pixels, as when the upper bits "
            "are cut off; export the image again with all its bits.",
        )
    if _likeness(sample) < 0:
        return (
            "Bright and dark are distributed as on no upright image of a chest; look whether black and white are "
            "exchanged, and whether the image is turned.",
        )
    return ()


def _likeness(sample: NDArray[Any]) -> float:
    """Return how much the image is like a typical film: about 1, and -1 with black and white exchanged."""
    sample = _without_border(sample)
    small = cv2.resize(np.ascontiguousarray(sample, np.float32), _TYPICAL.shape, interpolation=cv2.INTER_AREA)
    small -= small.mean()
    return float((small * _TYPICAL).sum() / max(np.linalg.norm(small), 1e-6))


def _without_border(sample: NDArray[Any]) -> NDArray[Any]:
    """Return what is left without rows and columns of one grey value at the border."""
    for axis in (1, 0):
        low, high = np.percentile(sample, (10, 90), axis=axis)
        inside = np.flatnonzero(high - low > _MIN_CONTRAST)
        if len(inside) > 1:
            kept = slice(inside[0], inside[-1] + 1)
            sample = sample[kept] if axis == 1 else sample[:, kept]
    return sample
