"""Read one image of any kind that can be read, upright, with what its file says about it."""

import io
from pathlib import Path

import numpy as np

from c2fvl.files.dicom_film import read_film
from c2fvl.files.dicom_headers import parse
from c2fvl.files.images import MAX_PIXELS, decode_pixels, read_image_bytes, read_spacing, unit_range
from c2fvl.files.kinds import HEAD_BYTES, kind_of
from c2fvl.files.nifti import read_nifti_picture
from c2fvl.files.picture import CLINICAL_KINDS, Picture
from c2fvl.files.sanity import check_grey_values


def read_picture(
    source: Path | str | bytes,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    force_view: bool = False,
    frame: int | None = None,
) -> Picture:
    """Read an image file, or the content of one.

    A grey image has pixels (H, W), and so has a colour image of equal channels. `name` stands in messages in place of
    the path. `force_view` and `frame`, counted from 1, are for DICOM: let a lateral film pass, and choose an image of a
    file that holds several. Raises `FileNotFoundError`, or `ValueError` for a file that is no image, is damaged, cut
    short or over `max_pixels`, or is of a kind that is not supported.
    """
    if isinstance(source, bytes):
        data, name = source, name or "the image"
    else:
        data, name = read_image_bytes(source, max_pixels=max_pixels), name or str(source)
    kind = kind_of(data[:HEAD_BYTES])
    if kind not in CLINICAL_KINDS:
        return _read_plain(data, name, max_pixels)
    try:
        if kind == "nifti":
            return read_nifti_picture(data, max_pixels=max_pixels)
        return read_film(parse(data), max_pixels=max_pixels, force_view=force_view, frame=frame)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _read_plain(data: bytes, name: str, max_pixels: int) -> Picture:
    pixels, kind, remarks = decode_pixels(data, name, max_pixels=max_pixels)
    if pixels.ndim == 3 and (pixels == pixels[:, :, :1]).all():
        pixels = np.ascontiguousarray(pixels[:, :, 0])
    spacing = read_spacing(io.BytesIO(data))
    checked = check_grey_values(unit_range(pixels))
    return Picture(
        checked.pixels,
        kind,
        window_source=checked.window_source,
        spacing=spacing,
        spacing_source="unknown" if spacing is None else "file",
        warnings=(*remarks, *checked.warnings),
    )
