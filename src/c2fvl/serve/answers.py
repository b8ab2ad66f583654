"""A prediction in each form that `POST /api/v1/predict?as=…` gives it. No torch, and nothing is written to the disk."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from c2fvl.files.images import unit_rgb
from c2fvl.inference.engine import Computed
from c2fvl.inference.outputs.endings import ENDINGS
from c2fvl.inference.prediction import Prediction
from c2fvl.inference.save import panel_of
from c2fvl.serve.problems import ProblemError


@dataclass(frozen=True)
class Answer:
    """The content of an answer."""

    content: bytes
    media_type: str
    file_name: str
    """What a browser saves it as; never a name that a client sent."""


@dataclass(frozen=True)
class Done:
    """A prediction, and what the network gave for it before calibration."""

    prediction: Prediction
    computed: Computed
    model: str
    """The name of the model as requests call it."""
    view_side: int


def record(done: Done) -> dict[str, Any]:
    """Return the record as `c2fvl predict` writes it; the model's place on this machine is left out."""
    found = done.prediction.to_dict()
    return found | {"model": found["model"] | {"path": done.model}}


def _json(done: Done) -> Answer:
    return Answer(_as_json(record(done)), "application/json", "record.json")


def _mask(done: Done) -> Answer:
    mask = done.prediction.mask
    return Answer(png(mask if len(done.prediction.model.classes) > 1 else mask * np.uint8(255)), _PNG, "mask.png")


def _overlay(done: Done) -> Answer:
    return Answer(png(panel_of(done.prediction)), _PNG, "overlay.png")


def _probability(done: Done) -> Answer:
    probability = done.prediction.probability
    if probability.ndim != 2:
        raise ProblemError(422, "A model of several classes has no single probability map. Ask for the mask.")
    return Answer(png(np.rint(probability.astype(np.float64) * 65535).astype(np.uint16)), _PNG, "probability.png")


def _clinical(output: str, media_type: str) -> Callable[[Done], Answer]:
    def answer(done: Done) -> Answer:
        from c2fvl.inference.outputs.of_prediction import clinical_files

        try:
            made = clinical_files(done.prediction, (output,))
        except ValueError as error:
            raise ProblemError(422, str(error).partition("; leave it out")[0]) from error
        return Answer(made[output], media_type, f"result{ENDINGS[output]}")

    return answer


def _view(done: Done) -> Answer:
    """Return what the page draws, upright: image, mask and uncalibrated probability as PNG, and the record.

    The longer side has at most `view_side` pixels. The mask is the one of the files; the probability lets a moved
    threshold be previewed.
    """
    prediction = done.prediction
    height, width = prediction.picture.pixels.shape[:2]
    scale = min(1.0, done.view_side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = _resized(np.rint(unit_rgb(prediction.picture.pixels) * 255).astype(np.uint8), size, cv2.INTER_AREA)
    mask = _resized(prediction.upright_mask, size, cv2.INTER_NEAREST)
    probability = None
    if done.computed.probability.ndim == 2:
        probability = _encoded(cv2.resize(np.rint(done.computed.probability * 255).astype(np.uint8), size))
    findings = prediction.findings
    about = {
        "width": size[0],
        "height": size[1],
        "image": _encoded(image),
        "mask": _encoded(mask),
        "probability": probability,
        "classes": list(prediction.model.classes),
        "findings": None if findings is None else findings.as_dict("patient"),
        "record": record(done),
    }
    return Answer(_as_json(about), "application/json", "view.json")


_PNG, _DICOM = "image/png", "application/dicom"
FORMS: dict[str, Callable[[Done], Answer]] = {
    "json": _json,
    "mask": _mask,
    "overlay": _overlay,
    "probability": _probability,
    "seg": _clinical("seg", _DICOM),
    "sc": _clinical("sc", _DICOM),
    "sr": _clinical("sr", _DICOM),
    "measurements": _clinical("measurements", _DICOM),
    "nifti": _clinical("nifti", "application/gzip"),
    "nrrd": _clinical("nrrd", "application/octet-stream"),
    "view": _view,
}
"""The forms by their names in `as`."""


def png(pixels: NDArray[Any]) -> bytes:
    """Return grey (H, W) or RGB (H, W, 3) pixels, uint8 or uint16, as PNG."""
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels[:, :, ::-1]))
    return encoded.tobytes()


def _resized(pixels: NDArray[Any], size: tuple[int, int], how: int) -> NDArray[Any]:
    return pixels if pixels.shape[1::-1] == size else np.asarray(cv2.resize(pixels, size, interpolation=how))


def _encoded(pixels: NDArray[Any]) -> str:
    return base64.b64encode(png(pixels)).decode("ascii")


def _as_json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode()
