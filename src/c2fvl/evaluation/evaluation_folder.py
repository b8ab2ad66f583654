"""The folder that an evaluation leaves: the one place that writes and reads it. `docs/formats.md` lists its files.

A whole evaluation is replaced at once: it is written to a new folder, which then takes the place of the old one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c2fvl.checkpoints.folders import name_of
from c2fvl.data.part import Part
from c2fvl.evaluation.records import from_plain
from c2fvl.evaluation.summary import Summary
from c2fvl.files import storage
from c2fvl.files.parsing import parse_json
from c2fvl.files.tables import read_csv, write_cells
from c2fvl.messages import listed

SUMMARY, CASES, AUDIT_TABLE, PICTURES = "summary.json", "cases.csv", "audit.csv", "pictures"
PAGE, AUDIT_PAGE = "evaluation.html", "audit.html"
_FILES = {SUMMARY, CASES, AUDIT_TABLE, PICTURES, PAGE, AUDIT_PAGE, ".DS_Store"}
SCORES = {"dice": "original_corrected_dice", "iou": "original_corrected_iou"}
"""Score and its column in `cases.csv`: at the original resolution by the corrected protocol."""
_COUNTS = ("original_intersection", "original_prediction", "original_target")


class OtherVersionError(ValueError):
    """A summary that this version of the program did not write."""


@dataclass(frozen=True)
class CaseTable:
    """The scores of each case, sorted by id."""

    path: Path
    ids: tuple[str, ...]
    groups: tuple[str | None, ...]
    scores: Mapping[str, NDArray[np.float64]] = field(repr=False)
    """By the keys of `SCORES`."""
    counts: NDArray[np.float64] | None = field(repr=False)
    """(N, 3) pixels in both masks, predicted and true; None for several classes."""


@dataclass(frozen=True)
class EvaluationFolder:
    """Where the scores of one model on one part of a data set lie, or will lie."""

    path: Path

    @classmethod
    def of_model(cls, model: Path, part: Part) -> "EvaluationFolder":
        """Return the folder beside a run's best model, or in a model folder, that belongs to a part.

        The scores of a model that was given by name go to `scores/<name>` in the current folder, for its own folder
        belongs to the package or to the cache.
        """
        name = name_of(model)
        parent = Path("scores") / name if name else model.parent if model.name == "best" else model
        return cls(parent / f"evaluation-{part.split}" / part.text)

    @classmethod
    def beside(cls, model: Path) -> list["EvaluationFolder"]:
        """Return the evaluations that lie where `of_model` puts them."""
        parent = model.parent if model.name == "best" else model
        return [cls(summary.parent) for summary in sorted(parent.glob(f"evaluation-*/*/{SUMMARY}"))]

    @property
    def exists(self) -> bool:
        """Tell whether there is an evaluation."""
        return (self.path / SUMMARY).is_file() and (self.path / CASES).is_file()

    def check(self) -> None:
        """Raise `ValueError` unless an evaluation can be written here without replacing files of another kind."""
        storage.check_folder(self.path, what="scores", replaced=True)
        if self.path.resolve() == Path.cwd():
            raise ValueError("an evaluation replaces its folder as a whole, so it cannot be the current one")
        others = [entry.name for entry in self.path.iterdir() if entry.name not in _FILES] if self.path.is_dir() else []
        if others:
            raise ValueError(
                f"{self.path} holds {listed(sorted(others))}, which no evaluation writes. The folder is replaced as a "
                "whole; name another one"
            )

    def write(
        self,
        summary: Summary,
        cases: Sequence[Sequence[object]],
        page: str,
        pictures: Mapping[str, bytes],
        *,
        audit: Sequence[Sequence[object]] | None = None,
    ) -> Path:
        """Write a whole evaluation in place of an earlier one, and return the path of its results page.

        `cases` and `audit` are the rows of tables, `pictures` the content of PNG files by name. After an error the
        earlier evaluation is still there.
        """
        name = PAGE if audit is None else AUDIT_PAGE
        with storage.new_folder(self.path.resolve(), replace=True) as folder:
            storage.make_folder(folder / PICTURES)
            for file, content in pictures.items():
                storage.write_bytes(folder / PICTURES / file, content)
            write_cells(folder / CASES, cases)
            if audit is not None:
                write_cells(folder / AUDIT_TABLE, audit)
            storage.write_text(folder / name, page)
            storage.write_json(folder / SUMMARY, summary.as_dict())
        return self.path / name

    def read_summary(self) -> Summary:
        """Return the summary. Raises `FileNotFoundError` where there is none, `ValueError` where it is damaged."""
        path = self.path / SUMMARY
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}; name a folder that `c2fvl evaluate` or `c2fvl audit` wrote")
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}; score the model again") from error
        try:
            return from_plain(Summary, content, where="the summary")
        except ValueError as error:
            raise OtherVersionError(
                f"{path} is not of an evaluation by this version of the program ({error}); score the model again"
            ) from error

    def read_cases(self) -> CaseTable:
        """Return the scores of the cases.

        Raises `FileNotFoundError` where there are none, `ValueError` for a table that is damaged or of another program.
        """
        path = self.path / CASES
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}; score the model first with `c2fvl evaluate`")
        columns, rows = read_csv(path)
        missing = [column for column in ("id", "group", *SCORES.values()) if column not in columns]
        if missing or not rows:
            what = f"has no column {', '.join(missing)}" if missing else "holds no case"
            raise ValueError(f"{path} {what}; it must be a table that `c2fvl evaluate` wrote: score the model again")
        ordered = [row for _, row in sorted(rows, key=lambda entry: entry[1]["id"])]
        ids = tuple(row["id"] for row in ordered)
        if len(set(ids)) < len(ids):
            raise ValueError(f"{path} names a case twice; score the model again")
        counted = [column for column in _COUNTS if column in columns]
        try:
            scores = {name: np.array([float(row[column]) for row in ordered]) for name, column in SCORES.items()}
            counts = np.array([[float(row[column]) for column in counted] for row in ordered])
        except ValueError as error:
            raise ValueError(f"{path} holds a cell that is not a number ({error}); score the model again") from None
        if not all(((values >= 0) & (values <= 1)).all() for values in scores.values()):  # a NaN is neither
            raise ValueError(f"{path} holds a score that is not finite or not from 0 to 1; score the model again")
        groups = tuple(row["group"] or None for row in ordered)
        return CaseTable(path, ids, groups, scores, counts if len(counted) == len(_COUNTS) else None)
