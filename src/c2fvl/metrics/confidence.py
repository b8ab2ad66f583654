"""How sure a prediction is of itself, and what is gained by sending the doubtful ones to a person. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DOUBTFUL = 0.1
"""Share of the cases that is set apart."""


def estimated_dice(probability: np.ndarray, prediction: np.ndarray) -> float:
    """Return the Dice that a predicted mask (H, W) can be expected to have, were the probabilities (H, W) right.

    With p the probability of each pixel and P the predicted ones it is 2 Σ_P p / (|P| + Σ p): the ratio of the expected
    numerator and denominator of the Dice, which is the first-order approximation of the expected ratio. It is close
    where a lesion has many pixels, and exact where every p is 0 or 1.

    Nothing predicted scores 1 on a film without lesion and 0 on any other, so its expected Dice is the chance that no
    pixel is lesion. That is 1 − max p at most, whatever pixels have to do with each other, and this bound is returned:
    the product of all 1 − p would be right for independent pixels, but a lesion's pixels come together.

    Raises `ValueError` for shapes that differ or are not (H, W), and for probabilities that are none.
    """
    probability = checked(probability, prediction)
    found = np.asarray(prediction) != 0
    num_found = int(np.count_nonzero(found))
    if not num_found:
        return 1 - float(probability.max())
    return 2 * float(probability[found].sum()) / (num_found + float(probability.sum()))


def checked(probability: np.ndarray, mask: np.ndarray) -> NDArray[np.float64]:
    """Return the probability map (H, W) in float64, or raise `ValueError` where it or its mask cannot be used.

    What rounding left outside of [0, 1] is brought back.
    """
    if probability.ndim == 3:
        raise ValueError(
            f"the probability map has the shape {probability.shape}, of several classes; expected is that of one "
            "lesion, (H, W)"
        )
    if probability.ndim != 2 or not probability.size or probability.shape != mask.shape:
        raise ValueError(
            f"the probability map has the shape {probability.shape} and the mask {mask.shape}; expected is one (H, W) "
            "for both"
        )
    if mask.dtype.kind not in "bui":
        raise ValueError(f"the mask holds {mask.dtype}; expected are 0 and 1")
    exact = np.asarray(probability, np.float64)
    lowest, highest = float(exact.min()), float(exact.max())
    if not (lowest >= -1e-5 and highest <= 1 + 1e-5):  # a NaN fails too
        raise ValueError(f"the probability map holds values from {lowest:g} to {highest:g}; expected are 0 to 1")
    return exact.clip(0, 1)


@dataclass(frozen=True)
class RiskCoverage:
    """Cases from the most confident to the least; the risk of a case is 1 − Dice.

    Cases of equal confidence have no order. They share their mean Dice, which gives what a random order among them
    would on average, and does not depend on how the cases are listed.
    """

    confidence: NDArray[np.float64]
    """(N,), falling."""
    dice: NDArray[np.float64]
    """(N,), in that order."""
    ideal: NDArray[np.float64]
    """(N,), falling: the Dice in the order that a confidence without fault would give."""
    spearman: float | None
    """Rank correlation of confidence and Dice; None where one of them is the same for all cases."""

    @property
    def kept_dice(self) -> NDArray[np.float64]:
        """Return the mean Dice (N,) of the first 1, 2, … N cases."""
        return _running_mean(self.dice)

    @property
    def area(self) -> float:
        """Return the area under the curve: the mean risk of what is kept, over all coverages."""
        return float(1 - self.kept_dice.mean())

    @property
    def area_ideal(self) -> float:
        """Return the area that the ideal order gives."""
        return float(1 - _running_mean(self.ideal).mean())

    @property
    def area_random(self) -> float:
        """Return the area that a random order gives on average: the risk of all cases."""
        return float(1 - self.dice.mean())

    @property
    def num_doubtful(self) -> int:
        """Return how many cases are the doubtful tenth: rounded, one at least."""
        return max(1, round(DOUBTFUL * len(self.dice)))

    @property
    def threshold(self) -> float:
        """Return the lowest confidence of the cases that are kept; what lies below it goes to a person."""
        return float(self.confidence[-self.num_doubtful - 1])


def risk_coverage(confidence: ArrayLike | Sequence[float], dice: ArrayLike | Sequence[float]) -> RiskCoverage:
    """Return the cases in the order of their confidence, by (N,) confidences and the (N,) Dice they came to.

    Raises `ValueError` for fewer than two cases, which have no order, and for lists that differ in length or hold NaN.
    """
    sure, reached = np.asarray(confidence, np.float64), np.asarray(dice, np.float64)
    if sure.shape != reached.shape or sure.ndim != 1:
        raise ValueError(f"there are {sure.shape} confidences and {reached.shape} Dice; expected is one of each a case")
    if len(sure) < 2:
        raise ValueError(f"{len(sure)} case has no order by confidence; expected are two cases or more")
    if not (np.isfinite(sure).all() and np.isfinite(reached).all()):
        raise ValueError("a confidence or a Dice is not a number")
    levels, level = np.unique(-sure, return_inverse=True)
    count = np.bincount(level)
    shared = np.bincount(level, weights=reached) / count
    spearman = None
    if len(levels) > 1 and np.ptp(reached) > 0:
        from scipy.stats import spearmanr  # takes longer to load than most commands to run

        spearman = float(spearmanr(sure, reached).statistic)
    return RiskCoverage(np.repeat(-levels, count), np.repeat(shared, count), np.sort(reached)[::-1], spearman)


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.cumsum(values) / np.arange(1, len(values) + 1), np.float64)
