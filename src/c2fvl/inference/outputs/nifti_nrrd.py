"""A mask as NIfTI or NRRD with the geometry of its input, so that a viewer lays one over the other.

NIfTI counts millimetres to the right, the front and the head (RAS), NRRD as DICOM to the left, the back and the head
(LPS). Both store arrays (i, j, k) whose first axis runs along a row, so an image (H, W) becomes an array (W, H, 1).
"""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.inference.outputs.source import explained, read_source, spacing_in_viewers

if TYPE_CHECKING:
    from pydicom import Dataset

NOT_INSTALLED = "NIfTI results need nibabel, which is not installed: pip install 'c2fvl[nifti]'"
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS to LPS, and back."""
_PLACE = (
    "pixdim", "xyzt_units", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "sform_code", "srow_x", "srow_y", "srow_z",
)  # fmt: skip
"""The fields of a NIfTI header that say where the image lies."""
_MAX_JITTER_MM, _MAX_TILT = 0.1, np.deg2rad(0.5)


@dataclass(frozen=True)
class Grid:
    """The pixel grid of an input, and its place in space."""

    affine: NDArray[np.float64]
    """(4, 4), from the voxel (i, j, k) to millimetres in RAS."""
    shape: tuple[int, ...]
    """The shape of the array (i, j, k) in the file."""
    is_in_rows: bool = True
    """Whether a mask is given as (H, W) or (N, H, W); if not, as the array in the file."""
    order: tuple[int, ...] = ()
    """Which slice of a mask (N, H, W) comes at each k; empty for the order given."""
    has_spacing: bool = True
    """Whether millimetres are known; if not, a pixel counts as one."""
    header: Any = None
    """The NIfTI header of the input, whose codes of orientation are kept."""

    def array(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """Return a mask as the array (i, j, k) of the file. Raises `ValueError` for another shape or no integers."""
        mask = np.asarray(mask)
        if mask.dtype.kind not in "bu" or (mask.size and mask.max() > 255):
            raise ValueError(f"the mask holds {mask.dtype} values; expected unsigned integers up to 255")
        if self.is_in_rows:
            planes = mask[None] if mask.ndim == 2 else mask
            planes = planes[list(self.order)] if self.order and len(planes) == len(self.order) else planes
            array, stated = planes.T, self.shape
        else:
            array, stated = mask, self.shape
            while len(stated) > mask.ndim and stated[-1] == 1:
                stated = stated[:-1]
        if array.shape != stated:
            raise ValueError(
                f"the mask has the shape {mask.shape}, which does not fit the array {self.shape} of the input; give "
                "the mask in the pixel grid of the file"
            )
        return np.asfortranarray(array.reshape(self.shape), np.uint8)


def grid_of_film(size: tuple[int, int], source: "Dataset | None" = None) -> Grid:
    """Return the grid of a projection image of (H, W) at the place where ITK and 3D Slicer show it.

    The spacing is the one that they read from the header `source`, and 1 without a source or without a spacing.
    """
    rows, columns = (1.0, 1.0) if source is None else spacing_in_viewers(source)
    has_spacing = source is not None and (rows, columns) != (1.0, 1.0)
    return Grid(np.diag([-columns, -rows, 1.0, 1.0]), (size[1], size[0], 1), has_spacing=has_spacing)


def grid_of_series(sources: "Sequence[Dataset]") -> Grid:
    """Return the grid of the slices of a series, in any order; a mask has its slices in the same order.

    Raises `ValueError` for slices that are not evenly spaced or are tilted, which neither format can hold.
    """
    read = read_source(sources)
    if not read.are_slices:
        raise ValueError("the images have no place in space; give the slices of a series")
    headers = read.headers
    row, column = (np.asarray(read.first.ImageOrientationPatient[part], float) for part in (slice(3), slice(3, 6)))
    normal = np.cross(row, column)
    places = np.array([header.ImagePositionPatient for header in headers], float)
    order = np.argsort(places @ normal, kind="stable")
    places = places[order]
    if len(headers) > 1:
        step = (places[-1] - places[0]) / (len(headers) - 1)
    else:
        step = normal * float(read.first.SliceThickness)
    _check_even(places, step, normal, [list(header.ImageOrientationPatient) for header in headers])
    spacing = [float(value) for value in read.first.PixelSpacing]
    matrix = np.eye(4)
    matrix[:3] = np.stack([row * spacing[1], column * spacing[0], step, places[0]], axis=1)
    height, width = read.size
    return Grid(_LPS @ matrix, (width, height, len(headers)), order=tuple(int(place) for place in order))


def grid_of_nifti(image: Any) -> Grid:
    """Return the grid of a NIfTI image as nibabel reads it; a mask has the axes of its array."""
    return Grid(np.asarray(image.affine, float), tuple(image.shape), is_in_rows=False, header=image.header)


def nifti(mask: NDArray[Any], grid: Grid) -> bytes:
    """Return a mask as a compressed NIfTI file (.nii.gz) in the grid of its input.

    A header of the input gives its codes of orientation and its units; texts in it are not taken over. Raises
    `ValueError` for a mask that does not fit the grid.
    """
    with explained(NOT_INSTALLED):
        import nibabel
    array = grid.array(mask)
    if grid.header is None:
        image = nibabel.Nifti1Image(array, grid.affine)
        image.set_qform(grid.affine, code=1)
        image.set_sform(grid.affine, code=1)
        image.header.set_xyzt_units("mm" if grid.has_spacing else "unknown")
    else:
        header = nibabel.Nifti1Header()
        for name in _PLACE:
            header[name] = grid.header[name]
        header.set_data_shape(array.shape)  # without codes, the affine follows from it
        image = nibabel.Nifti1Image(array, grid.affine, header)
    image.header.set_data_dtype(np.uint8)
    image.header.set_slope_inter(1, 0)
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def nrrd(mask: NDArray[Any], grid: Grid, *, compress: bool = True) -> bytes:
    """Return a mask as a NRRD file in the grid of its input. Raises `ValueError` for a mask that does not fit it."""
    array = grid.array(mask)
    if array.size != int(np.prod(array.shape[:3])):
        raise ValueError(f"the array has the shape {array.shape}; NRRD results have three axes")
    array = array.reshape((*array.shape, 1, 1)[:3], order="F")
    matrix = _LPS @ grid.affine
    lines = [
        "NRRD0004",
        "# mask of c2fvl",
        "type: uint8",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(size) for size in array.shape)}",
        f"space directions: {' '.join(_vector(matrix[:3, axis]) for axis in range(3))}",
        "kinds: domain domain domain",
        f"encoding: {'gzip' if compress else 'raw'}",
        f"space origin: {_vector(matrix[:3, 3])}",
    ]
    data = array.tobytes(order="F")
    return "\n".join([*lines, "", ""]).encode("ascii") + (gzip.compress(data, 6, mtime=0) if compress else data)


def _vector(values: NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(value) + 0.0) for value in values)})"


def _check_even(
    places: NDArray[np.float64], step: NDArray[np.float64], normal: NDArray[np.float64], cosines: list[list[float]]
) -> None:
    """Raise `ValueError` unless the slices lie at equal distances along their normal and are parallel."""
    advice = "NIfTI and NRRD hold even slices only; take the DICOM segmentation"
    if np.ptp(np.array(cosines, float), axis=0).max() > 1e-3:
        raise ValueError(f"the slices are not parallel; {advice}")
    if not np.linalg.norm(step):
        raise ValueError(f"two slices lie at the same place; {advice}")
    tilt = np.arccos(min(1.0, float(step @ normal) / float(np.linalg.norm(step) * np.linalg.norm(normal))))
    if tilt > _MAX_TILT:
        raise ValueError(f"the slices are tilted by {np.rad2deg(tilt):.1f} degrees; {advice}")
    expected = places[0] + np.arange(len(places))[:, None] * step
    jitter = float(np.linalg.norm(places - expected, axis=1).max())
    if jitter > _MAX_JITTER_MM:
        raise ValueError(f"a slice lies {jitter:.2f} mm beside its even place, or one is missing; {advice}")
