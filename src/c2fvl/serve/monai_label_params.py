"""What a client of the MONAI Label protocol may ask for: the options of each model, and their check. No torch.

All options are texts. 3D Slicer shows them in a table, and would send an emptied number as 0, a trust that follows no
report; an emptied text stands for the default.
"""

from dataclasses import dataclass
from typing import Any

from c2fvl.files.kinds import HEAD_BYTES, kind_of
from c2fvl.files.nifti import shape_of
from c2fvl.inference.ct_window import window_of
from c2fvl.inference.prediction import Given
from c2fvl.messages import listed
from c2fvl.reports.report import Report
from c2fvl.serve.forms import checked_fraction, checked_orientation, checked_report, parsed_json
from c2fvl.serve.networks import ServedModel, ServedModels
from c2fvl.serve.problems import ProblemError
from c2fvl.serve.settings import Limits

CHOOSE = "choose"
"""The orientation that a client shows until its user chooses one."""
EXTENSIONS = (".nrrd", ".nii.gz")
_OPTIONS = ("report", "orientation", "trust", "threshold")
_OF_CLIENTS = (
    "client_id", "result_extension", "result_dtype", "result_compress", "result_write_to_file", "restore_label_idx",
    "model", "image", "device", "logging",
)  # fmt: skip
"""What stock clients send beside the options."""
_SEND = "Send NIfTI (.nii.gz)."


@dataclass(frozen=True)
class Params:
    """The checked `params` of a request."""

    report: str | None
    orientation: str | None
    trust: float | None
    threshold: float | None
    extension: str
    compress: bool

    def check_orientation(self, image: bytes) -> None:
        """Raise `ProblemError` for a report on a single NIfTI image that does not say whose left it means."""
        if self.report and self.orientation is None and _kind(image) == "nifti":
            raise ProblemError(
                422,
                "A single image as NIfTI does not say which side is the patient's left. Set the option `orientation`: "
                "patient, if the image is shown as usual, the patient's right at its left, and the report means the "
                "patient's left; image, if the report means the left of the image.",
                field="orientation",
            )


def is_for_ct(model: ServedModel) -> bool:
    """Tell whether a model takes volumes, slice by slice."""
    return window_of(model.engine.config) is not None


def labels_of(model: ServedModel) -> dict[str, int]:
    """Return the number of each class in a label map."""
    return {name: number for number, name in enumerate(model.plain.model.classes, start=1)}


def config_of(model: ServedModel) -> dict[str, Any]:
    """Return the options of a model with their defaults; a list is a choice, of which the first is the default."""
    config: dict[str, Any] = {}
    if model.plain.encoder is not None:
        config["report"] = ""
        config["orientation"] = [*(() if is_for_ct(model) else (CHOOSE,)), "patient", "image"]
    by = model.plain.model
    if by.trust is not None:
        config["trust"] = str(by.trust)
    if len(by.classes) == 1:
        config["threshold"] = str(by.threshold)
    return config


def params_of(text: str, model: ServedModel, limits: Limits) -> Params:
    """Return the checked parameters of a request; raises `ProblemError` for what this model does not take."""
    given = parsed_json(text, "The field `params`")
    known = config_of(model)
    if unknown := [name for name in given if name not in _OPTIONS and name not in _OF_CLIENTS]:
        named = ", ".join(repr(name[:40]) for name in unknown[:5])
        raise ProblemError(422, f"params has {named}, which is no option here. Options: {', '.join(known)}.")
    report = checked_report(given.get("report"), limits)
    if report and "report" not in known:
        raise ProblemError(422, f"The model {model.name} reads no report. Leave it empty.", field="report")
    for name in ("trust", "threshold"):
        if _text(given, name) and name not in known:
            raise ProblemError(422, f"The model {model.name} has no {name}. Leave it out.", field=name)
    extension = given.get("result_extension") or EXTENSIONS[0]
    if extension not in EXTENSIONS:
        raise ProblemError(422, f"The result_extension must be {listed(list(EXTENSIONS))}.", field="result_extension")
    orientation = _text(given, "orientation")
    return Params(
        report,
        checked_orientation(None if orientation == CHOOSE else orientation),
        checked_fraction("trust", _text(given, "trust")),
        checked_fraction("threshold", _text(given, "threshold")),
        extension,
        given.get("result_compress") is True,
    )


def _text(given: dict[str, Any], name: str) -> str:
    """Return an option as a text; of a choice, which untouched clients send whole, the first."""
    value = given.get(name)
    if isinstance(value, list) and value:
        value = value[0]
    if value is None or value == "":
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ProblemError(422, f"The option {name} must be a text.", field=name)
    return str(value)


def check_image(image: bytes) -> None:
    """Raise `ProblemError` for a file that is no image."""
    if _kind(image) is None:
        raise ProblemError(422, f"{_unknown_kind(image[:8])} {_SEND}", field="image")


def check_is_for_films(model: ServedModel, image: bytes, models: ServedModels) -> None:
    """Raise `ProblemError` for a NIfTI file that holds no film, but a volume or an image in colours."""
    shape = shape_of(image) if _kind(image) == "nifti" else ()
    if max(shape[2:3], default=1) > 1:
        others = [name for name, other in models.by_name.items() if is_for_ct(other)]
        advice = f"Choose a model for CT: {listed(others)}." if others else "Start the server with --model ct_small."
        raise ProblemError(422, f"This is a volume, and the model {model.name} is for films. {advice}", field="image")
    if max(shape[3:], default=1) > 1:
        raise ProblemError(
            422,
            "The image has several values in each pixel, as pictures in colour have. Convert it first; in 3D Slicer "
            "with the module Vector to Scalar Volume.",
            field="image",
        )


def check_is_for_ct(model: ServedModel, image: bytes) -> None:
    """Raise `ProblemError` for a file that holds no volume."""
    kind = _kind(image)
    if kind != "nifti":
        detail = f"The model {model.name} segments CT volumes, and this is {str(kind).upper()}. {_SEND}"
        raise ProblemError(422, detail, field="image")


def _kind(image: bytes) -> str | None:
    return kind_of(image[:HEAD_BYTES])


def _unknown_kind(head: bytes) -> str:
    if head.startswith(b"NRRD"):
        return (
            "NRRD is not read. In 3D Slicer, set Edit > Application Settings > MONAI Label > File Extension to .nii.gz."
        )
    if head.startswith(b"PK"):
        return "Archives are not opened; a DICOM series must be converted to a volume."
    return "The file is no image that can be read." if head else "The file is empty."


def check_is_read(given: Given) -> None:
    """Raise `ProblemError` for a report that cannot be read: viewers show a mask, but no warning beside it."""
    if given.refusal:
        detail = f"Nothing of the report can be used: {given.refusal}. Change it, or leave it empty."
        raise ProblemError(422, detail, field="report")


def check_is_used(given: Given, used: Report | None) -> None:
    """Raise `ProblemError` for a report on a volume of which nothing is `used`."""
    if given.report is not None and used is None:
        raise ProblemError(
            422,
            "Of a report on a volume it is used that one lung is free, that both are ill, or that none is. This report "
            "says nothing of that. Add such a sentence, as 'The right lung is clear.', or leave the report empty.",
            field="report",
        )
