"""A data set listed in a csv with the columns image, mask, text, group, split, orientation and modality.

Only image is required. File names are relative to the csv; files lie in its folder or below.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from c2fvl.data.cases import SPLITS, Case, Scan
from c2fvl.data.file_names import NOT_YET_SUFFIXES, Modality, group_from_name, modality_from_name, split_name
from c2fvl.data.problems import Problem
from c2fvl.files.tables import read_csv
from c2fvl.reports.report import Report, default_orientation, parse_report
from c2fvl.reports.zones import read_orientation

_COLUMNS = ("image", "mask", "text", "report", "group", "split", "orientation", "modality")
"""`report` is another name of `text`, so that a table for prediction can be used here too; `frame` of `orientation`."""
_MODALITIES: Mapping[str, Modality] = {"film": "film", "ct": "ct"}


def splits_of_csv(path: Path) -> tuple[str, ...]:
    """Return the splits named in the csv, in the order train, val, test; ("all",) without a column split."""
    columns, rows = read_csv(path)
    named = {row["split"].strip().lower() for _, row in rows} if "split" in columns else set()
    return tuple(split for split in SPLITS if split in named) or ("all",)


def inspect_csv(path: Path, split: str) -> Scan:
    """Return what is found of one split of the csv `path`; "all" takes every row.

    Raises `ValueError` if the columns do not fit; faults of single rows are among the problems.
    """
    problems: list[Problem] = []
    columns, rows = read_csv(path)
    further = _further_columns(path, columns, split, problems)
    if not rows:
        problems.append(Problem("empty table", str(path), "holds no row", "add one row per image"))
    chosen = [(number, row) for number, row in rows if _in_split(path, number, row, split, problems)]
    if rows and not chosen:
        problems.append(Problem("empty table", str(path), f"no row is of split {split}", "name it in column split"))
    images = [_find_file(path, number, row, "image", problems) for number, row in chosen]
    ids = _ids([row for _, row in rows])
    row_of_case: dict[str, int] = {}
    row_of_mask: dict[Path, int] = {}
    cases = []
    for (number, row), image in zip(chosen, images, strict=True):
        where = f"{path}, row {number}"
        mask = _find_file(path, number, row, "mask", problems) if row.get("mask", "").strip() else None
        report = _read_report(path, number, row, problems)
        if mask is not None and row_of_mask.setdefault(mask.resolve(), number) != number:
            what = f"the mask {row['mask']!r} was named in row {row_of_mask[mask.resolve()]} already"
            problems.append(Problem("duplicate row", where, what, "give each image its own mask"))
        if image is None:
            continue
        case_id = ids[row["image"]]
        if row_of_case.setdefault(case_id, number) != number:
            what = f"the image {row['image']!r} was named in row {row_of_case[case_id]} already"
            problems.append(Problem("duplicate row", where, what, "keep one row per image"))
            continue
        group = row.get("group", "").strip() or group_from_name(image.name)
        cells = tuple((column, row[column].strip()) for column in further)
        cases.append(Case(case_id, image, mask, report, group, cells, _modality(where, image, row, problems)))
    _note_gaps(path, cases, problems)
    cases.sort(key=lambda case: case.id)
    return Scan(path, split, "csv", "csv", path, tuple(cases), tuple(problems))


def _further_columns(path: Path, columns: Iterable[str], split: str, problems: list[Problem]) -> list[str]:
    """Check the columns; return those by which scores are split and nothing else."""
    columns = list(columns)
    if "image" not in columns:
        raise ValueError(f"{path}: there is no column image; found {', '.join(columns)}; expected {_COLUMNS}")
    if {"text", "report"} <= set(columns):
        raise ValueError(f"{path}: there are both columns text and report, which mean the same; keep one")
    if split != "all" and "split" not in columns:
        raise ValueError(f"{path}: there is no column split, so {split} is unknown; add it, or ask for the split all")
    further = [column for column in columns if column not in (*_COLUMNS, "frame")]
    if further:
        what = f"scores are split by the columns {', '.join(further)}, which have no other use"
        problems.append(Problem("column", str(path), what, f"known columns are {', '.join(_COLUMNS)}", "warning"))
    return further


def _in_split(path: Path, number: int, row: Mapping[str, str], split: str, problems: list[Problem]) -> bool:
    if "split" not in row:
        return True
    named = row["split"].strip().lower()
    if named not in SPLITS:
        what = f"the split is {row['split']!r}"
        problems.append(Problem("split", f"{path}, row {number}", what, "write train, val or test"))
    return split in ("all", named)


def _find_file(path: Path, number: int, row: Mapping[str, str], column: str, problems: list[Problem]) -> Path | None:
    """Return the file that a cell names, relative to the csv; it must lie in the csv's folder or below."""
    where, name = f"{path}, row {number}, column {column}", row[column].strip()
    file = path.parent / name
    suffix = split_name(name)[1]
    if not name:
        problems.append(Problem("empty cell", where, "is empty", "name a file"))
    elif not file.resolve().is_relative_to(path.parent.resolve()):
        what = f"{name!r} lies outside the folder of the csv"
        problems.append(Problem("outside", where, what, "copy the file there, or put the csv in a folder above both"))
    elif not file.is_file():
        problems.append(Problem(f"missing {column}", where, f"there is no file {file}", "correct the name"))
    elif suffix in NOT_YET_SUFFIXES:
        problems.append(Problem("file kind", where, f"{suffix} is not read yet", "export it as PNG"))
    else:
        return file
    return None


def _ids(rows: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return image cell → id: the bare name if these differ in the whole csv, else the name with its folders."""
    names = {cell: os.path.normpath(cell.strip()) for cell in (row["image"] for row in rows) if cell.strip()}
    ids = {name: split_name(Path(name).name)[0] for name in names.values()}
    if len(set(ids.values())) < len(ids):
        ids = {name: "__".join(part for part in Path(split_name(name)[0]).parts if part != os.sep) for name in ids}
    return {cell: ids[name] for cell, name in names.items()}


def _read_report(path: Path, number: int, row: Mapping[str, str], problems: list[Problem]) -> Report | None:
    text = row.get("text", row.get("report", "")).strip()
    given = row.get("orientation", row.get("frame", ""))
    try:
        orientation = read_orientation(given) if given.strip() else default_orientation(text)
    except ValueError:
        what = f"the orientation is {given.strip()!r}"
        remedy = "write image (left of the image) or patient (the patient's left)"
        problems.append(Problem("orientation", f"{path}, row {number}, column orientation", what, remedy))
        return None
    return parse_report(text, orientation=orientation).in_orientation("image") if text else None


def _modality(where: str, image: Path, row: Mapping[str, str], problems: list[Problem]) -> Modality:
    given = row.get("modality", "").strip()
    if not given:
        return modality_from_name(image.name)
    if given.lower() not in _MODALITIES:
        what = f"the modality is {given!r}"
        problems.append(Problem("modality", f"{where}, column modality", what, "write film (chest X-ray) or ct"))
    return _MODALITIES.get(given.lower(), "film")


def _note_gaps(path: Path, cases: list[Case], problems: list[Problem]) -> None:
    """Warn if some rows, but not all, have no mask or no report."""
    for column, missing in (
        ("mask", [case.id for case in cases if case.mask is None]),
        ("text", [case.id for case in cases if case.report is None]),
    ):
        if missing and len(missing) < len(cases):
            what = f"{len(missing)} of {len(cases)} rows have no {column}, {missing[0]} the first"
            problems.append(Problem(f"empty {column}", str(path), what, "fill in the missing cells", "warning"))
