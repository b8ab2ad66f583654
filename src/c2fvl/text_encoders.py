"""Reports → the numbers that a network reads, (T, F) for each film.

A film without a report becomes rows of NaN: a value that cannot be mistaken for a report, that every network with
text understands as "not known", and that is never used as a number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from c2fvl.report import Report


@dataclass(frozen=True)
class TextEncoder:
    """One way from a report to numbers."""

    shape: tuple[int, int]
    """(T, F): tokens and features."""
    encode: Callable[[Report | None], np.ndarray]
    """Report → (T, F) float32; None → NaN."""


def encode_attributes(report: Report | None) -> np.ndarray:
    """Return the eight attributes of C2FVL as (1, 8) float32, viewer's frame; NaN where there are none.

    A report kept as free text has no attributes and is "not known" too. A report in the patient's frame is converted.
    """
    if report is None or not report.has_attributes:
        return np.full((1, 8), np.nan, np.float32)
    return np.asarray([report.in_frame("viewer").attributes()], np.float32)


TEXT_ENCODERS: dict[str, TextEncoder] = {"attributes": TextEncoder(shape=(1, 8), encode=encode_attributes)}
