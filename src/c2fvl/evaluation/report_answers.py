"""The masks of a network for the cases of a data set with any reports, each computed once.

A case and a text that were computed once are not computed again, so a change of reports that the network cannot
distinguish from another one costs nothing.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.data.cases import Case
from c2fvl.data.dataset import CaseDataset
from c2fvl.data.prefetch import prefetch
from c2fvl.inference.cases import ORIGINAL, CasePrediction, predict_cases, score_prediction
from c2fvl.inference.compute import Compute
from c2fvl.inference.torch_engine import for_inference
from c2fvl.metrics.overlap import Overlap, dice, iou
from c2fvl.progress import Progress
from c2fvl.reports.from_mask import report_from_mask, zone_areas
from c2fvl.reports.report import Report
from c2fvl.reports.zones import ZONES


@dataclass(frozen=True)
class Answer:
    """What the network gave for one case and one text."""

    overlaps: tuple[Overlap, ...]
    """Of each class, at the original resolution."""
    zones: NDArray[np.float64]
    """(6,), predicted pixels in each of `ZONES`."""
    described: Report
    """What a caption would say of the predicted mask."""

    @property
    def dice(self) -> float:
        """Return the Dice, averaged over the classes."""
        return float(np.mean([dice(own) for own in self.overlaps]))

    @property
    def iou(self) -> float:
        """Return the IoU, averaged over the classes."""
        return float(np.mean([iou(own) for own in self.overlaps]))


class ReportAnswers:
    """The answers of a network to the cases of `dataset`, by the text that it reads."""

    def __init__(self, model: TrainedModel, dataset: CaseDataset, compute: Compute) -> None:
        self.dataset = dataset
        self.network, self.compute = for_inference(model, compute)
        self.known: dict[tuple[int, bytes], Answer] = {}

    def texts(self, cases: Sequence[Case]) -> list[bytes]:
        """Return the text that the network reads of each case."""
        encoder = self.dataset.encoder
        if encoder is None:
            return [b""] * len(cases)
        encoder.prepare([case.report for case in cases])
        return [encoder.encode(case.report).tobytes() for case in cases]

    def of(self, cases: Sequence[Case], *, progress: Progress) -> list[Answer]:
        """Return the answers to all cases of the data set with the reports of `cases`, in their order."""
        keys = list(enumerate(self.texts(cases)))
        missing = [index for index, key in enumerate(keys) if key not in self.known]
        if missing:
            settings = dataclasses.replace(self.dataset.config, missing_reports="allow")
            images = CaseDataset([cases[index] for index in missing], settings, num_classes=self.dataset.num_classes)

            def answer(prediction: CasePrediction) -> Answer:
                return _answer(prediction, images.cases[prediction.index])

            predictions = predict_cases(self.network, images, self.compute)
            answers = prefetch(answer, predictions, maximum=2 * (self.compute.batch_size or 1))
            for done, (index, found) in enumerate(zip(missing, answers, strict=True), start=1):
                self.known[keys[index]] = found
                progress.advance(done, len(cases))
        for done in range(len(missing), len(cases)):  # known already
            progress.advance(done + 1, len(cases))
        return [self.known[key] for key in keys]


def _answer(prediction: CasePrediction, case: Case) -> Answer:
    score = score_prediction(prediction, scorings=(ORIGINAL,))
    lesion = (prediction.labels > 0).astype(np.uint8)
    areas = zone_areas(lesion)
    return Answer(
        tuple(own[ORIGINAL] for own in score.classes),
        np.array([areas[zone] for zone in ZONES], np.float64),
        report_from_mask(lesion, modality=case.modality),
    )
