"""The files of a prediction: mask, probability, picture and record. No torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from c2fvl.data.pictures import case_panel
from c2fvl.files import storage
from c2fvl.files.images import unit_rgb, write_image, write_labels, write_mask, write_probability
from c2fvl.inference.outputs.endings import ENDINGS, ClinicalOptions
from c2fvl.inference.prediction import Prediction

OUTPUTS = {
    "png": "the mask as PNG, in the pixels of the file",
    "probability": "the probability as 16-bit PNG",
    "overlay": "a picture of the image and of the mask on it",
    "seg": "the mask as DICOM segmentation",
    "sc": "the mask drawn on the image, as DICOM secondary capture, for viewers that show no segmentation of a film",
    "sr": "the finding as a DICOM report",
    "measurements": "area and zones as a DICOM report of measurements (TID 1500)",
    "nifti": "the mask as NIfTI",
    "nrrd": "the mask as NRRD",
    "json": "the record",
}
"""What can be written, in this order."""


def file_names(name: str, classes: Sequence[str], outputs: Sequence[str] = tuple(OUTPUTS)) -> list[str]:
    """Return the names of the files that these outputs have for an image; that of the record is the last."""
    numbers = [""] if len(classes) == 1 else [f"_{number}" for number in range(1, len(classes) + 1)]
    endings = {
        "png": [".png"],
        "probability": [f"_probability{number}.png" for number in numbers],
        "overlay": ["_overlay.png"],
        **{output: [ending] for output, ending in ENDINGS.items()},
        "json": [".json"],
    }
    return [f"{name}{ending}" for output in OUTPUTS if output in outputs for ending in endings[output]]


def check_outputs(outputs: Sequence[str]) -> tuple[str, ...]:
    """Return the outputs in their order; `ValueError` for an unknown one."""
    unknown = [output for output in outputs if output not in OUTPUTS]
    if unknown or not outputs:
        raise ValueError(f"{', '.join(unknown) or 'nothing'} cannot be written; expected some of {', '.join(OUTPUTS)}")
    return tuple(output for output in OUTPUTS if output in outputs)


def save_prediction(
    prediction: Prediction,
    folder: Path,
    name: str,
    outputs: Sequence[str],
    *,
    record: dict[str, Any] | None = None,
    clinical: ClinicalOptions = ClinicalOptions(),
    made: dict[str, bytes] | None = None,
) -> list[Path]:
    """Write the files of one image and return them; the record, of the prediction if none is given, comes last.

    `made` are the clinical files where they were made before.
    """
    outputs = check_outputs(outputs)
    names = file_names(name, prediction.model.classes, outputs)
    several = len(prediction.model.classes) > 1
    made = made or {}
    if set(outputs) & set(ENDINGS) - set(made):
        from c2fvl.inference.outputs.of_prediction import clinical_files

        made = clinical_files(prediction, outputs, clinical)
    storage.make_folder((folder / name).parent)
    if "png" in outputs:
        (write_labels if several else write_mask)(folder / f"{name}.png", prediction.mask)
    if "probability" in outputs:
        maps = prediction.probability[1:] if several else [prediction.probability]
        for file, of_class in zip(file_names(name, prediction.model.classes, ["probability"]), maps, strict=True):
            write_probability(folder / file, of_class)
    if "overlay" in outputs:
        write_image(folder / f"{name}_overlay.png", panel_of(prediction))
    for output, data in made.items():
        storage.write_bytes(folder / f"{name}{ENDINGS[output]}", data)
    if "json" in outputs:
        storage.write_json(folder / f"{name}.json", prediction.to_dict() if record is None else record)
    return [folder / file for file in names]


_SIDES_ASSUMED = "Right and left are assumed, because the file states no orientation."


def panel_of(prediction: Prediction) -> Any:
    """Return the upright image, and beside it the image with the mask, (h, w, 3) uint8.

    Below it stand the report, the model with its threshold, and that it is for research.
    """
    model = prediction.model
    notes = [f"{model.preset or model.name}, threshold {model.threshold:g}; research use, not for diagnosis."]
    if prediction.picture.has_assumed_sides:
        notes.append(_SIDES_ASSUMED)
    return case_panel(
        unit_rgb(prediction.picture.pixels),
        prediction.upright_mask,
        report=prediction.given.as_worded,
        classes=model.classes,
        note=" ".join(notes),
    )
