"""The clinical outputs: their files, and what a user decides about them. Nothing of DICOM is imported here."""

from dataclasses import dataclass

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
