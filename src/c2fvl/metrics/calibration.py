"""Calibration of pixels, of areas, and of the confidence of each case. No torch.

Probabilities are calibrated if eight in ten of the pixels with the probability 0.8 are lesion. `of_case` measures one
case, `summarise` many. Only the lesion is measured; several classes are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.metrics.confidence import RiskCoverage, checked, estimated_dice, risk_coverage
from c2fvl.metrics.overlap import dice, overlap

NUM_BINS = 15
"""Bins of equal width, as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""
NUM_GROUPS = 10
"""Groups of cases with similar expected area."""
NUM_COVERAGES = 100
"""Points of the risk-coverage curve that are stored."""


@dataclass(frozen=True)
class PixelCalibration:
    """Sums over pixels, which can be added over cases."""

    num_pixels: NDArray[np.int64]
    """(15,), pixels by their probability; a bin includes its lower edge, the last one both edges."""
    probability: NDArray[np.float64]
    """(15,), sum of the probabilities."""
    lesion: NDArray[np.int64]
    """(15,), pixels that are lesion."""
    squared_error: float
    """Sum of (probability − lesion)²."""

    @classmethod
    def of(cls, probability: np.ndarray, mask: np.ndarray) -> "PixelCalibration":
        """Return the sums of one probability map (H, W) and its mask (H, W). Raises `ValueError` as `checked`."""
        exact, lesion = checked(probability, mask).ravel(), (np.asarray(mask) != 0).ravel()
        return cls.of_counts(exact, ~lesion, lesion)

    @classmethod
    def of_counts(
        cls, probability: NDArray[np.float64], background: NDArray[Any], lesion: NDArray[Any]
    ) -> "PixelCalibration":
        """Return the sums for each probability (N,) given to so many pixels of background and of lesion."""
        bins = np.minimum((probability * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        pixels = background.astype(np.int64) + lesion

        def by_bin(values: NDArray[Any]) -> NDArray[np.float64]:
            return np.asarray(np.bincount(bins, weights=values, minlength=NUM_BINS), np.float64)

        return cls(
            num_pixels=by_bin(pixels).astype(np.int64),
            probability=by_bin(probability * pixels),
            lesion=by_bin(lesion).astype(np.int64),
            squared_error=float((lesion * (1 - probability) ** 2 + background * probability**2).sum()),
        )

    def __add__(self, other: "PixelCalibration") -> "PixelCalibration":
        return PixelCalibration(
            self.num_pixels + other.num_pixels,
            self.probability + other.probability,
            self.lesion + other.lesion,
            self.squared_error + other.squared_error,
        )

    @property
    def ece(self) -> float:
        """Return the expected calibration error: |mean probability − fraction of lesion|, averaged over all pixels."""
        return float(np.abs(self.probability - self.lesion).sum() / self.num_pixels.sum())

    @property
    def ece_foreground(self) -> float | None:
        """Return the same over the pixels of probability 1/15 and more; None without any.

        Nine pixels in ten are background that every network is sure of. They are in the first bin, are right, and keep
        the error over all pixels near 0 however wrong the others are.
        """
        pixels = self.num_pixels[1:].sum()
        return float(np.abs(self.probability - self.lesion)[1:].sum() / pixels) if pixels else None

    @property
    def brier(self) -> float:
        """Return the mean squared difference of probability and mask."""
        return self.squared_error / int(self.num_pixels.sum())

    def curve(self) -> list[dict[str, Any]]:
        """Return the reliability curve: the edges of each bin, its pixels, mean probability and fraction of lesion."""
        return [
            {
                "from": number / NUM_BINS,
                "to": (number + 1) / NUM_BINS,
                "num_pixels": int(pixels),
                "mean_probability": float(self.probability[number] / pixels) if pixels else None,
                "lesion_fraction": float(self.lesion[number] / pixels) if pixels else None,
            }
            for number, pixels in enumerate(self.num_pixels)
        ]


@dataclass(frozen=True)
class CaseCalibration:
    """The calibration of one case."""

    pixels: PixelCalibration
    expected_area: float
    """Sum of the probabilities, as a fraction of the image."""
    area: float
    """Lesion in the mask, as a fraction of the image."""
    confidence: float
    """`estimated_dice` of the predicted mask."""
    dice: float
    """Dice of the predicted mask, by the corrected protocol."""


def of_case(probability: np.ndarray, mask: np.ndarray, prediction: np.ndarray) -> CaseCalibration:
    """Measure the probabilities of one case against its mask, and the confidence in its predicted mask.

    All are (H, W), at the original resolution. The prediction is thresholded from the network's output; the
    probabilities are what a user gets, with the model's `scaling` applied. Raises `ValueError` as `confidence.checked`.
    """
    exact, lesion = checked(probability, mask), np.asarray(mask) != 0
    return CaseCalibration(
        pixels=PixelCalibration.of(probability, mask),
        expected_area=float(exact.mean()),
        area=float(lesion.mean()),
        confidence=estimated_dice(probability, prediction),
        dice=dice(overlap(prediction, lesion)),
    )


def summarise(cases: Sequence[CaseCalibration], *, calibration: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return all numbers and curves as plain values for JSON; fractions and scores are from 0 to 1.

    `calibration` is that of the model, already applied to the probabilities; None if they are the network's own.

    - num_cases; calibrated, and the temperature and offset that were applied (else null);
    - pixels: num_pixels, ece (of all pixels, the main number), ece_foreground (of those of probability 1/15 and more,
      null without any), brier, and reliability, the curve: a list with from, to, num_pixels, mean_probability and
      lesion_fraction (both null without pixels) of each of 15 bins;
    - area, as fractions of the image: mean_absolute_gap and mean_difference of expected minus true area, and groups, up
      to ten of equally many cases by increasing expected area, each with num_cases, expected, true (means);
    - confidence: mean, mean_dice of all cases; spearman (null if one of the two is constant); risk_area,
      risk_area_ideal, risk_area_random under the risk-coverage curve, for the order by confidence, by the Dice itself
      and at random; curve, with the lists coverage and dice (mean Dice of the kept cases); and doubtful, the least
      confident tenth: num_cases, coverage (of the others), threshold (their lowest confidence), dice_kept (theirs),
      dice_doubtful. Null for one case, which has no order;
    - remarks: a list of notes for the reader, in words.

    Raises `ValueError` for no cases.
    """
    if not cases:
        raise ValueError("there are no cases to measure")
    pixels = cases[0].pixels
    for case in cases[1:]:
        pixels = pixels + case.pixels
    remarks = []
    if calibration is None:
        remarks.append("the probabilities are not calibrated: the model has no temperature, `c2fvl calibrate` fits one")
    order = None
    if len(cases) == 1:
        remarks.append("one case has no order by confidence, so there is no risk-coverage curve")
    else:
        order = risk_coverage([case.confidence for case in cases], [case.dice for case in cases])
        if order.spearman is None:
            remarks.append("all cases have one confidence or one Dice, so the two have no rank correlation")
    return {
        "num_cases": len(cases),
        "calibrated": calibration is not None,
        "temperature": None if calibration is None else calibration["temperature"],
        "offset": None if calibration is None else calibration["offset"],
        "pixels": {
            "num_pixels": int(pixels.num_pixels.sum()),
            "ece": pixels.ece,
            "ece_foreground": pixels.ece_foreground,
            "brier": pixels.brier,
            "reliability": pixels.curve(),
        },
        "area": _areas(cases),
        "confidence": None if order is None else _confidence(order),
        "remarks": remarks,
    }


def _areas(cases: Sequence[CaseCalibration]) -> dict[str, Any]:
    expected = np.array([case.expected_area for case in cases])
    true = np.array([case.area for case in cases])
    groups = np.array_split(np.argsort(expected, kind="stable"), min(NUM_GROUPS, len(cases)))
    return {
        "mean_absolute_gap": float(np.abs(expected - true).mean()),
        "mean_difference": float((expected - true).mean()),
        "groups": [
            {"num_cases": len(group), "expected": float(expected[group].mean()), "true": float(true[group].mean())}
            for group in groups
        ],
    }


def _confidence(order: RiskCoverage) -> dict[str, Any]:
    count = len(order.dice)
    kept = count - order.num_doubtful
    counts = np.unique(np.ceil(np.arange(1, NUM_COVERAGES + 1) * count / NUM_COVERAGES).astype(np.int64))
    return {
        "mean": float(order.confidence.mean()),
        "mean_dice": float(order.dice.mean()),
        "spearman": order.spearman,
        "risk_area": order.area,
        "risk_area_ideal": order.area_ideal,
        "risk_area_random": order.area_random,
        "curve": {
            "coverage": (counts / count).tolist(),
            "dice": order.kept_dice[counts - 1].tolist(),
        },
        "doubtful": {
            "num_cases": order.num_doubtful,
            "coverage": kept / count,
            "threshold": order.threshold,
            "dice_kept": float(order.kept_dice[kept - 1]),
            "dice_doubtful": float(order.dice[kept:].mean()),
        },
    }
