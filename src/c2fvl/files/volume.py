"""A stack of CT slices as a network takes them, with what its files say about place, grey values and scale.

A `Volume` always lies alike: slices from the feet to the head, in each slice rows from front to back and columns from
the patient's right to the patient's left, as CT is shown. Files that store it otherwise are turned when they are read,
and masks are turned back by `to_file`.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 2**30
"""Of all values of a volume: 2048 slices of 512 × 512 in 16 bits."""
AIR = -1000.0
"""In Hounsfield units (HU); what padding becomes."""
_MAX_LOWEST = -200.0
"""Values of a chest in HU reach far below this, since the lungs hold air."""
_SAMPLE_SLICES, _SAMPLE_STEP = 16, 8
NO_AIR = (
    "No value is below {lowest:g}, so the values are probably not Hounsfield units (air is -1000); export the CT with "
    "its rescaling."
)


@dataclass(frozen=True)
class Lie:
    """How a stack lies in its file."""

    axes: tuple[int, int, int] = (0, 1, 2)
    """Which axis of the file runs along the slices, the rows and the columns of the volume."""
    reversed: tuple[bool, bool, bool] = (False, False, False)
    """Whether the file stores it from the head, from the back, from the patient's left."""

    def upright(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return an array of the file as (slices, rows, columns), without a copy."""
        return values.transpose(self.axes)[self._turn]

    def to_file(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return (slices, rows, columns) as the array of the file; the inverse of `upright`."""
        return np.transpose(values[self._turn], np.argsort(self.axes))

    @property
    def _turn(self) -> tuple[slice, slice, slice]:
        first, second, third = (slice(None, None, -1 if turned else 1) for turned in self.reversed)
        return first, second, third


@dataclass(frozen=True)
class Volume:
    """A stack of slices, and how it lies in its file."""

    values: NDArray[Any]
    """(slices, rows, columns) of any real numbers; `hounsfield` gives them as HU."""
    kind: str
    """"dicom" or "nifti"."""
    lie: Lie = Lie()
    slope: float = 1.0
    intercept: float = 0.0
    """HU = value × slope + intercept."""
    is_windowed: bool = False
    """Whether the values are grey values in [0, 1] after slope and intercept, no HU: a window was applied before."""
    spacing: tuple[float, float, float] | None = None
    """Distance in mm between slices, rows and columns; None if unknown."""
    orientation_source: str = "file"
    """"file" or "assumed"."""
    lossy: bool = False
    """Whether slices were compressed with loss."""
    skipped: dict[str, int] = field(default_factory=dict)
    """How many files of the series were left out, by the reason."""
    warnings: tuple[str, ...] = ()
    """What a user must know before relying on the result, each a whole sentence."""
    headers: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    """The `pydicom.Dataset` of each slice without its pixels, in the order of the slices; empty for NIfTI."""
    grid: Any = field(default=None, repr=False, compare=False)
    """Of NIfTI: header, affine and shape, as `grid_of_nifti` takes them."""

    def hounsfield(self, number: int) -> NDArray[np.float32]:
        """Return a slice, counted from 0, in HU. Raises `ValueError` for a value that is no number."""
        found = self.values[number].astype(np.float32)
        is_rescaled = (self.slope, self.intercept) != (1, 0)
        if is_rescaled:
            with np.errstate(over="ignore", invalid="ignore"):
                found = found * np.float32(self.slope) + np.float32(self.intercept)
        if (is_rescaled or self.values.dtype.kind == "f") and not np.isfinite(found).all():
            raise ValueError(
                f"slice {number + 1} holds values that are not finite numbers (NaN or infinity); replace them by the "
                "value of air, -1000, and save the volume again"
            )
        return found

    def shown(self, number: int, window: tuple[float, float]) -> NDArray[np.float32]:
        """Return a slice, counted from 0, as grey values in [0, 1] by a window: center and width in HU."""
        center, width = window
        found = self.hounsfield(number)
        if not self.is_windowed:
            found = (found - np.float32(center - width / 2)) / np.float32(width)
        return np.ascontiguousarray(np.clip(found, 0, 1))

    def to_file(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a mask (slices, rows, columns) as the array of the NIfTI file, or as the stack of its DICOM slices."""
        return self.lie.to_file(mask)

    @property
    def voxel_ml(self) -> float | None:
        """Return the millilitres of a voxel; None if the distances are unknown."""
        return None if self.spacing is None else float(np.prod(self.spacing)) / 1000

    def as_record(self) -> dict[str, Any]:
        """Return what the record of a prediction says about the file."""
        return {
            "kind": self.kind,
            "series_instance_uid": str(self.headers[0].get("SeriesInstanceUID", "")) if self.headers else None,
            "orientation_source": self.orientation_source,
            "spacing_mm": None if self.spacing is None else [round(distance, 6) for distance in self.spacing],
            "lossy": self.lossy,
            "skipped": dict(self.skipped),
            "warnings": list(self.warnings),
        }


def sampled(values: NDArray[Any]) -> NDArray[Any]:
    """Return some thousands of the values of a stack (slices, rows, columns), evenly spaced."""
    step = max(1, len(values) // _SAMPLE_SLICES)
    return values[::step, ::_SAMPLE_STEP, ::_SAMPLE_STEP]


def remarks_on_values(volume: Volume) -> tuple[str, ...]:
    """Return a remark where the values are no HU of a chest."""
    if volume.is_windowed:
        return ()
    lowest = float(sampled(volume.values).min()) * volume.slope + volume.intercept
    return (NO_AIR.format(lowest=lowest),) if lowest > _MAX_LOWEST else ()


def nearest_lie(directions: NDArray[np.float64]) -> tuple[Lie, float]:
    """Return how an array lies whose axes run along these columns (3, 3), and the largest angle in degrees beside it.

    The directions are of any length, to the patient's left, back and head (LPS).
    """
    cosines = directions / np.linalg.norm(directions, axis=0)
    axes = max(itertools.permutations(range(3)), key=lambda order: sum(abs(cosines[_TOWARDS, order])))
    along = cosines[_TOWARDS, axes]
    head, back, left = (bool(value < 0) for value in along)
    slices, rows, columns = axes
    angle = float(np.rad2deg(np.arccos(np.clip(np.abs(along), 0, 1).min())))
    return Lie((slices, rows, columns), (head, back, left)), angle


_TOWARDS = [2, 1, 0]
"""Slices run to the head, rows to the back, columns to the patient's left: the coordinates 2, 1, 0 of LPS."""
