"""Image-independent baselines: masks made without the image, which a network has to beat.

Both are made from the training split alone. The constant mask is where most training images have a lesion. The mask of
a report is the same among the training images with the same report, so it shows what the report alone tells. The
threshold of the mean mask is the one with the best mean Dice on the training images.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from c2fvl.data.cases import Case
from c2fvl.data.prefetch import prefetch
from c2fvl.files.images import read_mask
from c2fvl.inference.masks import to_labels, to_original
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.report import Report

SIDE = 96
"""Of the grid on which masks are averaged."""
MIN_IMAGES = 5
"""A report of fewer training images takes the constant mask."""
_THRESHOLDS = np.arange(0.05, 0.95, 0.05).astype(np.float32)  # as exact as the means that are compared with them
_AT_ONCE = 512


@dataclass(frozen=True)
class MeanMasks:
    """Mean masks, (S, S) from 0 to 1, and their thresholds."""

    constant: NDArray[np.float32]
    constant_threshold: float
    of_report: dict[Report, NDArray[np.float32]]
    report_threshold: float
    num_images: int

    def constant_mask(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the constant mask at the size (H, W) of an image."""
        return to_labels(to_original(self.constant, shape), self.constant_threshold)

    def mask_of(self, report: Report | None, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the mask of a report at the size (H, W) of an image; the constant one where it is too rare."""
        if report not in self.of_report:
            return self.constant_mask(shape)
        return to_labels(to_original(self.of_report[report], shape), self.report_threshold)


def fit_mean_masks(cases: Sequence[Case], kind: str, *, progress: Progress = SILENT) -> MeanMasks:
    """Return the mean masks of training cases, whose masks hold what `kind` says (the setting data.mask).

    All classes count as lesion. Raises `ValueError` where no case has a mask.
    """
    labelled = [case for case in cases if case.mask is not None]
    if not labelled:
        raise ValueError("no training image has a mask, so there is no mean mask")
    masks = np.empty((len(labelled), SIDE * SIDE), np.uint8)
    for index, mask in enumerate(prefetch(lambda case: _small(case, kind), labelled, maximum=64)):
        masks[index] = mask.ravel()
        progress.advance(index + 1, len(labelled))
    members: dict[Report, list[int]] = defaultdict(list)
    for index, case in enumerate(labelled):
        if case.report is not None and case.report.has_attributes:
            members[case.report].append(index)
    constant = masks.mean(axis=0, dtype=np.float64).astype(np.float32)
    common = {report: np.array(indices) for report, indices in members.items() if len(indices) >= MIN_IMAGES}
    means = {
        report: masks[indices].mean(axis=0, dtype=np.float64).astype(np.float32) for report, indices in common.items()
    }
    scores = np.zeros(len(_THRESHOLDS))
    for report, indices in common.items():
        scores += _dice_by_threshold(masks[indices], means[report]).sum(axis=0)
    return MeanMasks(
        constant=constant.reshape(SIDE, SIDE),
        constant_threshold=float(_THRESHOLDS[_dice_by_threshold(masks, constant).mean(axis=0).argmax()]),
        of_report={report: mean.reshape(SIDE, SIDE) for report, mean in means.items()},
        report_threshold=float(_THRESHOLDS[scores.argmax()]),
        num_images=len(labelled),
    )


def _small(case: Case, kind: str) -> NDArray[np.uint8]:
    assert case.mask is not None
    mask = (read_mask(case.mask, kind) > 0).astype(np.uint8)
    return np.asarray(cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST), np.uint8)


def _dice_by_threshold(masks: NDArray[np.uint8], mean: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the Dice (cases, thresholds) of a mean mask at each threshold on masks (cases, pixels)."""
    cut = (mean[:, None] >= _THRESHOLDS).astype(np.float32)
    parts = []
    for start in range(0, len(masks), _AT_ONCE):
        some = masks[start : start + _AT_ONCE].astype(np.float32)
        both = some.sum(axis=1)[:, None] + cut.sum(axis=0)
        parts.append(np.divide(2 * (some @ cut), both, out=np.ones_like(both), where=both > 0))
    return np.concatenate(parts).astype(np.float64)
