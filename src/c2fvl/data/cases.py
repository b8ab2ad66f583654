"""What a data set is made of once it is read: cases, and the problems met on the way; and what file names tell."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from c2fvl.reports.report import Report

SPLITS = ("train", "val", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
Modality = Literal["film", "ct"]
STRAY_FRACTION = 0.05
"""Of a lesion's pixels: so few in a half of the picture, or in a zone, do not make it one with a lesion."""
_CT_NAMES = ("Jun_", "Morozov_", "bjorke_")  # MosMedData+
NOT_YET_SUFFIXES = (".dcm", ".nii", ".nii.gz")

# The part of a file name that identifies the patient or the study, in any case of letters, and its one spelling.
_GROUP_PATTERNS = tuple(
    (re.compile(pattern, re.IGNORECASE), spelling)
    for pattern, spelling in (
        (r"(sub-S\d+)_", lambda group: group.lower().replace("-s", "-S")),  # QaTa-COV19
        (r"(TCGA-[0-9A-Z]{2}-[0-9A-Z]{4})-", str.upper),  # MoNuSeg: the TCGA patient
        (r"(Jun_coronacases_case\d+)_\d+$", str.capitalize),  # MosMedData+: case, then slice
        # MosMedData+: several series of one Radiopaedia patient
        (r"(Jun_radiopaedia_\d+)_\d+_\d+_case\d+_\d+$", str.capitalize),
        (r"(Morozov_study_\d+)_\d+$", str.capitalize),  # MosMedData+: study, then slice
    )
)


@dataclass(frozen=True)
class Case:
    """One image on disk with what belongs to it; the report is in the viewer's frame."""

    id: str
    image: Path
    mask: Path | None
    report: Report | None
    group: str | None
    columns: tuple[tuple[str, str], ...] = ()
    """Further columns of its table, (name, cell), by which scores can be split."""

    @property
    def has_attributes(self) -> bool:
        """Tell whether there is a report, and one of which side, number or zones could be read."""
        return self.report is not None and self.report.has_attributes


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set: its kind, where it is, what was found and what to do.

    `severity` is "error" where the data cannot be used as it stands, "warning" where it can.
    """

    kind: str
    where: str
    what: str
    remedy: str
    severity: str = "error"

    def __str__(self) -> str:
        place = "" if self.what.startswith(self.where) else f"{self.where}: "
        return f"{place}{self.what}; {self.remedy}"

    @classmethod
    def from_error(cls, kind: str, where: Path | str, error: Exception) -> "Problem":
        """Return the problem that an error of this package tells as "where: what; what to do"."""
        what, _, remedy = str(error).removeprefix(f"{where}: ").rpartition("; ")
        return cls(kind, str(where), what or remedy, remedy if what else "correct it and check again")


@dataclass(frozen=True)
class Scan:
    """What was found for one split: the cases, sorted by id, how they were paired, and all problems."""

    root: Path
    split: str
    layout: str  # "folders" or "csv"
    pairing: str  # a key of PAIRING_RULES, "none" without masks, or "csv"
    table: Path | None
    cases: tuple[Case, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that keep the data from being used."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def modality_of(case: Case) -> Modality:
    """Return how captions name the zones of a case: MosMedData+ is told by its file names, all else counts as film."""
    return "ct" if case.image.name.startswith(_CT_NAMES) else "film"


def split_name(name: str) -> tuple[str, str]:
    """Return a file's name without its ending, and the ending in lower case; only known endings are cut off."""
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
    for pattern, spelling in _GROUP_PATTERNS:
        match = pattern.match(stem)
        if match:
            return spelling(match.group(1))
    return None
