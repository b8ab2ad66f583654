"""The clinical outputs: their files, and what a user decides about them. Nothing of DICOM is imported here."""

from collections.abc import Sequence
from dataclasses import dataclass

from c2fvl.files.picture import Picture

ENDINGS = {
    "seg": "_seg.dcm", "sc": "_sc.dcm", "sr": "_sr.dcm", "measurements": "_measurements.dcm",
    "nifti": ".nii.gz", "nrrd": ".nrrd",
}  # fmt: skip
"""What follows the name of an image in the name of each file."""
NEED_DICOM = ("seg", "sc", "sr", "measurements")


@dataclass(frozen=True)
class ClinicalOptions:
    """What a user decides about clinical files."""

    keep_text: bool = False
    """Whether the user's report is written into the structured report."""
    geometry: str = "none"
    """Whether the segmentation of a film gets a place in space, "none" or "synthetic"."""
    deidentified: bool = False
    """Whether patient and study are left blank."""


def remarks_on_outputs(picture: Picture, outputs: Sequence[str]) -> list[str]:
    """Return what a user must know of the outputs of a film before a viewer opens them."""
    if "seg" in outputs and picture.kind == "dicom" and picture.spacing is None:
        return [_NO_SPACING]
    return []


_NO_SPACING = (
    "The film gives no distance between its pixels; the viewer OHIF shows a blank page for its DICOM segmentation, so "
    "take the secondary capture (sc) for viewing."
)
