"""What a trained network predicts for one image, and what is known about that prediction. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from c2fvl.files.picture import Picture
from c2fvl.inference.outputs.endings import ClinicalOptions
from c2fvl.metrics.confidence import estimated_dice
from c2fvl.metrics.out_of_distribution import OodScore
from c2fvl.reports.from_mask import report_from_mask, zone_areas
from c2fvl.reports.predicted_findings import PredictedFindings
from c2fvl.reports.report import Report


@dataclass(frozen=True)
class Given:
    """The report that was given with an image."""

    sentence: str | None = None
    orientation: str = "image"
    """Whose left its "left" means."""
    report: Report | None = None
    """The report as understood, in image orientation; None if none was given or the network reads none."""
    refusal: str = ""
    """Why the sentence could not be read; the mask is then the one without a report."""

    @property
    def as_worded(self) -> Report | None:
        """Return the report that was followed in the user's own words and orientation, for pictures."""
        if self.report is None or not self.sentence:
            return self.report
        return replace(self.report.in_orientation(self.orientation), text=self.sentence)


@dataclass(frozen=True)
class PredictedBy:
    """The model of a prediction, and how its mask was made."""

    name: str
    preset: str
    path: str
    weights_sha256: str | None
    threshold: float
    trust: float | None
    """None for a network that does not weigh reports."""
    is_calibrated: bool
    classes: tuple[str, ...]
    """Besides the background."""
    reads_images: bool
    """Whether the network predicts findings from the image before it reads the report."""
    precision: str = "fp32"
    """The number format that the network computed in."""
    modality: Literal["film", "ct"] = "film"
    """Which convention names the zones of a mask: that of chest films, or that of CT slices."""
    device: str = "cpu"
    engine: str = ""
    """What computed, with its version."""


@dataclass(frozen=True)
class Prediction:
    """What the network predicts for one image."""

    mask: np.ndarray
    """(H, W) uint8 in {0, 1}, or the class of each pixel, in the pixels of the file, turned and mirrored as these."""
    probability: np.ndarray
    """Of the lesion (H, W), or of three classes and more (C, H, W), float32 in [0, 1]; calibrated if the model is."""
    picture: Picture
    """The upright image, and how it lies in its file."""
    given: Given
    model: PredictedBy
    findings: PredictedFindings | None = None
    """The predicted findings and their agreement with the report; None for a network that predicts none."""
    ood: OodScore | None = None
    """Whether the image is like the training images; None for a model without an out-of-distribution check."""

    @property
    def report(self) -> Report | None:
        """Return the report as understood, in image orientation; None if none was given or the network reads none."""
        return self.given.report

    @property
    def refusal(self) -> str:
        """Return why the report given could not be read; empty if it could."""
        return self.given.refusal

    @property
    def upright_mask(self) -> np.ndarray:
        """Return the mask on the upright image, `picture.pixels`."""
        return self.picture.from_file(self.mask)

    @property
    def areas(self) -> dict[str, int]:
        """Return the predicted pixels, of any class, in each third of the height of each half of the upright image.

        The names are those of zones, in image orientation; which zones of the lungs have a lesion, `zones` says.
        """
        return zone_areas((self.upright_mask > 0).astype(np.uint8))

    @property
    def zones(self) -> frozenset[str]:
        """Return the zones of the lungs in which the mask lies, as captions name them, in image orientation."""
        return report_from_mask(self.upright_mask > 0, modality=self.model.modality).zones

    @property
    def estimated_dice(self) -> float | None:
        """Return the Dice of the mask as estimated from its probabilities; None for several classes."""
        is_strange = self.ood is not None and bool(self.ood.reasons)
        return None if is_strange or self.probability.ndim != 2 else estimated_dice(self.probability, self.mask)

    def to_dict(self) -> dict[str, Any]:
        """Return the record of the prediction, as `c2fvl predict` writes it: plain values for JSON."""
        from c2fvl.inference.record import record_of

        return record_of(self)

    def save(
        self,
        folder: str | Path,
        name: str,
        outputs: Sequence[str] = ("png", "json"),
        *,
        clinical: ClinicalOptions = ClinicalOptions(),
    ) -> list[Path]:
        """Write the prediction to a folder as `name` with the endings of `outputs`; return the files.

        `outputs` are names of `c2fvl.inference.save.OUTPUTS`. Raises `ValueError` for an output that this image cannot
        have, before anything is written.
        """
        from c2fvl.inference.save import save_prediction

        return save_prediction(self, Path(folder), name, outputs, clinical=clinical)


@dataclass(frozen=True)
class Prepared:
    """An image and its report as the network takes them."""

    picture: Picture
    image: np.ndarray
    """(3, S, S)."""
    text: np.ndarray | None
    """(T, F)."""
    given: Given
    ood: OodScore | None = None
