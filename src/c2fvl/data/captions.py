"""A caption table for a data set without one: captions of its masks, in the words of the published captions."""

from pathlib import Path
from typing import Literal

from c2fvl.data.file_names import Modality
from c2fvl.data.scan import scan
from c2fvl.data.shard_layout import find_shards
from c2fvl.files.images import read_mask
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.caption_tables import write_table
from c2fvl.reports.from_mask import report_from_mask

Form = Literal["lvit", "c2fvl"]
"""Of a caption table: sentences, or eight attributes."""


def write_captions(
    root: Path | str,
    out: Path | str,
    *,
    split: str = "train",
    modality: Modality = "film",
    form: Form = "lvit",
    progress: Progress = SILENT,
) -> int:
    """Write a caption for every mask of a split to the table `out` (.xlsx or .csv); return the number of rows.

    Such captions come from the masks that they would help to predict: scores with them are oracle scores. Raises
    `FileExistsError` if the table exists, `ValueError` for images without a mask; then nothing is written.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists already and nothing is overwritten; name another table")
    rows = []
    if find_shards(root) is not None:
        raise ValueError(
            f"{root}: these are shards, whose captions are written with them; write captions of the data set that they "
            "are from"
        )
    cases = scan(root, split)
    without = [case.id for case in cases if case.mask is None]
    if without:
        raise ValueError(
            f"{len(without)} of {len(cases)} images have no mask to be captioned, the first is {without[0]}"
        )
    for case in cases:
        if case.mask is not None:
            rows.append((case.mask.name, report_from_mask(read_mask(case.mask), modality=modality)))
        progress.advance(len(rows), len(cases))
    write_table(out, rows, form=form)
    return len(rows)
