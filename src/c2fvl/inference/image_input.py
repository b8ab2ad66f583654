"""Everything that `Predictor` takes as an image, as a `Picture`. No torch."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from c2fvl.data.image_cache import as_grey
from c2fvl.files.dicom_film import read_film
from c2fvl.files.images import unit_range
from c2fvl.files.picture import CLINICAL_KINDS, Picture
from c2fvl.files.read_picture import read_picture
from c2fvl.files.sanity import check_grey_values
from c2fvl.reports.report import Report

ImageInput = Any
"""A path, the bytes of a file, a pydicom dataset, a Pillow picture, an array, or a `Picture`."""
_PILLOW_MODES = ("L", "RGB", "I;16", "I;16B", "I;16L", "F")
_EXPECTED = "give a path, or an array (height, width) or (height, width, 3) of uint8, uint16 or floats in [0, 1]"


def default_of(picture: Picture, report: str | Report | None) -> str | None:
    """Return whose left a sentence with this picture means if nobody says; None where the sentence decides.

    Clinical files come with reports of radiologists, who mean the patient's.
    """
    return "patient" if picture.kind in CLINICAL_KINDS and isinstance(report, str) else None


def as_picture(image: Any, *, force_view: bool = False, frame: int | None = None) -> Picture:
    """Return an image of any of the kinds that `Predictor` takes as a picture. Raises `ValueError` for others."""
    if isinstance(image, Picture):
        return image
    if isinstance(image, str | os.PathLike):
        return read_picture(Path(image), force_view=force_view, frame=frame)
    if isinstance(image, bytes | bytearray | memoryview):
        return read_picture(bytes(image), force_view=force_view, frame=frame)
    if type(image).__module__.partition(".")[0] == "pydicom":
        return read_film(image, force_view=force_view, frame=frame)
    found = check_grey_values(unit_range(as_grey(_checked_array(image))))
    return Picture(found.pixels, "array", window_source=found.window_source, warnings=found.warnings)


def _checked_array(image: Any) -> np.ndarray:
    """Return the image as an array (H, W) or (H, W, 3) of uint8, uint16 or floats in [0, 1]."""
    try:
        array = np.asarray(image)  # also of Pillow, a tensor on the CPU, or nested lists
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the image is {type(image).__name__}, which is no array ({error}); {_EXPECTED}") from error
    if array.dtype.kind not in "uif" or (isinstance(image, Image.Image) and image.mode not in _PILLOW_MODES):
        kind = f"a picture of mode {image.mode}" if isinstance(image, Image.Image) else f"of {array.dtype} values"
        raise ValueError(f"the image is {kind}; {_EXPECTED}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if isinstance(image, list | tuple) and array.dtype.kind == "i" and array.size:
        if array.min() < 0 or array.max() > 255:
            raise ValueError(f"the numbers of the list are not from 0 to 255; {_EXPECTED}")
        array = array.astype(np.uint8)
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(
            f"the image has the shape {array.shape}; it must be (height, width), or (height, width, 3) RGB"
        )
    if array.dtype in (np.uint8, np.uint16):
        return array
    if array.dtype.kind != "f" or not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise ValueError("the image must be uint8, uint16, or floating point in [0, 1] without NaN")
    return array
