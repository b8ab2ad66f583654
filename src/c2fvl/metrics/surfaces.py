"""Distances between the surfaces of two masks, exactly.

A mask's surface is its pixels that touch its outside by an edge, the outside of the picture included; distances are
between centres of pixels, in the unit of the spacing. Definitions: Taha and Hanbury, "Metrics for evaluating 3D medical
image segmentation", BMC Medical Imaging 2015; the normalised surface distance: Nikolov et al., 2018, arXiv 1809.04430,
with each pixel of a surface counted once.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

PERCENTILE = 95
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass(frozen=True)
class SurfaceDistances:
    """From each surface pixel of one mask to the nearest of the other; both empty where both masks are."""

    from_prediction: NDArray[np.float64]
    from_target: NDArray[np.float64]

    def hausdorff(self) -> float:
        """Return the largest of all."""
        return float(max(self.from_prediction.max(initial=0.0), self.from_target.max(initial=0.0)))

    def hausdorff_95(self) -> float:
        """Return the larger of both directions' 95th percentiles, interpolated linearly."""
        both = (self.from_prediction, self.from_target)
        return max((float(np.percentile(found, PERCENTILE)) for found in both if len(found)), default=0.0)

    def mean(self) -> float:
        """Return the average symmetric surface distance: the mean over the pixels of both surfaces."""
        together = np.concatenate([self.from_prediction, self.from_target])
        return float(together.mean()) if len(together) else 0.0

    def within(self, tolerance: float) -> float:
        """Return the normalised surface distance: the share of both surfaces that is no farther than `tolerance`."""
        together = np.concatenate([self.from_prediction, self.from_target])
        return float(np.mean(together <= tolerance)) if len(together) else 1.0


def surface_distances(
    prediction: NDArray[np.bool_], target: NDArray[np.bool_], spacing: tuple[float, float]
) -> SurfaceDistances | None:
    """Return the distances of two masks (H, W) of pixels that are `spacing` (down, right) apart.

    None where one mask alone is empty: there is no surface to measure to.
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
    """Return the surface's pixels as a mask of 0 and 1."""
    binary = np.ascontiguousarray(mask).view(np.uint8)
    inside = cv2.erode(binary, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return binary ^ np.asarray(inside, np.uint8)


def _to_nearest(
    pixels: NDArray[np.uint8], others: NDArray[np.uint8], spacing: tuple[float, float]
) -> NDArray[np.float64]:
    """Return the distance of each of the pixels to the nearest of the others."""
    if spacing[0] == spacing[1]:
        apart = cv2.distanceTransform(others ^ 1, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return np.sqrt(np.rint(apart[pixels != 0].astype(np.float64) ** 2)) * spacing[0]  # squares are whole numbers
    from scipy.spatial import KDTree  # takes longer to load than most commands to run

    places = np.asarray(spacing, np.float64)
    return np.asarray(KDTree(np.argwhere(others) * places).query(np.argwhere(pixels) * places)[0], np.float64)
