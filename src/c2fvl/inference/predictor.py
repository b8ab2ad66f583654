"""From an image and its report to a mask at the original size."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from c2fvl.checkpoints.folders import ALIAS
from c2fvl.data.classes import class_names
from c2fvl.data.transforms import in_channel_order, resize_image
from c2fvl.inference.ct_window import check_is_for_films, window_of
from c2fvl.inference.engine import Computed, Engine
from c2fvl.inference.image_input import ImageInput, as_picture, default_of
from c2fvl.inference.masks import THRESHOLD, check_probability, to_labels, to_original
from c2fvl.inference.open_engine import open_engine
from c2fvl.inference.prediction import Given, PredictedBy, Prediction, Prepared
from c2fvl.metrics.temperature import TemperatureScaling
from c2fvl.models.registry import num_classes
from c2fvl.reports.encoders import build_text_encoder
from c2fvl.reports.findings import DEFAULT_TRUST, explain
from c2fvl.reports.predicted_findings import PredictedFindings
from c2fvl.reports.report import MAX_LESIONS, Report, default_orientation, parse_report
from c2fvl.reports.zones import check_orientation

if TYPE_CHECKING:
    from c2fvl.checkpoints.trained_model import TrainedModel

logger = logging.getLogger(__name__)

_MAX_SAID = 1000
_DOUBTS = ("uncertain:", "not read:", "contradiction:")
"""How the lines of `explain` begin that a user should see."""


class UnreadableReportError(ValueError):
    """A report of which nothing can be read, with the reason."""


class Predictor:
    """A trained network, ready for images of any size.

    `model` is a model folder, a run folder, the name of a trained model, a loaded model or an exported file `.onnx`;
    without it, the model that comes with the package. `device` is cpu, cuda or mps; auto takes the first of cuda, mps
    and cpu that there is (`open_engine` says which engine runs it).

    Call it with an image and a report, a sentence or a `Report`. An image
    is a path (PNG, JPEG, TIFF, DICOM or 2-D NIfTI, known by its content), the bytes of such a file, a pydicom dataset,
    a Pillow picture, or a grey or RGB array (H, W) or (H, W, 3), float in [0, 1], uint8 or uint16. `trust`, from 0 (the
    image alone) to 1 (follow the report), is for networks that read the image before the report; None takes the
    model's own. `force_view` also takes lateral films, and films for a model of CT slices; both are refused otherwise.
    `frame`, counted from 1, chooses an image of a DICOM file that holds several.
    CT volumes are segmented by `c2fvl.inference.volumes.predict_volume`.
    """

    def __init__(
        self,
        model: "str | Path | TrainedModel | Engine" = ALIAS,
        *,
        device: str = "auto",
        threshold: float = THRESHOLD,
        batch_size: int | None = 1,
        trust: float | None = None,
        force_view: bool = False,
        frame: int | None = None,
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"the threshold is {threshold}; expected a probability between 0 and 1")
        self.engine = _engine(model, device, batch_size)
        self.batch_size = self.engine.batch_size if batch_size is None else batch_size
        self.threshold, self.force_view, self.frame = threshold, force_view, frame
        self.is_calibrated = self.engine.calibration is not None
        self.scaling = TemperatureScaling.of(self.engine.calibration)
        self._said: set[str] = set()
        self._speaking = threading.Lock()
        config = self.engine.config
        self.classes = class_names(config.data, num_classes(config.model))
        if len(self.classes) > 1 and threshold != THRESHOLD:
            raise ValueError(
                f"the threshold is {threshold}, but this network has {len(self.classes)} classes, and each pixel "
                "gets the most probable; leave the threshold out"
            )
        if trust is None and self.reads_images:  # said to the network too, which has been exported with another one
            trust = float(config.model.arguments.get("trust", DEFAULT_TRUST))
        self.encoder = build_text_encoder(config.data, trust=trust)
        self.model = PredictedBy(
            config.model.name, config.preset, str(self.engine.path), self.engine.metrics.get("weights_sha256"),
            threshold, trust, self.is_calibrated, tuple(self.classes), self.reads_images,
            getattr(self.engine, "precision", "fp32"), "film" if window_of(config) is None else "ct",
            str(getattr(self.engine, "device", "cpu")),
            getattr(self.engine, "runtime", type(self.engine).__name__),
        )  # fmt: skip

    def __call__(
        self, image: ImageInput, report: str | Report | None = None, *, orientation: str | None = None
    ) -> Prediction:
        """Return the prediction for one image.

        `orientation`, "image" or "patient", says whose left a report's "left" is. None takes the image's for a caption
        in the grammar, as in QaTa-COV19, and the patient's for free text, as a radiologist writes, and with a DICOM or
        NIfTI file. Raises `ValueError` for an image or a report that cannot be read.
        """
        return self.batch([image], [report], orientation=orientation)[0]

    def batch(
        self,
        images: Sequence[ImageInput],
        reports: Sequence[str | Report | None] | None = None,
        *,
        orientation: str | None = None,
    ) -> list[Prediction]:
        """Return the predictions for several images and their reports, computed `batch_size` at a time.

        What a user must know of an image is in `picture.warnings` and is logged. Raises `ValueError` for the first
        image or report that cannot be read, and for lists of different length.
        """
        reports = [None] * len(images) if reports is None else reports
        found: list[Prediction] = []
        pairs = list(zip(images, reports, strict=True))
        for start in range(0, len(pairs), self.batch_size):
            some = [
                self.prepare(image, report, orientation=orientation)
                for image, report in pairs[start : start + self.batch_size]
            ]
            for image, one in zip(images[start:], some, strict=False):
                name = image if isinstance(image, str | Path) else f"the image ({type(image).__name__})"
                for warning in one.picture.all_warnings:
                    self._say_once(f"{name}: {warning}")
            found += [self.finish(one, computed) for one, computed in zip(some, self.run(some), strict=True)]
        return found

    def describe(self, image: ImageInput) -> Prediction:
        """Return the prediction for one image without a report, with its predicted findings.

        Raises `ValueError` for a network that predicts no findings, and for an image that cannot be read.
        """
        found = self(image)
        if found.findings is None:
            name = self.engine.config.model.name
            raise ValueError(f"the network {name} predicts no findings from an image; filmfirst does")
        return found

    def prepare(
        self, image: ImageInput, report: str | Report | None = None, *, orientation: str | None = None
    ) -> Prepared:
        """Return image and report ready for `run`. Raises as a call does."""
        picture = as_picture(image, force_view=self.force_view, frame=self.frame)
        if not self.force_view:
            check_is_for_films(self.engine.config, picture)
        given = self.understand_or_refuse(report, orientation=orientation, default=default_of(picture, report))
        config = self.engine.config.data
        resized = in_channel_order(resize_image(picture.pixels, config.image_size, rule=config.resize), config)
        channels = np.repeat(resized[None], 3, axis=0) if resized.ndim == 2 else resized.transpose(2, 0, 1)
        text = None if self.encoder is None else self.encoder.encode(given.report)
        known = self.engine.ood_detector
        ood = None if known is None else known.score(picture.pixels)
        return Prepared(picture, np.ascontiguousarray(channels, np.float32), text, given, ood)

    def run(self, prepared: Sequence[Prepared]) -> list[Computed]:
        """Return the output for several images at once, at the network's resolution and not calibrated."""
        texts = [one.text for one in prepared if one.text is not None]
        found = self.engine.compute(np.stack([one.image for one in prepared]), np.stack(texts) if texts else None)
        return [found.row(index) for index in range(len(prepared))]

    def finish(self, prepared: Prepared, found: Computed) -> Prediction:
        """Return the prediction at the original size. The mask uses the probabilities before calibration.

        Raises `ValueError` where the network gave numbers that are no probabilities.
        """
        check_probability(found.probability)
        picture = prepared.picture
        probability = to_original(found.probability, picture.pixels.shape[:2])
        mask = picture.to_file(to_labels(probability, self.threshold))
        findings_given = None if prepared.text is None else prepared.text[0]
        findings = PredictedFindings.from_logits(found.logits, findings_given) if found.logits else None
        calibrated = picture.to_file(self.scaling.apply(probability))
        return Prediction(mask, calibrated, picture, prepared.given, self.model, findings, prepared.ood)

    @property
    def reads_images(self) -> bool:
        """Tell whether the network reads images itself, so that a report is optional."""
        return self.engine.config.data.text == "findings"

    def understand_or_refuse(
        self, report: str | Report | None, *, orientation: str | None = None, default: str | None = None
    ) -> Given:
        """Return the report as `understand` does, or why nothing of it can be read.

        For a network that does not read images itself, such a report is an error. `default` is the orientation where
        none is given; None takes that of the sentence.
        """
        sentence = report if isinstance(report, str) else None
        if isinstance(report, str):
            orientation = orientation or default or default_orientation(report)
        elif isinstance(report, Report):
            sentence = report.text or str(report)
        whose = orientation or (report.orientation if isinstance(report, Report) else "image")
        try:
            return Given(sentence, whose, self.understand(report, orientation=orientation))
        except UnreadableReportError as error:
            if not self.reads_images:
                raise
            return Given(sentence, whose, refusal=str(error))

    def understand(self, report: str | Report | None, *, orientation: str | None = None) -> Report | None:
        """Return the report in image orientation as this network reads it; None for none or a blank one.

        Raises `UnreadableReportError`, a `ValueError`, for a sentence of which the network can read nothing.
        """
        if orientation is not None:
            check_orientation(orientation)
        if report is None or (isinstance(report, str) and not report.strip()):
            return None
        if isinstance(report, str):
            report = parse_report(report, orientation=orientation or default_orientation(report))
        elif not isinstance(report, Report):
            raise ValueError(f"the report is {report!r}; expected a sentence or a Report")
        elif orientation not in (None, report.orientation, "image"):
            raise ValueError(
                f"the Report has the orientation {report.orientation!r}, but `orientation` is {orientation!r}; give one"
            )
        if self.encoder is None:
            self._say_once("this network reads no report; the one given changes nothing")
            return None
        if not self.encoder.reads(report):
            if self.reads_images:
                raise UnreadableReportError(explain(report)[-1].removeprefix("refused: "))
            raise UnreadableReportError(
                f"the report {report.text!r} names no side and no zone in the form that "
                f"{self.engine.config.model.name} reads: captions such as 'Bilateral pulmonary infection, two infected "
                "areas, upper left lung and lower right lung.' (filmfirst also reads free text)"
            )
        if self.reads_images:
            for line in explain(report):
                if line.startswith(_DOUBTS):
                    self._say_once(f"of the report {report.text!r}, {line}")
            return report.in_orientation("image")
        by_attributes = self.engine.config.data.text == "attributes"
        if by_attributes and report.number is not None and report.number > MAX_LESIONS:
            raise ValueError(f"the report counts {report.number} infected areas; expected at most {MAX_LESIONS}")
        for contradiction in report.contradictions():
            self._say_once(f"the report {report.text!r} contradicts itself: {contradiction}")
        if by_attributes and report.unread:
            self._say_once(f"of the report {report.text!r} this was not understood: {'; '.join(report.unread)}")
        return report.in_orientation("image")

    def _say_once(self, message: str) -> None:
        with self._speaking:
            if message not in self._said:
                if len(self._said) >= _MAX_SAID:  # a program that runs for weeks does not keep every sentence
                    self._said.clear()
                self._said.add(message)
                logger.warning("%s", message)


def _engine(model: "str | Path | TrainedModel | Engine", device: str, batch_size: int | None) -> Engine:
    if isinstance(model, str | Path):
        return open_engine(model, device=device, batch_size=batch_size)
    if isinstance(model, Engine):
        return model
    from c2fvl.inference.torch_engine import NetworkEngine

    return NetworkEngine(model, device=device, batch_size=batch_size)
