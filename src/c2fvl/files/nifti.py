"""Read NIfTI files (.nii, .nii.gz): CT volumes, and single images.

The header is read and checked before any voxel is: a file of some megabytes can inflate to gigabytes. The voxels keep
their type, since the usual int16 takes a quarter of the memory of floating-point numbers.
"""

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from c2fvl.files.dicom_headers import one_line
from c2fvl.files.images import MAX_PIXELS
from c2fvl.files.picture import Picture
from c2fvl.files.sanity import Checked, check_grey_values, sampled, stretch_range
from c2fvl.files.volume import MAX_BYTES, Lie, Volume, nearest_lie, remarks_on_values

MAX_ANGLE = 20.0
"""In degrees, between the axes of the file and those of the body."""
_MAX_OFFSET = 2**26
_HEADER_BYTES = 540
"""Of NIfTI-2; NIfTI-1 has 348."""
_MAX_ITEM_BYTES = 8
_MIN_MM, _MAX_MM, _MIN_DETERMINANT = 1e-4, 1e4, 1e-3
_SAID_ANGLE = 1.0
_MAX_GREY = 1e30
_LPS = np.diag([-1.0, -1.0, 1.0])
_GET_AGAIN = "copy or download it again"
ASSUMED = (
    "The NIfTI header gives no orientation (qform_code and sform_code are 0), so its axes are taken as left, front and "
    "head. Check every side that is named here."
)
CONTRADICTION = (
    "The NIfTI header gives two orientations, qform and sform, that exchange sides or axes; the sform was used. Check "
    "every side that is named here."
)
OBLIQUE = "The volume is turned by {angle:.0f} degrees against the body; each slice was taken as it is."
STRETCHED = "The file does not say which values are black and white, so the percentiles 0.5 and 99.5 were taken."
WINDOWED = "The values lie between 0 and {highest}, so they are taken as grey values after a window, not as HU."


@dataclass(frozen=True)
class NiftiGrid:
    """Where the voxels of a NIfTI file lie."""

    header: Any
    affine: NDArray[np.float64]
    """(4, 4), from the voxel (i, j, k) to millimetres to the patient's right, front and head (RAS)."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Head:
    """What a NIfTI header says, checked."""

    grid: NiftiGrid
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float


def is_volume(source: Path | str | bytes) -> bool:
    """Tell whether a NIfTI file, or the content of one, holds a volume; False for a header that cannot be used."""
    return max(shape_of(source)[2:], default=1) > 1


def shape_of(source: Path | str | bytes) -> tuple[int, ...]:
    """Return the shape that a NIfTI header states, (W, H, slices, …); empty for one that cannot be used."""
    try:
        with _opened(source) as file:
            return _read_head(file).grid.shape
    except (OSError, ValueError):
        return ()


def read_nifti_volume(source: Path | str | bytes) -> Volume:
    """Read a volume of three axes from a file or its content.

    Raises `FileNotFoundError`, and `ValueError` for a file that is damaged, over `MAX_BYTES`, no volume of real numbers
    or turned by more than `MAX_ANGLE` against the body.
    """
    with _opened(source) as file:
        head = _read_head(file)
        shape = head.grid.shape
        if len(_long_axes(shape)) > 3:
            raise ValueError(
                f"the NIfTI file has the shape {shape}, several volumes; expected one CT volume, so save one of them"
            )
        lie, warnings, orientation_source = _lie_of(head.grid)
        values = _read_values(file, head).reshape((*shape, 1, 1)[:3], order="F")
    scale = _scale_of(values, head)
    if scale.highest:
        warnings = (*warnings, WINDOWED.format(highest=scale.highest))
    lengths = np.linalg.norm(head.grid.affine[:3, :3], axis=0)
    slices, rows, columns = (float(lengths[axis]) for axis in lie.axes)
    volume = Volume(
        lie.upright(values), "nifti", lie, scale.slope, scale.intercept, bool(scale.highest),
        (slices, rows, columns), orientation_source, grid=head.grid,
    )  # fmt: skip
    return replace(volume, warnings=(*warnings, *remarks_on_values(volume)))


def read_nifti_picture(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a single image, (W, H) or (W, H, 1) as NIfTI stores it, from the content of a file.

    Such a file does not say whose left is at the left of the image. Raises `ValueError` for a volume, and as
    `read_nifti_volume`.
    """
    with _opened(data) as file:
        head = _read_head(file)
        shape = head.grid.shape
        if max(shape[2:], default=1) > 1:
            raise ValueError(
                f"the NIfTI file is a volume of the shape {shape}, expected a single image; `c2fvl predict` segments "
                "volumes, in Python c2fvl.inference.volumes.predict_volume"
            )
        if math.prod(shape) > max_pixels:
            raise ValueError(f"the NIfTI file has the shape {shape}, over the limit of {max_pixels} pixels")
        values = _read_values(file, head).reshape((*shape, 1)[:2], order="F")
    scale = _scale_of(values, head)
    with np.errstate(over="ignore", invalid="ignore"):
        grey = values.T.astype(np.float64) * scale.slope + scale.intercept
    if not (np.abs(grey) < _MAX_GREY).all():  # false for NaN too
        raise ValueError("the NIfTI file holds values that are not finite numbers (NaN or infinity); replace them")
    if scale.highest:
        found = check_grey_values(np.ascontiguousarray(np.clip(grey, 0, 1), np.float32))
    else:
        low, high = stretch_range(sampled(grey))
        stretched = np.clip((grey - low) / (high - low), 0, 1)
        found = Checked(np.ascontiguousarray(stretched, np.float32), "percentile", (STRETCHED,))
    lengths = np.linalg.norm(head.grid.affine[:3, :3], axis=0)
    return Picture(
        found.pixels,
        "nifti",
        window_source=found.window_source,
        spacing=(float(lengths[1]), float(lengths[0])),
        spacing_source="file",
        warnings=found.warnings,
        grid=head.grid,
    )


def _long_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without the ones at its end."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


@contextmanager
def _opened(source: Path | str | bytes) -> Iterator[BinaryIO]:
    """Open a file or its content, decompressed; errors of the compression become sentences."""
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as raw:
        is_compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            yield gzip.GzipFile(fileobj=raw) if is_compressed else raw  # type: ignore[misc]
        except EOFError as error:
            raise ValueError(f"the compressed NIfTI file is cut short; {_GET_AGAIN}") from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"the compressed NIfTI file is damaged ({error}); {_GET_AGAIN}") from error


def _read_head(file: BinaryIO) -> _Head:
    """Read and check the header. Raises `ValueError` for one that is damaged, and for values that are no real ones."""
    nibabel = _import_nibabel()
    start = file.read(_HEADER_BYTES)
    kind = nibabel.Nifti2Header if start[4:8] == b"n+2\0" else nibabel.Nifti1Header
    size = int(kind.sizeof_hdr)
    if len(start) < size:
        raise ValueError(f"the NIfTI file is cut short, {len(start)} bytes; {_GET_AGAIN}")
    if kind is nibabel.Nifti1Header and start[344:347] == b"ni1":
        raise ValueError("the file is the header of a pair (.hdr and .img); save the volume as one file, .nii.gz")
    try:
        header = kind(start[:size], check=False)
        shape = tuple(int(length) for length in header.get_data_shape())
        dtype = header.get_data_dtype()
        affine = np.asarray(header.get_best_affine(), np.float64)
        offset = int(header["vox_offset"])
        slope, intercept = header.get_slope_inter()
    except Exception as error:  # nibabel raises all kinds of exceptions on damaged headers
        raise ValueError(f"the NIfTI header is damaged ({one_line(error)}); {_GET_AGAIN}") from error
    _check_voxels(shape, dtype)
    _check_affine(affine)
    if not size <= offset <= _MAX_OFFSET:
        raise ValueError(f"the NIfTI header says that voxels begin at byte {offset}; it is damaged, {_GET_AGAIN}")
    scaling = (1.0, 0.0) if slope is None else (float(slope), float(intercept or 0))
    return _Head(NiftiGrid(header, affine, shape), dtype, offset, *scaling)


def _check_voxels(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if not shape or min(shape) < 1:
        raise ValueError(f"the NIfTI file has the shape {shape}, which holds no voxel; export it again")
    if dtype.kind not in "iuf" or dtype.itemsize > _MAX_ITEM_BYTES:
        name = "colours" if dtype.fields else f"{dtype} values"
        raise ValueError(f"the NIfTI file holds {name}; expected one real number per voxel, such as int16 in HU")
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise ValueError(
            f"the NIfTI file has the shape {shape} of {dtype}, over the limit of {MAX_BYTES >> 20} MiB, so it was not "
            "read; crop it, or save it as int16"
        )


def _check_affine(affine: NDArray[np.float64]) -> None:
    is_sound = bool(np.isfinite(affine).all() and np.abs(affine[:3, :3]).max() < _MAX_MM)
    lengths = np.linalg.norm(affine[:3, :3], axis=0) if is_sound else np.zeros(3)
    if not (lengths.min() > _MIN_MM and lengths.max() < _MAX_MM):
        raise ValueError(
            "the NIfTI header gives voxels without size or place (pixdim, qform, sform); convert the file again"
        )
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < _MIN_DETERMINANT:
        raise ValueError("two axes of the NIfTI file run the same way (sform); convert the file again")


def _read_values(file: BinaryIO, head: _Head) -> NDArray[Any]:
    """Return all voxels as they are stored, one after another."""
    file.seek(head.offset)
    size = math.prod(head.grid.shape) * head.dtype.itemsize
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"the NIfTI file is cut short: {len(data)} bytes of voxels, expected {size}; {_GET_AGAIN}")
    file.read(1)  # at its end, gzip compares the checksum
    return np.frombuffer(data, head.dtype)


@dataclass(frozen=True)
class _Scale:
    """What the values are, and how they become HU or grey values."""

    slope: float
    intercept: float
    highest: str = ""
    """The white of grey values; empty for HU."""


def _scale_of(values: NDArray[Any], head: _Head) -> _Scale:
    has_own = (head.slope, head.intercept) != (1, 0)
    if values.dtype == np.uint8 and not has_own:
        return _Scale(1 / 255, 0, "255")
    if values.dtype.kind == "f" or has_own:
        ends = sorted(float(end) * head.slope + head.intercept for end in (values.min(), values.max()))
        if ends[0] >= 0 and ends[1] <= 1:  # false for NaN, which is found when slices are taken
            return _Scale(head.slope, head.intercept, "1")
    return _Scale(head.slope, head.intercept)


def _lie_of(grid: NiftiGrid) -> tuple[Lie, tuple[str, ...], str]:
    """Return how the volume lies, warnings and the source of the orientation."""
    lie, angle = nearest_lie(_LPS @ grid.affine[:3, :3])
    if angle > MAX_ANGLE:
        raise ValueError(
            f"the volume is turned by {angle:.0f} degrees against the body, at most {MAX_ANGLE:.0f} are expected; "
            "resample it to axial slices"
        )
    qform, sform = (grid.header[name] > 0 for name in ("qform_code", "sform_code"))
    if not (qform or sform):
        return lie, (ASSUMED,), "assumed"
    warnings = [OBLIQUE.format(angle=angle)] if angle > _SAID_ANGLE else []
    if qform and sform and _lie_of_qform(grid.header) not in (None, lie):
        warnings.append(CONTRADICTION)
    return lie, tuple(warnings), "file"


def _lie_of_qform(header: Any) -> Lie | None:
    """Return how the volume lies by its qform; None for one that is damaged."""
    try:
        directions = np.asarray(header.get_qform(), np.float64)[:3, :3]
        _check_affine(directions)
    except Exception:  # of nibabel, on a qform that is none; the sform was sound
        return None
    return nearest_lie(_LPS @ directions)[0]


def _import_nibabel() -> Any:
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise ValueError(f"reading NIfTI needs {error.name}: pip install 'c2fvl[nifti]'") from error
    return nibabel
