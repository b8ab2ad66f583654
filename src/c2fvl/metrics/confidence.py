"""The confidence of predictions, and how the mean Dice rises if a reader takes over the least certain. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DOUBTFUL = 0.1
"""The fraction of the cases that a reader takes over."""


def estimated_dice(probability: np.ndarray, prediction: np.ndarray) -> float:
    """Return the Dice to expect of a predicted mask (H, W), if the probabilities (H, W) are right.

    With p the probability of each pixel and P the predicted pixels it is 2 Σ_P p / (|P| + Σ p): the ratio of the
    expected numerator and denominator of the Dice, a first-order approximation of the expected ratio. It is close for
    lesions of many pixels, and exact if every p is 0 or 1.

    An empty prediction scores 1 on an image without lesion, else 0, so its expected Dice is the probability that no
    pixel is lesion. This is at most 1 − max p, however pixels depend on each other, and this bound is returned: the
    product of all 1 − p would be right for independent pixels, but the pixels of a lesion are not.

    Raises `ValueError` for shapes that differ or are not (H, W), and for values outside of [0, 1].
    """
    probability = checked(probability, prediction)
    predicted = np.asarray(prediction) != 0
    num_predicted = int(np.count_nonzero(predicted))
    if not num_predicted:
        return 1 - float(probability.max())
    return 2 * float(probability[predicted].sum()) / (num_predicted + float(probability.sum()))


def checked(probability: np.ndarray, mask: np.ndarray) -> NDArray[np.float64]:
    """Return the probability map (H, W) as float64; raise `ValueError` if it or its mask cannot be used.

    Values just outside of [0, 1], from rounding, are clipped.
    """
    if probability.ndim == 3:
        raise ValueError(f"the probability map has the shape {probability.shape}, of several classes; expected (H, W)")
    if probability.ndim != 2 or not probability.size or probability.shape != mask.shape:
        raise ValueError(
            f"the probability map has the shape {probability.shape}, the mask {mask.shape}; expected one (H, W)"
        )
    if mask.dtype.kind not in "bui":
        raise ValueError(f"the mask holds {mask.dtype}; expected 0 and 1")
    exact = np.asarray(probability, np.float64)
    lowest, highest = float(exact.min()), float(exact.max())
    if not (lowest >= -1e-5 and highest <= 1 + 1e-5):  # a NaN fails too
        raise ValueError(f"the probability map holds values from {lowest:g} to {highest:g}; expected 0 to 1")
    return exact.clip(0, 1)


@dataclass(frozen=True)
class RiskCoverage:
    """Cases from the most to the least confident; the risk of a case is 1 − Dice.

    Cases of equal confidence have no order. Each counts with their mean Dice, which is the average over random orders
    and does not depend on how the cases are listed.
    """

    confidence: NDArray[np.float64]
    """(N,), decreasing."""
    dice: NDArray[np.float64]
    """(N,), in that order."""
    ideal: NDArray[np.float64]
    """(N,), decreasing: the Dice in the order of a perfect confidence."""
    spearman: float | None
    """Rank correlation of confidence and Dice; None if one of them is the same for all cases."""

    @property
    def kept_dice(self) -> NDArray[np.float64]:
        """Return the mean Dice (N,) of the first 1, 2, … N cases."""
        return _running_mean(self.dice)

    @property
    def area(self) -> float:
        """Return the area under the curve: the mean risk of the kept cases, over all coverages."""
        return float(1 - self.kept_dice.mean())

    @property
    def area_ideal(self) -> float:
        """Return the area of the ideal order."""
        return float(1 - _running_mean(self.ideal).mean())

    @property
    def area_random(self) -> float:
        """Return the mean area of random orders: the mean risk of all cases."""
        return float(1 - self.dice.mean())

    @property
    def num_doubtful(self) -> int:
        """Return how many cases are the least certain tenth: rounded, at least one."""
        return max(1, round(DOUBTFUL * len(self.dice)))

    @property
    def threshold(self) -> float:
        """Return the lowest confidence of the kept cases; those below it go to a reader."""
        return float(self.confidence[-self.num_doubtful - 1])


def risk_coverage(confidence: ArrayLike | Sequence[float], dice: ArrayLike | Sequence[float]) -> RiskCoverage:
    """Return the cases in the order of their confidence, from (N,) confidences and their (N,) Dice.

    Raises `ValueError` for fewer than two cases, which have no order, and for lists that differ in length or hold NaN.
    """
    confidences, scores = np.asarray(confidence, np.float64), np.asarray(dice, np.float64)
    if confidences.shape != scores.shape or confidences.ndim != 1:
        raise ValueError(
            f"there are {confidences.shape} confidences and {scores.shape} Dice; expected one of each per case"
        )
    if len(confidences) < 2:
        raise ValueError(f"{len(confidences)} case has no order by confidence; expected two cases or more")
    if not (np.isfinite(confidences).all() and np.isfinite(scores).all()):
        raise ValueError("a confidence or a Dice is not a number")
    levels, level = np.unique(-confidences, return_inverse=True)
    count = np.bincount(level)
    shared = np.bincount(level, weights=scores) / count
    spearman = None
    if len(levels) > 1 and np.ptp(scores) > 0:
        from scipy.stats import spearmanr  # takes longer to load than most commands to run

        spearman = float(spearmanr(confidences, scores).statistic)
    return RiskCoverage(np.repeat(-levels, count), np.repeat(shared, count), np.sort(scores)[::-1], spearman)


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.cumsum(values) / np.arange(1, len(values) + 1), np.float64)
