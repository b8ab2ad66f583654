"""Temperature scaling with an offset: logit / T + b calibrates probabilities that are too certain or all too high.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, use a temperature alone. That does not suffice for a
network whose loss weighs lesion and background equally however rare the lesion is, as the published loss of C2FVL, LViT
and UCTransNet: all its logits are too high by about the logarithm of that weight. With the offset it is the scaling of
Platt (1999).

Both are fitted and applied to the probability maps at the original resolution, with the masks as in the files. Masks
are thresholded from the network's output, so calibration changes no mask. No torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.files.parsing import parse_json
from c2fvl.metrics.calibration import PixelCalibration
from c2fvl.metrics.confidence import checked

LIMIT, STEP = 20.0, 0.01
"""Logits are counted in bins of this width; those beyond the limit count as the limit."""
LOWEST, HIGHEST = 0.05, 20.0
"""The range of temperatures that can be fitted."""
_ALMOST_ONE = 2**-25
"""The smallest 1 − p that float32 can tell from 0: a probability of 1 stands for any logit from 17.3 on."""


@dataclass(frozen=True)
class TemperatureScaling:
    """Logits are divided by the temperature, then the offset is added."""

    temperature: float = 1.0
    offset: float = 0.0

    @classmethod
    def of(cls, calibration: Mapping[str, Any] | None) -> "TemperatureScaling":
        """Return the scaling of a `calibration.json`; without one, the identity."""
        if calibration is None:
            return cls()
        return cls(float(calibration["temperature"]), float(calibration["offset"]))

    def apply(self, probability: np.ndarray) -> np.ndarray:
        """Return the lesion probabilities (H, W) with their logits scaled, float32.

        Raises `ValueError` for several classes, except for the identity.
        """
        if self == TemperatureScaling():
            return probability
        if probability.ndim != 2:
            raise ValueError(
                f"a temperature needs the probabilities (H, W) of one lesion, not the shape {probability.shape}"
            )
        # In float64: in float32 the rounding of a power makes larger probabilities smaller on some processors.
        lesion = np.clip(probability, 0, 1 - _ALMOST_ONE, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore"):  # a probability of 0 has the logit -inf, and stays 0
            scaled = (np.log(lesion) - np.log1p(-lesion)) / self.temperature + self.offset
            return (1 / (1 + np.exp(-scaled))).astype(np.float32)


@dataclass(frozen=True)
class Quality:
    """How well probabilities fit the pixels of masks."""

    nll: float
    """Mean negative log-likelihood of a pixel, in nats."""
    ece: float
    brier: float


class LogitHistogram:
    """Counts of background and lesion pixels by logit; its size does not depend on the number of cases."""

    def __init__(self) -> None:
        self.logits = np.linspace(-LIMIT, LIMIT, round(2 * LIMIT / STEP) + 1)
        self.counts = np.zeros((2, len(self.logits)), np.int64)
        """(2, bins), of background and of lesion."""

    def add(self, probability: np.ndarray, mask: np.ndarray) -> None:
        """Count the pixels of a probability map (H, W) and its mask (H, W). Raises `ValueError` as `checked`."""
        exact = checked(probability, mask)
        logits = np.log(np.maximum(exact, 1e-38)) - np.log(np.maximum(1 - exact, _ALMOST_ONE))
        bins = np.rint((logits.clip(-LIMIT, LIMIT) + LIMIT) / STEP).astype(np.int64)
        size = len(self.logits)
        bins += size * (np.asarray(mask) != 0)
        self.counts += np.bincount(bins.ravel(), minlength=2 * size).reshape(2, size)

    def quality(self, scaling: TemperatureScaling) -> Quality:
        """Return the quality of the scaled probabilities."""
        from scipy.special import expit  # takes longer to load than most commands to run

        background, lesion = self.counts
        scaled = self.logits / scaling.temperature + scaling.offset
        pixels = PixelCalibration.of_counts(expit(scaled), background, lesion)
        return Quality(self._cost(scaled), pixels.ece, pixels.brier)

    def fit(self) -> TemperatureScaling:
        """Return the temperature and the offset of maximum likelihood.

        Raises `ValueError` if there are none: without lesion or background, if a threshold separates the two without
        error, and if the probabilities carry no information about the masks.
        """
        background, lesion = self.counts.sum(axis=1).tolist()
        if not background or not lesion:
            present = "only lesion" if lesion else "empty masks only" if background else "no pixels at all"
            raise ValueError(f"no temperature can be fitted: there are {present}; expected lesion and background")
        from scipy.optimize import minimize  # takes longer to load than most commands to run
        from scipy.special import expit

        def cost(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            scaled = self.logits * values[0] + values[1]
            error = self.counts.sum(axis=0) * expit(scaled) - self.counts[1]
            return self._cost(scaled), np.array([(error * self.logits).sum(), error.sum()]) / self.counts.sum()

        solution = minimize(  # convex, as any logistic regression
            cost, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[(1 / HIGHEST, 1 / LOWEST), (-LIMIT, LIMIT)],
            options={"ftol": 1e-15, "gtol": 1e-9},
        ).x  # fmt: skip
        temperature, offset = 1 / float(solution[0]), float(solution[1])
        is_separable = np.flatnonzero(self.counts[0]).max() <= np.flatnonzero(self.counts[1]).min()
        if temperature < 1.001 * LOWEST or is_separable:
            raise ValueError(
                f"no temperature can be fitted: the likelihood still rises at {LOWEST}, because hardly any pixel is "
                "wrong; fit on more images, which the network was not trained on"
            )
        if temperature > 0.999 * HIGHEST or abs(offset) > 0.999 * LIMIT:
            raise ValueError(
                f"no temperature can be fitted: the likelihood still rises at {temperature:.3g} (offset {offset:.3g}), "
                "because the probabilities carry no information about these masks; check that images, masks and "
                "network match"
            )
        return TemperatureScaling(temperature, offset)

    def fit_temperature(self) -> TemperatureScaling | None:
        """Return the best temperature without an offset; None if it is outside the range that can be fitted."""
        from scipy.optimize import minimize_scalar

        low, high = math.log(LOWEST), math.log(HIGHEST)
        solution = minimize_scalar(
            lambda value: self._cost(self.logits / math.exp(value)), bounds=(low, high), method="bounded",
            options={"xatol": 1e-6},
        ).x  # fmt: skip
        return TemperatureScaling(math.exp(solution)) if low + 1e-3 < solution < high - 1e-3 else None

    def _cost(self, scaled: NDArray[np.float64]) -> float:
        """Return the mean negative log-likelihood of a pixel if the bins have these logits."""
        background, lesion = self.counts
        costs = lesion * np.logaddexp(0, -scaled) + background * np.logaddexp(0, scaled)
        return float(costs.sum() / self.counts.sum())


def parse_calibration(content: str | bytes, *, where: Path | str) -> dict[str, Any]:
    """Return the content of a `calibration.json`. Raises `ValueError` if it is damaged."""
    try:
        calibration = dict(parse_json(content))
        for name, minimum, maximum in (("temperature", LOWEST, HIGHEST), ("offset", -LIMIT, LIMIT)):
            value = calibration[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
                raise ValueError(f"the {name} is {value!r}; expected a number from {minimum:g} to {maximum:g}")
        if not (isinstance(calibration["weights_sha256"], str) and isinstance(calibration["fitted_on"], dict)):
            raise ValueError("weights_sha256 is no string, or fitted_on no table")
    except (ValueError, TypeError, KeyError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{where} is damaged: {reason}; delete it, or fit it again with `c2fvl calibrate`") from error
    return calibration
