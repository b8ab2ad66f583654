"""What the name of an image file says: its format and, in known data sets, the patient or study and the modality."""

import re
from collections.abc import Callable
from typing import Literal

Modality = Literal["film", "ct"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
NOT_YET_SUFFIXES = (".dcm", ".nii", ".nii.gz")
"""Formats that are recognised, but not read."""

# The part of a file name that identifies the patient or the study, in any case of letters, and its one spelling.
_GROUPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    (r"(sub-S\d+)_", lambda group: group.lower().replace("-s", "-S")),  # QaTa-COV19
    (r"(TCGA-[0-9A-Z]{2}-[0-9A-Z]{4})-", str.upper),  # MoNuSeg: the TCGA patient
    (r"(Jun_coronacases_case\d+)_\d+$", str.capitalize),  # MosMedData+: case, then slice
    # MosMedData+: several series of one Radiopaedia patient
    (r"(Jun_radiopaedia_\d+)_\d+_\d+_case\d+_\d+$", str.capitalize),
    (r"(Morozov_study_\d+)_\d+$", str.capitalize),  # MosMedData+: study, then slice
)
_CT_PREFIXES = ("Jun_", "Morozov_", "bjorke_")  # MosMedData+


def split_name(name: str) -> tuple[str, str]:
    """Return a file name without its ending, and the ending in lower case; unknown endings are not cut off."""
    for suffix in (*SUFFIXES, *NOT_YET_SUFFIXES):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)], suffix
    return name, ""


def group_from_name(name: str) -> str | None:
    """Return the patient or study that a file name of QaTa-COV19, MosMedData+ or MoNuSeg contains, else None.

    A leading `mask_`, the ending and the case of letters do not matter: "sub-S11228_ses-E19964_run-1_dx.png" and
    "mask_SUB-s11228_ses-e19964_run-1_dx.PNG" both give "sub-S11228".
    """
    stem = re.sub("^mask_", "", split_name(name)[0], flags=re.IGNORECASE)
    for pattern, spelling in _GROUPS:
        match = re.match(pattern, stem, re.IGNORECASE)
        if match:
            return spelling(match.group(1))
    return None


def modality_from_name(name: str) -> Modality:
    """Return "ct" for a slice of MosMedData+, else "film"."""
    return "ct" if name.startswith(_CT_PREFIXES) else "film"
