"""Lesions one by one: 8-connected areas of a mask, and which of them a prediction finds."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Lesions:
    """The areas of a prediction and of a mask, and how far each pair overlaps."""

    predicted: NDArray[np.int64]
    """Pixels of each predicted area."""
    true: NDArray[np.int64]
    """Pixels of each area of the mask."""
    iou: NDArray[np.float64]
    """(predicted, true)."""

    def found(self, minimum: float) -> NDArray[np.bool_]:
        """Tell of each true area whether it is found: paired one to one with a predicted area at IoU ≥ `least`.

        As many areas are paired as can be, and of all such pairings the one that overlaps most is taken.
        """
        from scipy.optimize import linear_sum_assignment  # takes longer to load than most commands to run

        matched = np.zeros(len(self.true), bool)
        worth = np.where(self.iou >= minimum, 1 + self.iou / (1 + self.iou.size), 0)
        rows, columns = linear_sum_assignment(worth, maximize=True)
        matched[columns] = self.iou[rows, columns] >= minimum
        return matched


def lesions(prediction: NDArray[np.bool_], target: NDArray[np.bool_]) -> Lesions:
    """Return the areas of two masks (H, W)."""
    predicted, found = _areas(prediction)
    true, marked = _areas(target)
    common = prediction & target
    pairs = found[common].astype(np.int64) * (len(true) + 1) + marked[common]
    both = np.bincount(pairs, minlength=(len(predicted) + 1) * (len(true) + 1))
    shared = both.reshape(len(predicted) + 1, len(true) + 1)[1:, 1:]
    return Lesions(predicted, true, shared / np.maximum(predicted[:, None] + true[None] - shared, 1))


def _areas(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the pixels of each area, and the number of the area that each pixel belongs to, 0 for none."""
    count, found = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=8)
    numbers = np.asarray(found, np.int32)  # OpenCV's own counting of their pixels takes many times longer
    return np.bincount(numbers[mask], minlength=count)[1:], numbers
