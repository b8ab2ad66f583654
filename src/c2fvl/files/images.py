"""Files to pixels and back: PNG, JPEG and TIFF, 8 and 16 bit, grey and colour.

Everything is decided by a file's content, not by the ending of its name. The pixel limit is checked on the header,
before anything is unpacked. Pixels come as they are stored: a rotation noted in EXIF is **not** applied, for a mask
drawn on the stored pixels would no longer fit. Transparency is dropped. Other kinds of file (DICOM, NIfTI) get their
place in `image_headers` and in `read_pixels`; until then they are refused with the way to convert them.
"""

import functools
import logging
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from c2fvl.files import storage
from c2fvl.files.image_headers import Header, read_header

_logger = logging.getLogger(__name__)

MAX_PIXELS = 100_000_000
_MAX_BYTES_PER_PIXEL = 16  # 16-bit RGBA, doubled: more bytes than that are no picture within the limit
_DARK_16_BIT = 65536 // 4
_NOMINAL_DOTS = (1, 72, 75, 90, 96, 100, 120, 150, 180, 200, 240, 300, 360, 400, 600, 720, 1200, 2400)  # per inch
_SAME_DOTS = 0.6
_MM_PER_INCH = 25.4
_SPARE_BYTES = 64 * 2**20  # colour profiles and other annexes
_DECODED_BITS = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def read_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """Read a picture as (H, W, 3) float32, RGB in [0, 1]; grey is repeated.

    8-bit values are divided by 255 and 16-bit values by 65535, whatever range they use: 12-bit pixels kept in 16-bit
    files come out dark and should be stretched beforehand. Floating-point TIFF must lie in [0, 1] already.

    Raises `FileNotFoundError`, or `ValueError` for a file that is no picture, damaged, cut short, over `max_pixels`,
    of several pages, or of a form that is not read.
    """
    return decode_image(read_image_bytes(path, max_pixels=max_pixels), path, max_pixels=max_pixels)


def decode_image(data: bytes, path: Path | str, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """Return the picture that a file's content holds, as `read_image` does; `path` is named in errors."""
    pixels = _decode_pixels(data, path, max_pixels)
    if pixels.dtype == np.float32:
        scaled = pixels
    else:
        if pixels.dtype == np.uint16 and 0 < pixels.max() < _DARK_16_BIT:
            _warn_of_dark(str(path), int(pixels.max()))
        scaled = np.divide(pixels, np.float32(_DECODED_BITS[pixels.dtype]), dtype=np.float32)
    return np.repeat(scaled[:, :, None], 3, axis=2) if scaled.ndim == 2 else scaled


def read_spacing(path: Path | str) -> tuple[float, float] | None:
    """Return the distance in mm of a picture's rows and of its columns, None where the file does not tell it.

    PNG, JPEG and TIFF hold a resolution. Those at which screens show and printers print (72, 96, 300 dots per inch and
    the like) say nothing of the body and are not taken for it.
    """
    try:
        with Image.open(path) as picture:
            across, down = (float(dots) for dots in picture.info["dpi"])
    except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError, Image.DecompressionBombError):
        return None
    if not all(math.isfinite(dots) and dots > 0 for dots in (across, down)):
        return None
    if all(min(abs(dots - nominal) for nominal in _NOMINAL_DOTS) < _SAME_DOTS for dots in (across, down)):
        return None
    return (_MM_PER_INCH / down, _MM_PER_INCH / across)


@functools.lru_cache(maxsize=4096)  # once for each file, however often it is read
def _warn_of_dark(path: str, highest: int) -> None:
    _logger.warning(
        "%s: a 16-bit film whose brightest value is %d of 65535 looks black to a network; if its values have 12 bits, "
        "multiply them by 16 and save it again",
        path,
        highest,
    )


def read_mask(path: Path | str, *, max_pixels: int = MAX_PIXELS, binarise: bool = False) -> NDArray[np.uint8]:
    """Read a mask as (H, W) uint8: 0 is background, 1 is lesion.

    A mask is binary: it holds 0 and at most one other value (1, 255 or any other). A colour file counts when its
    channels are equal. With `binarise` every value above half of the full range is lesion, which repairs a mask
    that went through JPEG.

    Raises `ValueError` that names the values found in a mask that is not binary, and else as `read_image`.
    """
    return _decode_mask(read_image_bytes(path, max_pixels=max_pixels), path, max_pixels, binarise=binarise)


def _decode_mask(data: bytes, path: Path | str, max_pixels: int, *, binarise: bool) -> NDArray[np.uint8]:
    labels = _decode_labels(data, path, max_pixels)
    if binarise:
        half = 0.5 if labels.dtype == np.float32 else _DECODED_BITS[labels.dtype] / 2
        return (labels > half).astype(np.uint8)
    highest = labels.max()
    lesion = labels == highest if highest > 0 else np.zeros(labels.shape, bool)
    if not (lesion | (labels == 0)).all():
        values = np.unique(labels)
        shown = ", ".join(str(value) for value in values[:6]) + (", …" if len(values) > 6 else "")
        raise ValueError(
            f"{path}: the mask is not binary: it holds {len(values)} values ({shown}), expected 0 and one other; "
            f"save it as PNG with 0 and 255 (JPEG blurs masks), "
            f"for example write_mask(OUT, read_mask(PATH, binarise=True))"
        )
    return lesion.astype(np.uint8)


def read_labels(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a mask of several classes as (H, W) uint8: its grey values are the classes, 0 is background.

    Raises `ValueError` for values above 255 and for floating-point numbers, and else as `read_image`.
    """
    return _decode_classes(read_image_bytes(path, max_pixels=max_pixels), path, max_pixels)


def _decode_classes(data: bytes, path: Path | str, max_pixels: int) -> NDArray[np.uint8]:
    labels = _decode_labels(data, path, max_pixels)
    if labels.dtype == np.float32 or labels.max() > 255:
        raise ValueError(f"{path}: a mask of classes holds whole numbers from 0 to 255; save it as 8-bit grey PNG")
    return labels.astype(np.uint8)


def read_mask_as(path: Path | str, kind: str) -> NDArray[np.uint8]:
    """Read a mask as the setting data.mask says: "lesion", "above_half" or "labels"."""
    return decode_mask_as(read_image_bytes(path), path, kind)


def decode_mask_as(data: bytes, path: Path | str, kind: str) -> NDArray[np.uint8]:
    """Return the mask that a file's content holds, as `read_mask_as` does; `path` is named in errors."""
    if kind == "labels":
        return _decode_classes(data, path, MAX_PIXELS)
    return _decode_mask(data, path, MAX_PIXELS, binarise=kind == "above_half")


def read_pixels(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Read the pixels as stored: (H, W) for grey or (H, W, 3) RGB; uint8, uint16 or, from TIFF, float32 in [0, 1].

    Raises as `read_image`.
    """
    return _decode_pixels(read_image_bytes(path, max_pixels=max_pixels), path, max_pixels)


def _decode_pixels(data: bytes, path: Path | str, max_pixels: int) -> NDArray[Any]:
    try:
        header = _checked_header(data, max_pixels)
        return _decode(data, header)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def image_size(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) from the file's header, without unpacking its pixels.

    Raises as `read_image`.
    """
    path = Path(path)
    data = read_image_bytes(path, max_pixels=max_pixels)
    try:
        header = _checked_header(data, max_pixels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return header.height, header.width


def write_mask(path: Path | str, mask: NDArray[Any]) -> None:
    """Write a (H, W) mask of 0 and 1 (or booleans) as 8-bit grey PNG with the values 0 and 255.

    Raises `ValueError` for another shape or other values.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not np.isin(mask, (0, 1)).all():
        raise ValueError(f"{path}: a mask is an array (H, W) of 0 and 1, got shape {mask.shape}, dtype {mask.dtype}")
    _write_png(path, mask.astype(np.uint8) * 255)


def write_labels(path: Path | str, labels: NDArray[Any]) -> None:
    """Write a (H, W) uint8 mask of several classes as 8-bit grey PNG whose values are the classes."""
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ValueError(f"{path}: labels are a uint8 array (H, W), got shape {labels.shape}, dtype {labels.dtype}")
    _write_png(path, labels)


def write_image(path: Path | str, image: NDArray[np.uint8]) -> None:
    """Write a (H, W, 3) RGB or (H, W) grey uint8 picture as PNG.

    Raises `ValueError` for another shape or type.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(
            f"{path}: a picture is uint8 of shape (H, W, 3) or (H, W), got shape {image.shape}, dtype {image.dtype}"
        )
    _write_png(path, image if image.ndim == 2 else image[:, :, ::-1])


def write_probability(path: Path | str, probability: NDArray[np.floating[Any]]) -> None:
    """Write a (H, W) map of probabilities as 16-bit grey PNG; the probability is the stored value / 65535.

    Raises `ValueError` for another shape, a NaN, or a value outside [0, 1].
    """
    probability = np.asarray(probability)
    if probability.ndim != 2 or not ((probability >= 0) & (probability <= 1)).all():  # a NaN fails both
        raise ValueError(f"{path}: probabilities are an array (H, W) in [0, 1], got shape {probability.shape}")
    _write_png(path, np.rint(probability.astype(np.float64) * 65535).astype(np.uint16))


def read_image_bytes(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the content of a picture's file. Raises as `read_image` for what is not there or too large."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > max_pixels * _MAX_BYTES_PER_PIXEL + _SPARE_BYTES:
            raise ValueError(f"{path}: {size} bytes are more than any picture within the limit of {max_pixels} pixels")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no such file; check the name") from error
    except IsADirectoryError as error:
        raise ValueError(f"{path}: this is a folder, expected a picture file") from error


def _checked_header(data: bytes, max_pixels: int) -> Header:
    header = read_header(data)
    if header.height * header.width > max_pixels:
        raise ValueError(
            f"{header.width} x {header.height} pixels are over the limit of {max_pixels} and were not unpacked; "
            f"make the picture smaller, or raise max_pixels if it is trusted"
        )
    if header.bits != 32 if header.floating else header.bits > 16:
        form = "floating-point" if header.floating else "integer"
        raise ValueError(f"{header.bits}-bit {form} samples are not read; save it with unsigned 8 or 16 bit")
    return header


def _decode(data: bytes, header: Header) -> NDArray[Any]:
    try:
        # unchanged: as many bits and channels as stored, and no turning by EXIF
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"the {header.kind.upper()} file cannot be unpacked ({error.err}); get it again") from error
    if pixels is None:
        raise ValueError(f"the {header.kind.upper()} file is damaged: its pixels cannot be unpacked; get it again")
    if pixels.shape[:2] != (header.height, header.width):
        raise ValueError(
            f"the header says {header.width} x {header.height} pixels, unpacked are {pixels.shape[1]} x "
            f"{pixels.shape[0]}; the file is damaged, get it again"
        )
    if header.floating:
        _check_floating(pixels)
    elif pixels.dtype not in _DECODED_BITS:
        raise ValueError(f"its pixels are of type {pixels.dtype}; save it with unsigned 8 or 16 bit")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        if header.kind == "tiff" and (pixels[:, :, 3] != pixels[:, :, 3].max()).any():
            # the decoder has multiplied the colours by the transparency, and there is no exact way back
            raise ValueError("the TIFF file has a transparency that varies; save it without")
        pixels = pixels[:, :, :3]
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3):
        raise ValueError(f"the picture has {pixels.shape[2]} channels; save it as grey or RGB")
    if pixels.ndim == 3 and (pixels.shape[2] == 1 or header.channels < 3):
        return np.ascontiguousarray(pixels[:, :, 0])  # grey with transparency is unpacked as colour
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _check_floating(pixels: NDArray[Any]) -> None:
    if pixels.dtype != np.float32 or not np.isfinite(pixels).all():
        raise ValueError("the floating-point TIFF holds NaN or infinite values; fill them and save it again")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        raise ValueError(f"the floating-point TIFF holds values from {low:g} to {high:g}; scale them to 0 … 1")


def _decode_labels(data: bytes, path: Path | str, max_pixels: int) -> NDArray[Any]:
    """Return one value per pixel (H, W), whatever it means."""
    pixels = _decode_pixels(data, path, max_pixels)
    if pixels.ndim == 2:
        return pixels
    if (pixels[:, :, :1] != pixels[:, :, 1:]).any():
        raise ValueError(
            f"{path}: the mask is a colour picture whose channels differ, expected grey; save it as grey PNG with 0 "
            f"and 255, or with the numbers of its classes"
        )
    return np.ascontiguousarray(pixels[:, :, 0])


def _write_png(path: Path | str, pixels: NDArray[Any]) -> None:
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: pictures are written as PNG; give the name the ending .png")
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not done:
        raise ValueError(f"{path}: an array of shape {pixels.shape} cannot be written as PNG")
    storage.write_bytes(path, encoded.tobytes())
