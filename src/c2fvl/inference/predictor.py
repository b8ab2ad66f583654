"""From an image and its report to a mask at the original size."""

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from c2fvl.data.classes import class_names
from c2fvl.data.transforms import in_channel_order, resize_image
from c2fvl.files.images import read_image, remarks_on_range, unit_rgb
from c2fvl.inference.engine import Computed, Engine
from c2fvl.inference.masks import THRESHOLD, check_probability, to_labels, to_original
from c2fvl.metrics.confidence import estimated_dice
from c2fvl.metrics.out_of_distribution import OodScore
from c2fvl.metrics.temperature import TemperatureScaling
from c2fvl.models.registry import num_classes
from c2fvl.reports.encoders import build_text_encoder
from c2fvl.reports.findings import explain
from c2fvl.reports.from_mask import zone_areas
from c2fvl.reports.predicted_findings import PredictedFindings
from c2fvl.reports.report import MAX_LESIONS, Report, default_orientation, parse_report
from c2fvl.reports.zones import check_orientation

if TYPE_CHECKING:
    from c2fvl.checkpoints.trained_model import TrainedModel

logger = logging.getLogger(__name__)

ONNX = ".onnx"
_DOUBTS = ("uncertain:", "not read:", "contradiction:")
"""How the lines of `explain` begin that a user should see."""


class UnreadableReportError(ValueError):
    """A report of which nothing can be read, with the reason."""


@dataclass(frozen=True)
class Prediction:
    """What the network predicts for one image."""

    mask: np.ndarray
    """(H, W) uint8 in {0, 1}, or the class of each pixel, in the image's own size."""
    probability: np.ndarray
    """Of the lesion (H, W), or of three classes and more (C, H, W), float32 in [0, 1]; calibrated if the model is."""
    report: Report | None
    """The report as understood, in image orientation; None if none was given or the network reads none."""
    findings: PredictedFindings | None = None
    """The predicted findings and their agreement with the report; None for a network that predicts none."""
    ood: OodScore | None = None
    """Whether the image is like the training images; None for a model without an out-of-distribution check."""
    refusal: str = ""
    """Why the report given could not be read; the mask is then the one without a report."""

    @property
    def areas(self) -> dict[str, int]:
        """Return the predicted pixels, of any class, in each zone, in image orientation."""
        return zone_areas((self.mask > 0).astype(np.uint8))

    @property
    def estimated_dice(self) -> float | None:
        """Return the Dice of the mask as estimated from its probabilities; None for several classes."""
        return estimated_dice(self.probability, self.mask) if self.probability.ndim == 2 else None


@dataclass(frozen=True)
class Prepared:
    """An image and its report as the network takes them."""

    size: tuple[int, int]
    """(H, W) of the image."""
    image: np.ndarray
    """(3, S, S)."""
    text: np.ndarray | None
    """(T, F)."""
    report: Report | None
    ood: OodScore | None = None
    refusal: str = ""
    """Why the report given could not be read."""


class Predictor:
    """A trained network, ready for images of any size.

    `model` is a model folder, a run folder, the name of a trained model such as "default", a loaded model or an
    exported file `.onnx`, which needs no torch. Call it with an image, as a path or as a grey or RGB array (H, W) or
    (H, W, 3), float in [0, 1], uint8 or uint16, and a report as a sentence or a `Report`. `trust`, from 0 (the image
    alone) to 1 (follow the report), is for networks that read the image before the report; None takes the model's own.
    """

    def __init__(
        self,
        model: "str | Path | TrainedModel | Engine",
        *,
        device: str = "cpu",
        threshold: float = THRESHOLD,
        batch_size: int | None = 1,
        trust: float | None = None,
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"the threshold is {threshold}; expected a probability between 0 and 1")
        self.engine = _engine(model, device, batch_size)
        self.batch_size = self.engine.batch_size if batch_size is None else batch_size
        self.threshold = threshold
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
        self.encoder = build_text_encoder(config.data, trust=trust)

    def __call__(
        self, image: str | Path | np.ndarray, report: str | Report | None = None, *, orientation: str | None = None
    ) -> Prediction:
        """Return the prediction for one image.

        `orientation`, "image" or "patient", says whose left a report's "left" is. None takes the image's for a caption
        in the grammar, as in QaTa-COV19, and the patient's for free text, as a radiologist writes. Raises `ValueError`
        for an image or a report that cannot be read.
        """
        prepared = self.prepare(image, report, orientation=orientation)
        return self.finish(prepared, self.run([prepared])[0])

    def describe(self, image: str | Path | np.ndarray) -> Prediction:
        """Return the prediction for one image without a report, with its predicted findings.

        Raises `ValueError` for a network that predicts no findings, and for an image that cannot be read.
        """
        found = self(image)
        if found.findings is None:
            name = self.engine.config.model.name
            raise ValueError(f"the network {name} predicts no findings from an image; filmfirst does")
        return found

    def prepare(
        self, image: str | Path | np.ndarray, report: str | Report | None = None, *, orientation: str | None = None
    ) -> Prepared:
        """Return image and report ready for `run`. Raises as a call does."""
        pixels = _as_array(image)
        understood, refusal = self.understand_or_refuse(report, orientation=orientation)
        config = self.engine.config.data
        resized = resize_image(pixels, config.image_size, rule=config.resize)
        text = None if self.encoder is None else self.encoder.encode(understood)
        image = in_channel_order(resized, config).transpose(2, 0, 1)
        size = int(pixels.shape[0]), int(pixels.shape[1])
        known = self.engine.ood_detector
        ood = None if known is None else known.score(pixels)
        return Prepared(size, np.ascontiguousarray(image, np.float32), text, understood, ood, refusal)

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
        probability = to_original(found.probability, prepared.size)
        mask = to_labels(probability, self.threshold)
        findings_given = None if prepared.text is None else prepared.text[0]
        findings = PredictedFindings.from_logits(found.logits, findings_given) if found.logits else None
        return Prediction(
            mask, self.scaling.apply(probability), prepared.report, findings, prepared.ood, prepared.refusal
        )

    @property
    def reads_images(self) -> bool:
        """Tell whether the network reads images itself, so that a report is optional."""
        return self.engine.config.data.text == "findings"

    def understand_or_refuse(
        self, report: str | Report | None, *, orientation: str | None = None
    ) -> tuple[Report | None, str]:
        """Return the report as `understand` does, or why nothing of it can be read.

        For a network that does not read images itself, such a report is an error.
        """
        try:
            return self.understand(report, orientation=orientation), ""
        except UnreadableReportError as error:
            if not self.reads_images:
                raise
            return None, str(error)

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
                self._said.add(message)
                logger.warning("%s", message)


def _engine(model: "str | Path | TrainedModel | Engine", device: str, batch_size: int | None) -> Engine:
    if isinstance(model, str | Path) and Path(model).suffix == ONNX:
        from c2fvl.inference.onnx_engine import OnnxModel

        return OnnxModel(model, device=device)
    if isinstance(model, Engine):
        return model
    from c2fvl.checkpoints.trained_model import load_model
    from c2fvl.inference.torch_engine import NetworkEngine

    if isinstance(model, str | Path):
        return NetworkEngine(load_model(model, device=device), device=device, batch_size=batch_size, in_place=True)
    return NetworkEngine(model, device=device, batch_size=batch_size)


def _as_array(image: Any) -> np.ndarray:
    """Return the image as (H, W, 3) float32 in [0, 1]."""
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image))
    try:
        array = np.asarray(image)  # also of Pillow, a tensor on the CPU, or nested lists
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the image is {type(image).__name__}, which is no array ({error}); {_EXPECTED}") from error
    if array.dtype.kind not in "uif" or (isinstance(image, Image.Image) and image.mode not in _PILLOW_MODES):
        kind = f"a picture of mode {image.mode}" if isinstance(image, Image.Image) else f"of {array.dtype} values"
        raise ValueError(f"the image is {kind}; {_EXPECTED}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if isinstance(image, list | tuple) and array.dtype.kind == "i" and array.size:
        if array.min() < 0 or array.max() > 255:
            raise ValueError(f"the numbers of the list are not from 0 to 255; {_EXPECTED}")
        array = array.astype(np.uint8)
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(
            f"the image has the shape {array.shape}; it must be (height, width), or (height, width, 3) RGB"
        )
    if array.dtype in (np.uint8, np.uint16):
        for remark in remarks_on_range(array):
            logger.warning("the image given as an array: %s", remark)
    elif array.dtype.kind != "f" or not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise ValueError("the image must be uint8, uint16, or floating point in [0, 1] without NaN")
    return unit_rgb(array)


_PILLOW_MODES = ("L", "RGB", "I;16", "I;16B", "I;16L", "F")
_EXPECTED = "give a path, or an array (height, width) or (height, width, 3) of uint8, uint16 or floats in [0, 1]"
