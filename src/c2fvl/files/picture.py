"""An image as a network takes it, with what its file says about orientation, grey values and scale.

PNG, JPEG and TIFF files say little of this; DICOM and NIfTI files say much. A `Picture` is always upright: head at the
top, the patient's right at the left of the image, as radiographs are shown. A file that stores it otherwise is turned
when it is read, and everything that was computed is turned back by `to_file`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW_SOURCES = ("values", "voi_lut", "window", "modality_lut", "bits", "percentile", "given")
"""What decides which values are black and white: the stored values themselves (PNG, JPEG, TIFF), a table or a window
of the file, the range of its bits, percentiles of the pixels, or the user."""
CLINICAL_KINDS = ("dicom", "nifti")
SIDES_ASSUMED = (
    "The file does not say how the image lies; its left side is taken as the patient's right, as in standard display. "
    "Check every side that is named here."
)
ORIENTATION_SOURCES = ("file", "assumed", "given")
SPACING_SOURCES = ("calibrated", "magnification", "detector", "file", "given", "unknown")


@dataclass(frozen=True)
class Picture:
    """An upright image, and how it lies in its file."""

    pixels: NDArray[np.float32]
    """(H, W) grey or (H, W, 3) RGB, in [0, 1], black is 0."""
    kind: str
    """"png", "jpeg", "tiff", "dicom", "nifti" or "array"."""
    transposed: bool = False
    """Whether rows and columns of the file are exchanged; done first when reading."""
    mirrored: bool = False
    """Whether the file stores the image with left and right exchanged."""
    flipped: bool = False
    """Whether the file stores the image upside down."""
    orientation_source: str = "assumed"
    """One of `ORIENTATION_SOURCES`."""
    window_source: str = "values"
    """One of `WINDOW_SOURCES`."""
    spacing: tuple[float, float] | None = None
    """Distance in mm between rows and between columns of `pixels` in the patient; None if unknown."""
    spacing_source: str = "unknown"
    """One of `SPACING_SOURCES`."""
    lossy: bool = False
    """Whether the pixels were compressed with loss."""
    warnings: tuple[str, ...] = ()
    """What a user must know before relying on the result, each a whole sentence."""
    header: Any = field(default=None, repr=False, compare=False)
    """The `pydicom.Dataset` of the file without its pixels, for results that refer to it; None for other kinds."""
    grid: Any = field(default=None, repr=False, compare=False)
    """Where the pixels of a NIfTI file lie, as `grid_of_nifti` takes it; None for other kinds."""

    def to_file(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return a map (H, W) or (C, H, W) of this picture as it lies in the file."""
        if self.flipped:
            values = values[..., ::-1, :]
        if self.mirrored:
            values = values[..., ::-1]
        if self.transposed:
            values = np.swapaxes(values, -1, -2)
        return np.ascontiguousarray(values)

    def from_file(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return a map (H, W) or (C, H, W) of the file upright; the inverse of `to_file`."""
        if self.transposed:
            values = np.swapaxes(values, -1, -2)
        if self.mirrored:
            values = values[..., ::-1]
        if self.flipped:
            values = values[..., ::-1, :]
        return np.ascontiguousarray(values)

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Return the warnings, and for a clinical file that does not say how it lies, that its sides are assumed."""
        return (*self.warnings, SIDES_ASSUMED) if self.has_assumed_sides else self.warnings

    @property
    def has_assumed_sides(self) -> bool:
        """Tell whether this is a clinical file that does not say how it lies."""
        return self.kind in CLINICAL_KINDS and self.orientation_source == "assumed"

    def as_record(self) -> dict[str, Any]:
        """Return what the record of a prediction says about the file."""
        return {
            "kind": self.kind,
            "window_source": self.window_source,
            "orientation_source": self.orientation_source,
            "mirrored": self.mirrored,
            "flipped": self.flipped,
            "spacing_mm": None if self.spacing is None else list(self.spacing),
            "spacing_source": self.spacing_source,
            "lossy": self.lossy,
            "warnings": list(self.all_warnings),
        }
