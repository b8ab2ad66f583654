"""One case after the other: what the network predicts for it, and what that scores."""

import functools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.prefetch import prefetch
from c2fvl.inference.cases import CasePrediction, CaseScore, predict_cases, score_prediction
from c2fvl.inference.compute import Compute
from c2fvl.inference.torch_engine import for_inference
from c2fvl.metrics.calibration import CaseCalibration, of_case
from c2fvl.metrics.case_scores import TOLERANCES, score_case
from c2fvl.reports.predicted_findings import PredictedFindings

Spacing = tuple[float, float]
"""Distance of rows and of columns."""


@dataclass(frozen=True)
class ScoredCase:
    """What one case scored, and what a panel of it needs."""

    score: CaseScore
    calibration: CaseCalibration | None
    """None for several classes."""
    findings: PredictedFindings | None
    shape: tuple[int, ...]
    packed_labels: bytes

    @property
    def labels(self) -> np.ndarray:
        """Return the predicted class of each pixel (H, W) uint8."""
        return np.frombuffer(zlib.decompress(self.packed_labels), np.uint8).reshape(self.shape)


class Scoring(Protocol):
    """Scores the cases of a data set, in this process or elsewhere."""

    compute: Compute
    """With the precision that it computes in."""

    def __call__(self, images: CaseDataset, spacings: Sequence[Spacing]) -> Iterator[ScoredCase]:
        """Yield what each case scored, in the order of the data set; `spacings` has one entry for each."""


class ScoringHere:
    """A `Scoring` in this process."""

    def __init__(
        self, model: TrainedModel, compute: Compute = Compute(), *, tolerances: Sequence[float] = TOLERANCES
    ) -> None:
        self._model, self._tolerances = model, tolerances
        self._network, self.compute = for_inference(model, compute)

    def __call__(self, images: CaseDataset, spacings: Sequence[Spacing]) -> Iterator[ScoredCase]:
        """Yield what each case scored, in the order of the data set."""
        predictions = predict_cases(self._network, images, self.compute)
        score = functools.partial(self._score, spacings)
        return prefetch(score, predictions, maximum=2 * (self.compute.batch_size or 1))

    def _score(self, spacings: Sequence[Spacing], prediction: CasePrediction) -> ScoredCase:
        details = functools.partial(score_case, spacing=spacings[prediction.index], tolerances=self._tolerances)
        return ScoredCase(
            score_prediction(prediction, details=details),
            _calibration_of(prediction, self._model),
            PredictedFindings.from_logits(prediction.logits, None) if prediction.logits else None,
            prediction.labels.shape,
            zlib.compress(prediction.labels.tobytes(), 1),
        )


def _calibration_of(prediction: CasePrediction, model: TrainedModel) -> CaseCalibration | None:
    """Return how well the probabilities that a user is given fit one mask; None for several classes."""
    if prediction.probability.ndim != 2:
        return None
    return of_case(model.scaling.apply(prediction.original_probability), prediction.target, prediction.labels)
