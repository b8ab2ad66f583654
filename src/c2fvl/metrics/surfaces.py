"""Exact distances between the surfaces of two masks.

The surface of a mask is its pixels that share an edge with the outside, which includes the outside of the image;
distances are between pixel centres, in the unit of the spacing. Definitions: Taha and Hanbury, "Metrics for evaluating
3D medical image segmentation", BMC Medical Imaging 2015; normalised surface distance: Nikolov et al., 2018, arXiv
1809.04430, where here each pixel of a surface counts once.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

PERCENTILE = 95
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass(frozen=True)
class SurfaceDistances:
    """From each surface pixel of one mask to the nearest of the other; both empty if both masks are."""

    from_prediction: NDArray[np.float64]
    from_target: NDArray[np.float64]

    def hausdorff(self) -> float:
        """Return the largest distance."""
        return float(max(self.from_prediction.max(initial=0.0), self.from_target.max(initial=0.0)))

    def hausdorff_95(self) -> float:
        """Return the larger of both directions' 95th percentiles, interpolated linearly."""
        both = (self.from_prediction, self.from_target)
        return max((float(np.percentile(distances, PERCENTILE)) for distances in both if len(distances)), default=0.0)

    def mean(self) -> float:
        """Return the average symmetric surface distance: the mean over the pixels of both surfaces."""
        together = np.concatenate([self.from_prediction, self.from_target])
        return float(together.mean()) if len(together) else 0.0

    def within(self, tolerance: float) -> float:
        """Return the normalised surface distance: the fraction of both surfaces within `tolerance`."""
        together = np.concatenate([self.from_prediction, self.from_target])
        return float(np.mean(together <= tolerance)) if len(together) else 1.0


def surface_distances(
    prediction: NDArray[np.bool_], target: NDArray[np.bool_], spacing: tuple[float, float]
) -> SurfaceDistances | None:
    """Return the distances of two masks (H, W) whose pixels are `spacing` (down, right) apart.

    None if only one mask is empty: there is no surface to measure to.
    """
    first, second = (_surface(mask) for mask in (prediction, target))
    if first.any() != second.any():
        return None
    if not first.any():
        return SurfaceDistances(np.empty(0), np.empty(0))
    left, top, width, height = cv2.boundingRect(first | second)
    first, second = (edge[top : top + height, left : left + width] for edge in (first, second))
    return SurfaceDistances(_to_nearest(first, second, spacing), _to_nearest(second, first, spacing))


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the surface pixels as a mask of 0 and 1."""
    binary = np.ascontiguousarray(mask).view(np.uint8)
    inside = cv2.erode(binary, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return binary ^ np.asarray(inside, np.uint8)


def _to_nearest(
    pixels: NDArray[np.uint8], others: NDArray[np.uint8], spacing: tuple[float, float]
) -> NDArray[np.float64]:
    """Return the distance of each of the pixels to the nearest of the others.

    `scipy.ndimage.distance_transform_edt` gives the same distances, but takes up to 2.6 times as long.
    """
    if spacing[0] == spacing[1]:
        distances = cv2.distanceTransform(others ^ 1, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return (
            np.sqrt(np.rint(distances[pixels != 0].astype(np.float64) ** 2)) * spacing[0]
        )  # squares are whole numbers
    from scipy.spatial import KDTree  # takes longer to load than most commands to run

    scale = np.asarray(spacing, np.float64)
    return np.asarray(KDTree(np.argwhere(others) * scale).query(np.argwhere(pixels) * scale)[0], np.float64)
