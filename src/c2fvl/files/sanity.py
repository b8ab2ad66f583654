"""Grey values that no network was trained on: too narrow, saturated, too dark."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SAMPLE_SIDE = 400
_PERCENTILES = (0.5, 99.5)
_MIN_RANGE = 0.1
_MAX_AT_ONE_END = 0.5


def sampled(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return about 400 × 400 of the pixels, evenly spaced."""
    rows, columns = (max(1, length // _SAMPLE_SIDE) for length in pixels.shape[:2])
    return pixels[::rows, ::columns]


def fault(sample: NDArray[Any]) -> str:
    """Return what is wrong with grey values in [0, 1]; empty if nothing is."""
    if not sample.size:
        return ""
    low, high = np.percentile(sample, (1, 99))
    if high - low < _MIN_RANGE:
        return f"98 % of the pixels lie within {100 * (high - low):.1f} % of the range"
    for name, at_end in (("black", sample <= 0), ("white", sample >= 1)):
        if at_end.mean() > _MAX_AT_ONE_END:
            return f"{100 * at_end.mean():.0f} % of the pixels are {name}"
    return ""


def stretch(sample: NDArray[Any]) -> tuple[float, float]:
    """Return the values that become black and white."""
    if not sample.size:
        return 0.0, 1.0
    low, high = np.percentile(sample, _PERCENTILES)
    return float(low), float(high)


def repaired(remark: str) -> str:
    """Return the warning about a picture that was stretched."""
    return f"{remark}, so the grey values were stretched between their percentiles 0.5 and 99.5.".capitalize()
