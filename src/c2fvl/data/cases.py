"""The type that everything on data sets meets at: a case is one image on disk with its mask, report and group."""

from dataclasses import dataclass
from pathlib import Path

from c2fvl.data.file_names import Modality
from c2fvl.data.problems import Problem
from c2fvl.reports.report import Report

SPLITS = ("train", "val", "test")
STRAY_FRACTION = 0.05
"""A half or a zone of the image that holds a smaller fraction of the lesion pixels does not count as affected."""


@dataclass(frozen=True)
class Case:
    """One image on disk with what belongs to it; the report is in the orientation "image"."""

    id: str
    image: Path
    mask: Path | None
    report: Report | None
    group: str | None
    """The patient or study."""
    columns: tuple[tuple[str, str], ...] = ()
    """Further columns of the table, (name, cell), by which scores can be split."""
    modality: Modality = "film"
    """Decides how captions divide the image into zones."""


@dataclass(frozen=True)
class Scan:
    """What was found of one split: the cases, sorted by id, how masks were matched, and all problems."""

    root: Path
    split: str
    layout: str
    """"folders", "csv", or "table" for a caption table without images."""
    pairing: str
    """A key of `folder_layout.PAIRING_RULES`, "none" without masks, or "csv"."""
    table: Path | None
    cases: tuple[Case, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that keep the data from being used."""
        return tuple(problem for problem in self.problems if problem.severity == "error")
