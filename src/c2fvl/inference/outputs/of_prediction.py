"""The clinical files of one prediction: DICOM segmentation, overlay and reports, NIfTI and NRRD."""

import numpy as np

from c2fvl.data.pictures import overlay
from c2fvl.files.images import unit_rgb
from c2fvl.inference.outputs.codes import lesion_numbers
from c2fvl.inference.outputs.encode import dicom_bytes
from c2fvl.inference.outputs.endings import NEED_DICOM, ClinicalOptions
from c2fvl.inference.outputs.measurement_report import measurements
from c2fvl.inference.outputs.nifti_nrrd import Grid, grid_of_film, grid_of_nifti, nifti, nrrd
from c2fvl.inference.outputs.result_info import ResultInfo, orientation_of_picture, patient_zones
from c2fvl.inference.outputs.secondary_capture import secondary_capture
from c2fvl.inference.outputs.seg import segmentation
from c2fvl.inference.outputs.sides import NOT_SHOWN, orientation_of, remark_on_sides
from c2fvl.inference.outputs.structured_report import report
from c2fvl.inference.prediction import Prediction


def clinical_files(
    prediction: Prediction, outputs: tuple[str, ...], options: ClinicalOptions = ClinicalOptions()
) -> dict[str, bytes]:
    """Return the content of each of the clinical outputs of a prediction, by their names.

    Raises `ValueError` for a DICOM output of an image that is no DICOM file, and as the writers do.
    """
    header = prediction.picture.header
    needing = [output for output in outputs if output in NEED_DICOM]
    if needing and header is None:
        raise ValueError(
            f"{', '.join(needing)} can be written for DICOM files only, and this is {prediction.picture.kind}; leave "
            "it out of --output-type"
        )
    about = info_of(prediction)
    found: dict[str, bytes] = {}
    if "seg" in outputs or "measurements" in outputs:
        made = segmentation(
            header, prediction.mask, about, geometry=options.geometry, deidentified=options.deidentified
        )
        if "seg" in outputs:
            found["seg"] = dicom_bytes(made)
        if "measurements" in outputs:
            spacing = prediction.picture.spacing
            area = None if spacing is None else spacing[0] * spacing[1]
            found["measurements"] = dicom_bytes(
                measurements(header, made, about, pixel_mm2=area, deidentified=options.deidentified)
            )
    if "sc" in outputs:
        found["sc"] = dicom_bytes(
            secondary_capture(header, overlay_in_file(prediction), about, deidentified=options.deidentified)
        )
    if "sr" in outputs:
        found["sr"] = dicom_bytes(
            report(
                header, sentence_of(prediction, about), about, given_report=prediction.given.sentence or "",
                keep_text=options.keep_text, deidentified=options.deidentified,
            )
        )  # fmt: skip
    if "nifti" in outputs or "nrrd" in outputs:
        mask, grid = in_grid(prediction)
        found |= {name: write(mask, grid) for name, write in _GRIDDED.items() if name in outputs}
    return found


def possible_files(
    prediction: Prediction, outputs: tuple[str, ...], options: ClinicalOptions = ClinicalOptions()
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the clinical outputs that can be written for a prediction, and why each of the others cannot be."""
    found: dict[str, bytes] = {}
    reasons: dict[str, str] = {}
    for group in _TOGETHER:
        wanted = tuple(output for output in group if output in outputs)
        try:
            found |= clinical_files(prediction, wanted, options)
        except ValueError as error:
            reasons |= dict.fromkeys(wanted, str(error))
    return found, reasons


_TOGETHER = (("seg", "measurements"), ("sc",), ("sr",), ("nifti",), ("nrrd",))
"""Measurements refer to the very segmentation that is written, so both come from one call."""
_GRIDDED = {"nifti": nifti, "nrrd": nrrd}


def in_grid(prediction: Prediction) -> tuple[np.ndarray, Grid]:
    """Return the mask and its place in space; NIfTI stores an image (H, W) as (W, H)."""
    picture = prediction.picture
    if picture.grid is not None:
        return prediction.mask.T, grid_of_nifti(picture.grid)
    height, width = prediction.mask.shape
    return prediction.mask, grid_of_film((height, width), picture.header)


def info_of(prediction: Prediction) -> ResultInfo:
    """Return what clinical files say about the model and the result of a prediction."""
    return ResultInfo.of_model(
        prediction.model,
        report_used=prediction.report is not None,
        zones=patient_zones(_lesion(prediction), prediction.model.modality),
        estimated_dice=prediction.estimated_dice,
        orientation=orientation_of_picture(prediction.picture),
    )


def sentence_of(prediction: Prediction, about: ResultInfo) -> str:
    """Return what was found in one sentence, in which sides are the patient's."""
    if not lesion_numbers(about.classes):
        return f"Segmented: {', '.join(about.classes)}. No lesion was looked for."
    if not about.zones:
        return "No lesion was segmented."
    fraction = 100 * float(np.mean(_lesion(prediction)))
    header = prediction.picture.header
    if header is not None and remark_on_sides(orientation_of(header, about.orientation)) == NOT_SHOWN:
        return f"Lesion segmented; {fraction:.1f} % of the image. No zone is named, since {NOT_SHOWN}."
    return f"Lesion segmented in the patient's {about.zones_in_words}; {fraction:.1f} % of the image."


def _lesion(prediction: Prediction) -> np.ndarray:
    """Return where the upright image has a lesion, of whatever class: (H, W) uint8, 0 and 1."""
    return np.isin(prediction.upright_mask, lesion_numbers(prediction.model.classes)).astype(np.uint8)


def overlay_in_file(prediction: Prediction) -> np.ndarray:
    """Return the image with the mask drawn on it, (H, W, 3) uint8, as it lies in the file."""
    picture = prediction.picture
    drawn = overlay(
        unit_rgb(picture.pixels), prediction.upright_mask, num_classes=len(prediction.model.classes), keep_size=True
    )
    return np.ascontiguousarray(np.moveaxis(picture.to_file(np.moveaxis(drawn, 2, 0)), 0, 2))
