"""Temperature scaling: one number that logits are divided by, so that probabilities are neither too sure nor too shy.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. It is fitted to the probability maps on the films'
own grid, against the masks as they are in the files, and is applied there. Applied before a map is enlarged it would
move the line at 0.5 between two pixels, and the mask with it; afterwards no mask at 0.5 changes. No torch.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c2fvl.calibration import PixelCalibration
from c2fvl.confidence import checked

LIMIT, STEP = 20.0, 0.01
"""Logits are counted in cells of this width; those beyond the limit count as the limit."""
LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are looked for."""
_ALMOST_ONE = np.float32(2**-25)
"""What float32 rounds 1 − p up to at least: a probability of 1 in it is any logit from 17.3 on."""
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))


def scale(probability: np.ndarray, temperature: float) -> np.ndarray:
    """Return the lesion's probabilities (H, W) with their logits divided by `temperature`, float32.

    What is below 0.5 stays below, and the rest stays there. Raises `ValueError` for several classes.
    """
    if temperature == 1:
        return probability
    if probability.ndim != 2:
        raise ValueError(
            f"a temperature is for the probabilities of one lesion, (H, W), not for those of shape {probability.shape}"
        )
    power = np.float32(1 / temperature)
    lesion = np.clip(probability, 0, 1).astype(np.float32) ** power
    background = np.maximum(1 - probability, _ALMOST_ONE).astype(np.float32) ** power
    scaled = lesion / (lesion + background)
    return np.where(probability < 0.5, np.minimum(scaled, _BELOW_HALF), scaled)  # rounding may have reached 0.5


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

    def quality(self, temperature: float = 1.0) -> Quality:
        """Return the quality of the probabilities at a temperature."""
        background, lesion = self.counts
        scaled = self.logits / temperature
        probability = 1 / (1 + np.exp(-scaled))
        cost = (lesion * np.logaddexp(0, -scaled) + background * np.logaddexp(0, scaled)).sum()
        pixels = PixelCalibration.of_counts(probability, background, lesion)
        return Quality(float(cost / self.counts.sum()), pixels.ece, pixels.brier)

    def fit(self) -> float:
        """Return the temperature at which the pixels are likeliest.

        Raises `ValueError` where no temperature is best: without lesion or without background, where no pixel is on
        the wrong side of 0.5, and where the probabilities tell nothing of the mask.
        """
        background, lesion = self.counts.sum(axis=1).tolist()
        if not background or not lesion:
            there = (
                "no pixels at all" if not background + lesion else "empty masks only" if background else "only lesion"
            )
            raise ValueError(f"no temperature can be fitted: there are {there}; expected are lesion and background")
        from scipy.optimize import minimize_scalar  # takes longer to load than most commands to run

        low, high = math.log(LOWEST), math.log(HIGHEST)
        found = float(
            minimize_scalar(
                lambda value: self.quality(math.exp(value)).nll, bounds=(low, high), method="bounded",
                options={"xatol": 1e-6},
            ).x
        )  # fmt: skip
        if found < low + 1e-3:
            raise ValueError(
                f"no temperature can be fitted: the likelihood still rises at {LOWEST}, for hardly a pixel is on the "
                "wrong side of 0.5; fit on more films, which the network was not trained on"
            )
        if found > high - 1e-3:
            raise ValueError(
                f"no temperature can be fitted: the likelihood still rises at {HIGHEST}, for the probabilities tell "
                "nothing of these masks; check that films, masks and network belong together"
            )
        return math.exp(found)


def parse_calibration(content: str | bytes, *, where: Path | str) -> dict[str, Any]:
    """Return the content of a `calibration.json`; `ValueError` where it is damaged."""
    try:
        found = dict(json.loads(content))
        temperature, weights, fitted_on = found["temperature"], found["weights_sha256"], found["fitted_on"]
        is_number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
        if not (is_number and math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"the temperature is {temperature!r}; expected is a number above 0")
        if not (isinstance(weights, str) and isinstance(fitted_on, dict)):
            raise ValueError("weights_sha256 is no text, or fitted_on no table")
    except (ValueError, TypeError, KeyError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{where} is damaged: {reason}; delete it, or fit it anew with `c2fvl calibrate`") from error
    return found
