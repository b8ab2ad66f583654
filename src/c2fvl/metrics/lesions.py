"""Lesions, the 8-connected regions of a mask, and which of them a prediction detects."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Lesions:
    """The lesions of a prediction and of a mask, and the overlap of each pair."""

    predicted: NDArray[np.int64]
    """Pixels of each predicted lesion."""
    true: NDArray[np.int64]
    """Pixels of each lesion of the mask."""
    iou: NDArray[np.float64]
    """(predicted, true)."""

    def detected(self, minimum: float) -> NDArray[np.bool_]:
        """Return for each true lesion whether it is matched one to one with a predicted lesion at IoU ≥ `minimum`.

        As many lesions as possible are matched; of all such matchings, that with the largest overlap is taken.
        """
        from scipy.optimize import linear_sum_assignment  # takes longer to load than most commands to run

        matched = np.zeros(len(self.true), bool)
        value = np.where(self.iou >= minimum, 1 + self.iou / (1 + self.iou.size), 0)
        rows, columns = linear_sum_assignment(value, maximize=True)
        matched[columns] = self.iou[rows, columns] >= minimum
        return matched


def lesions(prediction: NDArray[np.bool_], target: NDArray[np.bool_]) -> Lesions:
    """Return the lesions of two masks (H, W)."""
    predicted, labels = _regions(prediction)
    true, true_labels = _regions(target)
    common = prediction & target
    pairs = labels[common].astype(np.int64) * (len(true) + 1) + true_labels[common]
    both = np.bincount(pairs, minlength=(len(predicted) + 1) * (len(true) + 1))
    shared = both.reshape(len(predicted) + 1, len(true) + 1)[1:, 1:]
    return Lesions(predicted, true, shared / np.maximum(predicted[:, None] + true[None] - shared, 1))


def _regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the size of each region, and the label (H, W) of each pixel, 0 for none."""
    count, found = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=8)
    labels = np.asarray(found, np.int32)  # OpenCV takes many times longer to count their pixels
    return np.bincount(labels[mask], minlength=count)[1:], labels
