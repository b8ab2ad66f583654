"""Read and write images: PNG, JPEG and TIFF, 8 and 16 bit, grey and colour.

The content of a file decides how it is read, never the ending of its name. The pixel limit is checked on the header,
before the file is decoded. Pixels come as they are stored: an orientation tag of a JPEG, PNG or TIFF is **not**
applied, because a mask drawn on the stored pixels would no longer fit; a warning names it. Transparency is dropped.
DICOM and NIfTI are refused with a word on how to convert them; `read_picture.py` reads them.
"""

import functools
import io
import logging
import math
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from c2fvl.files import shards, storage
from c2fvl.files.image_headers import Header, read_header
from c2fvl.files.tiff import decode_tiff

_logger = logging.getLogger(__name__)

DECODER = 3
"""Raised whenever the same file gives other pixels than before, so that caches of decoded images are made again."""
MAX_PIXELS = 100_000_000
_MAX_BYTES_PER_PIXEL = 16  # twice 16-bit RGBA: a larger file is no image within the limit
_DARK = 4
"""An image is dark if hardly a pixel lies above this part of the range: 12 bits kept in 16 reach a sixteenth of it, 14
bits a quarter."""
_MAX_BRIGHT_FRACTION = 0.001
_FILLER = bytes(range(190, 254)) * 4 + b"".join(
    b"\xff" + bytes([mark]) + bytes(range(90, 254)) for mark in range(0xD0, 0xD8)
)
"""Pixels of a JPEG, first without and then behind each restart marker."""
_NOMINAL_DPI = (1, 72, 75, 90, 96, 100, 120, 150, 180, 200, 240, 300, 360, 400, 600, 720, 1200, 2400)
_DPI_TOLERANCE = 0.6
_MM_PER_INCH = 25.4
_SPARE_BYTES = 64 * 2**20  # colour profiles and other metadata
_FULL_RANGE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def read_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """Read an image as (H, W, 3) float32, RGB in [0, 1]; grey is repeated.

    8-bit values are divided by 255 and 16-bit values by 65535. Pixels of 10 to 14 bits in a 16-bit file come out dark,
    with a warning, unless the file gives their highest value (TIFF: MaxSampleValue, or as many bits per sample).
    Floating-point TIFF must lie in [0, 1] already.

    Raises `FileNotFoundError`, or `ValueError` for a file that is no image, is damaged, cut short or over `max_pixels`,
    holds several pages, or has a format that is not supported.
    """
    return decode_image(read_image_bytes(path, max_pixels=max_pixels), path, max_pixels=max_pixels)


def decode_image(data: bytes, path: Path | str, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """Decode the content of an image file as `read_image` does; errors name `path`."""
    pixels, header = _decode_pixels(data, path, max_pixels)
    warn_once(path, (*_remarks_on_header(header), *remarks_on_range(pixels)))
    return unit_rgb(pixels)


def read_pixels_and_remarks(path: Path | str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Read the pixels as `read_pixels`, and what is odd about the image though it can be read."""
    pixels, _, remarks = decode_pixels(read_image_bytes(path), path)
    return pixels, (*remarks, *remarks_on_range(pixels))


def decode_pixels(
    data: bytes, path: Path | str, *, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[Any], str, tuple[str, ...]]:
    """Decode pixels as `read_pixels`; return them, the kind of the file, and what is odd about its header."""
    pixels, header = _decode_pixels(data, path, max_pixels)
    return pixels, header.kind, _remarks_on_header(header)


def remarks_on_range(pixels: NDArray[Any]) -> tuple[str, ...]:
    """Return a remark on an image, uint8 or uint16, that uses only the lowest quarter of the range."""
    if pixels.dtype not in _FULL_RANGE or not pixels.any():
        return ()
    full = _FULL_RANGE[pixels.dtype]
    if np.count_nonzero(pixels > full // _DARK) > _MAX_BRIGHT_FRACTION * pixels.size:
        return ()
    bits = pixels.dtype.itemsize * 8
    return (
        f"hardly a value of this {bits}-bit image is over a quarter of {full}, so the image looks black to a network; "
        + (
            "if its values have 12 bits, multiply them by 16"
            if bits == 16
            else "export it with its whole range of grey"
        )
        + " and save it again",
    )


def remarks_on_header(data: bytes) -> tuple[str, ...]:
    """Return what is odd about the header of an image file; `ValueError` where it has none."""
    return _remarks_on_header(read_header(data))


def _remarks_on_header(header: Header) -> tuple[str, ...]:
    if header.orientation in (0, 1):
        return ()
    return (
        f"the orientation tag of this {header.kind.upper()} file ({header.orientation}, 1 is upright) is not applied: "
        "the pixels are used as they are stored; if the image is turned or mirrored, save it and its mask upright",
    )


def unit_rgb(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return uint8, uint16 or float32 pixels, (H, W) or (H, W, 3), as (H, W, 3) float32 in [0, 1]."""
    scaled = unit_range(pixels)
    return np.repeat(scaled[:, :, None], 3, axis=2) if scaled.ndim == 2 else scaled


def unit_range(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return uint8, uint16 or float32 pixels as float32 in [0, 1] of the same shape."""
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32, copy=False)
    return np.divide(pixels, np.float32(_FULL_RANGE[pixels.dtype]), dtype=np.float32)


def read_spacing(path: Path | str | BinaryIO) -> tuple[float, float] | None:
    """Return the distance in mm between rows and between columns, or None if the file (a path or open) gives none.

    PNG, JPEG and TIFF hold a resolution. The usual resolutions of screens and printers (72, 96, 300 dots per inch and
    the like) say nothing about the body, so they are ignored.
    """
    try:
        source = shards.in_memory(Path(path)) if isinstance(path, str | Path) else path
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            across, down = (float(dpi) for dpi in image.info["dpi"])
    except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError, Image.DecompressionBombError):
        return None
    if not all(math.isfinite(dpi) and dpi > 0 for dpi in (across, down)):
        return None
    if all(min(abs(dpi - nominal) for nominal in _NOMINAL_DPI) < _DPI_TOLERANCE for dpi in (across, down)):
        return None
    return (_MM_PER_INCH / down, _MM_PER_INCH / across)


def warn_once(path: Path | str, remarks: Iterable[str]) -> None:
    """Log remarks on a file, each once for each file."""
    for remark in remarks:
        _warn_once(str(path), remark)


@functools.lru_cache(maxsize=4096)
def _warn_once(path: str, remark: str) -> None:
    _logger.warning("%s: %s", path, remark)


def read_mask(path: Path | str, kind: str = "lesion") -> NDArray[np.uint8]:
    """Read a mask as (H, W) uint8 in the way that `kind`, the setting data.mask, names.

    - "lesion": a binary mask; 0 is background, and the one other value (1, 255 or any) is lesion, returned as 1.
    - "above_half": values above half of the full range are lesion; this repairs a mask that was saved as JPEG.
    - "labels": a mask of several classes; its grey values from 0 to 255 are the classes, 0 is background.

    A colour file is accepted if its channels are equal. Raises as `read_image`, and `ValueError` with the values of a
    mask that is not of that kind.
    """
    return decode_mask(read_image_bytes(path), path, kind)


def decode_mask(data: bytes, path: Path | str, kind: str = "lesion") -> NDArray[np.uint8]:
    """Decode the content of a mask file as `read_mask` does; errors name `path`."""
    grey = _decode_grey(data, path)
    if kind == "labels":
        if grey.dtype == np.float32 or grey.max() > 255:
            raise ValueError(f"{path}: a mask of classes holds whole numbers from 0 to 255; save it as 8-bit grey PNG")
        return grey.astype(np.uint8)
    if kind == "above_half":
        half = 0.5 if grey.dtype == np.float32 else _FULL_RANGE[grey.dtype] / 2
        if 0 < grey.max() <= half:
            raise ValueError(
                f"{path}: no value of the mask is over half of the range ({half:g}), the highest is {grey.max():g}, so "
                f"no lesion would be left; read a mask of 0 and one other value with data.mask=lesion, one with the "
                f"numbers of classes with data.mask=labels"
            )
        return (grey > half).astype(np.uint8)
    return _binary(grey, path)


def _binary(grey: NDArray[Any], path: Path | str) -> NDArray[np.uint8]:
    highest = grey.max()
    lesion = grey == highest if highest > 0 else np.zeros(grey.shape, bool)
    if not (lesion | (grey == 0)).all():
        values = np.unique(grey)
        shown = ", ".join(str(value) for value in values[:6]) + (", …" if len(values) > 6 else "")
        how = "save it as PNG with 0 and 255 (JPEG blurs masks), or read it with data.mask=above_half"
        if highest < 128 and grey.dtype == np.uint8:
            how = "if these are the numbers of classes, read it with data.mask=labels, else save it with 0 and 255"
        raise ValueError(
            f"{path}: the mask is not binary: it holds {len(values)} values ({shown}), expected 0 and one other; {how}"
        )
    return lesion.astype(np.uint8)


def read_pixels(path: Path | str) -> NDArray[Any]:
    """Read the pixels as stored: (H, W) for grey or (H, W, 3) RGB; uint8, uint16 or, from TIFF, float32 in [0, 1].

    Raises as `read_image`.
    """
    return _decode_pixels(read_image_bytes(path), path)[0]


def _decode_pixels(data: bytes, path: Path | str, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[Any], Header]:
    try:
        header = _checked_header(data, max_pixels)
        return _decode(data, header), header
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


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
        raise ValueError(
            f"{path}: a mask of classes is a uint8 array (H, W), got shape {labels.shape}, dtype {labels.dtype}"
        )
    _write_png(path, labels)


def write_image(path: Path | str, image: NDArray[np.uint8]) -> None:
    """Write a (H, W, 3) RGB or (H, W) grey uint8 image as PNG.

    Raises `ValueError` for another shape or type.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(
            f"{path}: an image is uint8 of shape (H, W, 3) or (H, W), got shape {image.shape}, dtype {image.dtype}"
        )
    _write_png(path, image if image.ndim == 2 else image[:, :, ::-1])


def write_probability(path: Path | str, probability: NDArray[np.floating[Any]]) -> None:
    """Write a probability map (H, W) as 16-bit grey PNG; the probability is the stored value / 65535.

    Raises `ValueError` for another shape, a NaN, or a value outside [0, 1].
    """
    probability = np.asarray(probability)
    if probability.ndim != 2 or not ((probability >= 0) & (probability <= 1)).all():  # a NaN fails both
        raise ValueError(f"{path}: probabilities are an array (H, W) in [0, 1], got shape {probability.shape}")
    _write_png(path, np.rint(probability.astype(np.float64) * 65535).astype(np.uint16))


def read_image_bytes(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the content of an image file, on the disk or in a shard.

    Raises as `read_image` for a missing or too large file, or no file, and `ValueError` for a damaged shard.
    """
    path = Path(path)
    limit = max_pixels * _MAX_BYTES_PER_PIXEL + _SPARE_BYTES
    member = shards.find_member(path)
    if member is not None:
        if member.size > limit:
            raise ValueError(f"{path}: {member.size} bytes are more than an image of {max_pixels} pixels needs")
        return shards.read_bytes(path)
    try:
        kind = path.stat()
        if stat.S_ISDIR(kind.st_mode):
            raise ValueError(f"{path}: this is a folder, expected an image file")
        if not stat.S_ISREG(kind.st_mode):  # a pipe would wait for ever, a device may have no end
            raise ValueError(f"{path}: this is a device or a pipe, expected an image file; copy the image to a file")
        if kind.st_size > limit:
            raise ValueError(f"{path}: {kind.st_size} bytes are more than an image of {max_pixels} pixels needs")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: the file does not exist; check the name") from error
    if len(data) > limit:
        raise ValueError(f"{path}: more than the {limit} bytes that an image of {max_pixels} pixels needs")
    return data


def _checked_header(data: bytes, max_pixels: int) -> Header:
    header = read_header(data)
    if header.height * header.width > max_pixels:
        raise ValueError(
            f"{header.width} x {header.height} pixels are over the limit of {max_pixels}, so the file was not decoded; "
            f"make the image smaller"
        )
    if header.bits != 32 if header.floating else header.bits > 16:
        form = "floating-point" if header.floating else "integer"
        raise ValueError(f"{header.bits}-bit {form} samples are not supported; save it with unsigned 8 or 16 bit")
    return header


def _decode(data: bytes, header: Header) -> NDArray[Any]:
    """Return the pixels (H, W) or (H, W, 3) RGB."""
    if header.page is not None:
        pixels = decode_tiff(data, header.page)
        if header.floating:
            _check_floating(pixels)
    else:
        pixels = _decode_by_opencv(data, header)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        if header.kind == "tiff" and (pixels[:, :, -1] != pixels[:, :, -1].max()).any():
            raise ValueError("the TIFF file has a transparency that varies; save it without transparency")
        pixels = pixels[:, :, :-1]
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3):
        raise ValueError(f"the image has {pixels.shape[2]} channels; save it as grey or RGB")
    if pixels.ndim == 3 and (pixels.shape[2] == 1 or header.channels < 3):
        return np.ascontiguousarray(pixels[:, :, 0])  # grey with transparency is decoded as colour
    return np.ascontiguousarray(pixels)


def _decode_by_opencv(data: bytes, header: Header) -> NDArray[Any]:
    pixels = _opencv_pixels(data, header.kind)
    if pixels.shape[:2] != (header.height, header.width):
        raise ValueError(
            f"the header says {header.width} x {header.height} pixels, but the file holds {pixels.shape[1]} x "
            f"{pixels.shape[0]}; the file is damaged, get it again"
        )
    if pixels.dtype not in _FULL_RANGE:
        raise ValueError(f"its pixels are of type {pixels.dtype}; save it with unsigned 8 or 16 bit")
    if header.kind == "jpeg":
        _check_last_scan(data, header)
    if pixels.ndim == 2:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _check_last_scan(data: bytes, header: Header) -> None:
    """Refuse a JPEG whose last scan is cut: decoders paint the missing pixels grey.

    Bytes behind a complete scan are passed over; behind a cut one they become pixels.
    """
    try:
        whole, filled = (
            # not OpenCV, which prints that bytes were passed over
            np.asarray(JpegImageFile(io.BytesIO(data[: header.jpeg_end] + filler + data[header.jpeg_end :])))
            for filler in (b"", _FILLER)
        )
    except Exception as error:  # on damaged segments Pillow raises all kinds of exceptions
        raise ValueError(f"the JPEG file is damaged ({error}); copy or download it again") from error
    if not np.array_equal(whole, filled):
        raise ValueError("the JPEG file is cut short (its last scan has no end); copy or download it again")


def _opencv_pixels(data: bytes, kind: str) -> NDArray[Any]:
    """Return the pixels with as many bits and channels as stored, in the order BGR, and not rotated by EXIF."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"the {kind.upper()} file cannot be decoded ({error.err}); get it again") from error
    if pixels is None:
        raise ValueError(f"the {kind.upper()} file is damaged: its pixels cannot be decoded; get it again")
    return pixels


def _check_floating(pixels: NDArray[Any]) -> None:
    if not np.isfinite(pixels).all():
        raise ValueError("the floating-point TIFF holds NaN or infinite values; fill them and save it again")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        raise ValueError(f"the floating-point TIFF holds values from {low:g} to {high:g}; scale them to 0 … 1")


def _decode_grey(data: bytes, path: Path | str) -> NDArray[Any]:
    """Return one value per pixel (H, W) of a file that is grey or has equal channels."""
    pixels, header = _decode_pixels(data, path)
    warn_once(path, _remarks_on_header(header))
    if pixels.ndim == 2:
        return pixels
    if (pixels[:, :, :1] != pixels[:, :, 1:]).any():
        raise ValueError(
            f"{path}: the mask is a colour image whose channels differ, expected grey; save it as grey PNG with 0 and "
            f"255, or with the numbers of its classes"
        )
    return np.ascontiguousarray(pixels[:, :, 0])


def _write_png(path: Path | str, pixels: NDArray[Any]) -> None:
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: images are written as PNG; end the name in .png")
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not done:
        raise ValueError(f"{path}: an array of shape {pixels.shape} cannot be written as PNG")
    storage.write_bytes(path, encoded.tobytes())
