"""Calibrate a trained network: fit temperature and offset to images that it was not trained on."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from c2fvl.checkpoints.folders import CALIBRATION, WEIGHTS
from c2fvl.checkpoints.model_files import check_target, write_changed
from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.data.part import Part
from c2fvl.data.perturbations import text_given
from c2fvl.data.prefetch import prefetch
from c2fvl.data.scan import fingerprint
from c2fvl.files import storage
from c2fvl.inference.cases import CasePrediction, dataset_of, predict_cases
from c2fvl.inference.compute import Compute
from c2fvl.inference.masks import to_original
from c2fvl.inference.torch_engine import for_inference
from c2fvl.metrics.temperature import LogitHistogram, TemperatureScaling
from c2fvl.models.registry import num_classes
from c2fvl.progress import SILENT, Progress

logger = logging.getLogger(__name__)

_DOUBTS = {
    "train": "the network was trained on these images and is more certain of them than of others; fit on the val split",
    "test": "calibration measured on these images will then be too good; fit on the val split",
    "all": "the network may have been trained on some of these images and be more certain of them than of others",
}


def calibrate(
    model: TrainedModel,
    part: Part,
    compute: Compute = Compute(),
    *,
    out: Path | str | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Fit to the images of a part, write `calibration.json` to the model folder and return its content.

    `out` is a new folder for a copy of the model with the calibration; models of the package are changed only so. The
    temperature is for images with such reports as those of the part. Raises `ValueError`, with nothing
    written, for a network of several classes and for images to which none can be fitted: without masks, with empty
    masks only, or all of them right.
    """
    classes = num_classes(model.config.model)
    if classes > 2:
        raise ValueError(
            f"{model.path}: the network has {classes} classes, and a temperature can be fitted for one lesion only"
        )
    check_target(model.path, out, "c2fvl calibrate")
    images = dataset_of(model, part)
    cases, config = images.cases, model.config
    if part.split.lower() in _DOUBTS:
        logger.warning("the temperature is fitted on the split %s: %s", part.split, _DOUBTS[part.split.lower()])

    histogram = LogitHistogram()
    network, compute = for_inference(model, compute)
    found = predict_cases(network, images, compute)
    counted = prefetch(lambda prediction: _count(histogram, prediction), found, maximum=2 * (compute.batch_size or 1))
    for done, _ in enumerate(counted, start=1):
        progress.advance(done, len(images))

    try:
        scaling = histogram.fit()
    except ValueError as error:
        raise ValueError(f"{part.root} ({part.split}): {error}") from error
    alone = histogram.fit_temperature()
    before, after = histogram.quality(TemperatureScaling()), histogram.quality(scaling)
    record = {
        "temperature": scaling.temperature, "offset": scaling.offset,
        "weights_sha256": model.metrics.get("weights_sha256") or storage.checksum((model.path / WEIGHTS).read_bytes()),
        "fitted_on": {
            "root": Path(part.root).resolve().name, "split": part.split, "fingerprint": fingerprint(cases),
            "num_cases": len(cases), "text": part.text,
            "given": text_given(part.text, config.data.text, images.num_readable, len(cases)),
        },
        "nll_before": before.nll, "nll_after": after.nll,
        "ece_before": before.ece, "ece_after": after.ece,
        "brier_before": before.brier, "brier_after": after.brier,
        "without_offset": None if alone is None else {
            "temperature": alone.temperature, **dataclasses.asdict(histogram.quality(alone)),
        },
    }  # fmt: skip
    write_changed(model.path, {CALIBRATION: storage.json_bytes(record)}, out)
    return record


def _count(histogram: LogitHistogram, prediction: CasePrediction) -> None:
    """Count the pixels of an image at its original resolution; only one thread may do so at a time."""
    mask = prediction.original_mask
    assert mask is not None
    try:
        histogram.add(to_original(prediction.probability, mask.shape), mask)
    except ValueError as error:
        raise ValueError(f"{prediction.id}: {error}") from error
