"""Temperature scaling with an offset: logit / T + b, so that probabilities are neither too sure nor all too high.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, divide by a temperature alone. That cannot help a
network whose loss weighs lesion and background alike however rare the lesion is, as the published loss of C2FVL, LViT
and UCTransNet does: all of its logits are too high by about the logarithm of that weight. With the offset it is the
scaling of Platt (1999).

Both are fitted to the probability maps on the films' own grid, against the masks as they are in the files, and are
applied there. Masks are cut from what the network gives, so that calibrating changes none. No torch.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2fvl.metrics.calibration import PixelCalibration
from c2fvl.metrics.confidence import checked

LIMIT, STEP = 20.0, 0.01
"""Logits are counted in cells of this width; those beyond the limit count as the limit."""
LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are looked for."""
_ALMOST_ONE = 2**-25
"""What float32 rounds 1 − p up to at least: a probability of 1 in it is any logit from 17.3 on."""


@dataclass(frozen=True)
class TemperatureScaling:
    """What is done to logits: divided by the temperature, then raised by the offset."""

    temperature: float = 1.0
    offset: float = 0.0

    @classmethod
    def of(cls, calibration: Mapping[str, Any] | None) -> "TemperatureScaling":
        """Return that of a `calibration.json`; without one, that which changes nothing."""
        if calibration is None:
            return cls()
        return cls(float(calibration["temperature"]), float(calibration["offset"]))

    def apply(self, probability: np.ndarray) -> np.ndarray:
        """Return the lesion's probabilities (H, W) with their logits scaled, float32.

        Raises `ValueError` for several classes, unless nothing is to be changed.
        """
        if self == TemperatureScaling():
            return probability
        if probability.ndim != 2:
            raise ValueError(
                f"a temperature is for the probabilities of one lesion, (H, W), not for the shape {probability.shape}"
            )
        # In float64: in float32 the rounding of a power makes larger probabilities smaller on some processors.
        lesion = np.clip(probability, 0, 1 - _ALMOST_ONE, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore"):  # a probability of 0 has the logit -inf, and stays 0
            scaled = (np.log(lesion) - np.log1p(-lesion)) / self.temperature + self.offset
            return (1 / (1 + np.exp(-scaled))).astype(np.float32)


@dataclass(frozen=True)
class Quality:
    """What pixels say of probabilities."""

    nll: float
    """Mean negative log-likelihood of a pixel, in nats."""
    ece: float
    brier: float


class LogitHistogram:
    """How many pixels of background and of lesion have which logit; as large for ten films as for ten thousand."""

    def __init__(self) -> None:
        self.logits = np.linspace(-LIMIT, LIMIT, round(2 * LIMIT / STEP) + 1)
        self.counts = np.zeros((2, len(self.logits)), np.int64)
        """Of background and of lesion."""

    def add(self, probability: np.ndarray, mask: np.ndarray) -> None:
        """Count the pixels of a probability map (H, W) and its mask (H, W); `ValueError` as `checked`."""
        exact = checked(probability, mask)
        logits = np.log(np.maximum(exact, 1e-38)) - np.log(np.maximum(1 - exact, _ALMOST_ONE))
        cells = np.rint((logits.clip(-LIMIT, LIMIT) + LIMIT) / STEP).astype(np.int64)
        size = len(self.logits)
        cells += size * (np.asarray(mask) != 0)
        self.counts += np.bincount(cells.ravel(), minlength=2 * size).reshape(2, size)

    def quality(self, scaling: TemperatureScaling) -> Quality:
        """Return the quality of the scaled probabilities."""
        background, lesion = self.counts
        scaled = self.logits / scaling.temperature + scaling.offset
        pixels = PixelCalibration.of_counts(_sigmoid(scaled), background, lesion)
        return Quality(self._cost(scaled), pixels.ece, pixels.brier)

    def fit(self) -> TemperatureScaling:
        """Return the temperature and the offset at which the pixels are likeliest.

        Raises `ValueError` where none are: without lesion or without background, where a threshold parts the two
        without fault, and where the probabilities tell nothing of the mask.
        """
        background, lesion = self.counts.sum(axis=1).tolist()
        if not background or not lesion:
            there = "only lesion" if lesion else "empty masks only" if background else "no pixels at all"
            raise ValueError(f"no temperature can be fitted: there are {there}; expected are lesion and background")
        from scipy.optimize import minimize  # takes longer to load than most commands to run

        def cost(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            scaled = self.logits * values[0] + values[1]
            error = self.counts.sum(axis=0) * _sigmoid(scaled) - self.counts[1]
            return self._cost(scaled), np.array([(error * self.logits).sum(), error.sum()]) / self.counts.sum()

        found = minimize(  # convex, as any logistic regression
            cost, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[(1 / HIGHEST, 1 / LOWEST), (-LIMIT, LIMIT)],
            options={"ftol": 1e-15, "gtol": 1e-9},
        ).x  # fmt: skip
        temperature, offset = 1 / float(found[0]), float(found[1])
        cells = [np.flatnonzero(of_kind) for of_kind in self.counts]
        if temperature < 1.001 * LOWEST or cells[0].max() <= cells[1].min():
            raise ValueError(
                f"no temperature can be fitted: the likelihood still rises at {LOWEST}, for hardly a pixel is wrong; "
                "fit on more films, which the network was not trained on"
            )
        if temperature > 0.999 * HIGHEST or abs(offset) > 0.999 * LIMIT:
            raise ValueError(
                f"no temperature can be fitted: the likelihood still rises at {temperature:.3g} (offset {offset:.3g}), "
                "for the probabilities tell nothing of these masks; check that films, masks and network belong together"
            )
        return TemperatureScaling(temperature, offset)

    def fit_temperature(self) -> TemperatureScaling | None:
        """Return the best temperature without an offset; None where it is beyond those that are looked for."""
        from scipy.optimize import minimize_scalar

        low, high = math.log(LOWEST), math.log(HIGHEST)
        found = minimize_scalar(
            lambda value: self._cost(self.logits / math.exp(value)), bounds=(low, high), method="bounded",
            options={"xatol": 1e-6},
        ).x  # fmt: skip
        return TemperatureScaling(math.exp(found)) if low + 1e-3 < found < high - 1e-3 else None

    def _cost(self, scaled: NDArray[np.float64]) -> float:
        """Return the mean negative log-likelihood of a pixel where the cells have these logits."""
        background, lesion = self.counts
        costs = lesion * np.logaddexp(0, -scaled) + background * np.logaddexp(0, scaled)
        return float(costs.sum() / self.counts.sum())


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)), np.float64)  # no overflow


def parse_calibration(content: str | bytes, *, where: Path | str) -> dict[str, Any]:
    """Return the content of a `calibration.json`; `ValueError` where it is damaged."""
    try:
        found = dict(json.loads(content))
        for name, minimum, maximum in (("temperature", LOWEST, HIGHEST), ("offset", -LIMIT, LIMIT)):
            value = found[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
                raise ValueError(f"the {name} is {value!r}; expected is a number from {minimum:g} to {maximum:g}")
        if not (isinstance(found["weights_sha256"], str) and isinstance(found["fitted_on"], dict)):
            raise ValueError("weights_sha256 is no text, or fitted_on no table")
    except (ValueError, TypeError, KeyError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{where} is damaged: {reason}; delete it, or fit it anew with `c2fvl calibrate`") from error
    return found
