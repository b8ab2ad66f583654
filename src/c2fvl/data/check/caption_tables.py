"""Caption tables without images: their captions, names and groups can be checked alone."""

import re
from pathlib import Path

from c2fvl.data.cases import SPLITS, Case, Scan
from c2fvl.data.file_names import group_from_name, split_name
from c2fvl.data.problems import Problem
from c2fvl.files.tables import read_cells
from c2fvl.reports.caption_tables import read_table
from c2fvl.reports.report import ATTRIBUTES

_SUFFIXES = (".xlsx", ".csv")
_FORMS = ({"image", "description"}, {"image", *ATTRIBUTES})


def caption_tables(root: Path) -> tuple[Path, ...]:
    """Return `root` itself if it is a caption table, or the caption tables in the folder `root`.

    Caption tables are recognised by their columns; the csv of a data set is none.
    """
    files = sorted(root.iterdir()) if root.is_dir() else [root]
    return tuple(path for path in files if _is_caption_table(path))


def inspect_table(path: Path) -> Scan:
    """Return what is found of one caption table; its split is the train, val or test in its name, else "all".

    The image path of a case is the name in its row. A table that cannot be read is among the problems.
    """
    words = re.split(r"[^a-z]+", path.stem.lower())
    split = next((split for split in SPLITS if split in words), "all")
    try:
        rows = read_table(path)
    except ValueError as error:
        messages = getattr(error, "messages", [str(error)])
        problems = tuple(Problem.from_error("table", path, ValueError(message)) for message in messages)
        return Scan(path, split, "table", "none", path, (), problems)
    cases = tuple(
        Case(split_name(row.name)[0], Path(row.name), None, row.report, group_from_name(row.name)) for row in rows
    )
    return Scan(path, split, "table", "none", path, cases, ())


def _is_caption_table(path: Path) -> bool:
    if path.suffix.lower() not in _SUFFIXES or not path.is_file():
        return False
    try:
        rows = read_cells(path)
    except ValueError:
        return path.suffix.lower() == ".xlsx"  # reading it names the problem
    header = {str(cell).strip().lower() for cell in rows[0][1]} if rows else set()
    return any(form <= header for form in _FORMS)
