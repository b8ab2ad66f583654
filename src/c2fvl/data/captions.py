"""A caption table for films without one, made from their masks by the captions' own conventions."""

from pathlib import Path
from typing import Literal

from c2fvl.data.cases import Case
from c2fvl.data.scan import scan
from c2fvl.files.images import read_mask
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.caption_tables import write_table
from c2fvl.reports.from_mask import report_from_mask
from c2fvl.reports.report import Report


def write_captions(
    root: Path | str,
    out: Path | str,
    *,
    split: str = "train",
    modality: Literal["film", "ct"] = "film",
    form: Literal["lvit", "c2fvl"] = "lvit",
    progress: Progress = SILENT,
) -> int:
    """Describe every mask of a split, write the table `out` (.xlsx or .csv) and return its number of rows.

    Such captions come from the very mask they would help to predict: a score with them is an oracle's. Raises
    `FileExistsError` for a table that is there, `ValueError` for films without a mask; then nothing is written.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} is there already and nothing is overwritten; name another table")
    cases = scan(root, split)
    bare = [case.id for case in cases if case.mask is None]
    if bare:
        raise ValueError(f"{len(bare)} of {len(cases)} films have no mask to be described, the first is {bare[0]}")
    rows = []
    for case in cases:
        rows.append(_row(case, modality))
        progress.advance(len(rows), len(cases))
    write_table(out, rows, form=form)
    return len(rows)


def _row(case: Case, modality: Literal["film", "ct"]) -> tuple[str, Report]:
    assert case.mask is not None
    return case.mask.name, report_from_mask(read_mask(case.mask), modality=modality)
