"""Read and write caption tables: one row for each image."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from c2fvl.files.tables import Row, read_cells, write_cells
from c2fvl.messages import listed
from c2fvl.reports.report import ATTRIBUTES, Report, parse_attribute, parse_report
from c2fvl.reports.zones import check_orientation

MAX_ROWS_SHOWN = 20
_COLUMNS = {"lvit": ("Image", "Description"), "c2fvl": ("Image", *ATTRIBUTES)}


@dataclass(frozen=True)
class TableRow:
    """One row of a caption table."""

    row: int
    """Row number as a spreadsheet shows it; the header is row 1."""
    name: str
    """The cell `Image`: a file name (in QaTa-COV19 that of the mask)."""
    report: Report | None
    """None if the cell is empty."""


class TableError(ValueError):
    """The rows of a table that cannot be read, one message each."""

    def __init__(self, messages: Sequence[str]) -> None:
        self.messages = tuple(messages)
        super().__init__(listed(messages, MAX_ROWS_SHOWN, separator="\n"))


def read_table(path: Path | str, *, orientation: str = "image") -> list[TableRow]:
    """Read a caption table, xlsx or csv, with the columns of LViT or of C2FVL.

    LViT has `Image, Description`; C2FVL has `Image` and the eight `ATTRIBUTES`. Order, case and spaces of the column
    names do not matter, and further columns are ignored. `orientation` says whose left the table means.

    Raises `FileNotFoundError`, or `ValueError` that names file, row, column and value: a file that is damaged or too
    large, wrong columns, no rows. All wrong rows together raise `TableError`: an empty name, a name that points outside
    its folder, a name in two rows, an attribute that is not 0 or 1, a number that is negative or not whole.
    """
    check_orientation(orientation)
    path = Path(path)
    rows = read_cells(path)
    if not rows:
        raise ValueError(f"{path}: the table is empty; expected a row of column names and one row per image")
    form, columns = _form(path, rows[0])
    if len(rows) == 1:
        raise ValueError(f"{path}: the table has column names but no rows; expected one row per image")
    found: list[TableRow] = []
    wrong: list[str] = []
    first: dict[str, int] = {}
    for number, cells in rows[1:]:
        where = f"{path}, row {number}"
        try:
            if path.suffix.lower() == ".csv" and len(cells) > len(rows[0][1]):
                raise ValueError(
                    f"{where}: {len(cells)} cells, expected {len(rows[0][1])}; "
                    f"put text that holds commas in quotation marks"
                )
            name = _name(f"{where}, column Image", _cell(cells, columns["image"]))
            if name in first:
                raise ValueError(f"{where}, column Image: {name!r} is in row {first[name]} too; keep one row")
            first[name] = number
            if form == "lvit":
                text = _text(_cell(cells, columns["description"]))
                report = parse_report(text, orientation=orientation) if text else None
            else:
                report = _read_attributes(where, cells, columns, orientation)
            found.append(TableRow(number, name, report))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise TableError(wrong)
    return found


def write_table(
    path: Path | str, rows: Iterable[tuple[str, Report | None]], *, form: Literal["lvit", "c2fvl"] = "lvit"
) -> None:
    """Write names and reports in image orientation as xlsx or csv; None leaves the cells empty.

    `form` is "lvit" (canonical sentences) or "c2fvl" (attributes). Raises `ValueError`, before anything is written, for
    no rows, a name that `read_table` would refuse, a name given twice, patient orientation, free text as attributes.
    """
    path = Path(path)
    if form not in _COLUMNS:
        raise ValueError(f"there is no table form {form!r}; expected one of {', '.join(_COLUMNS)}")
    table: list[list[object]] = [list(_COLUMNS[form])]
    names: set[str] = set()
    for number, (name, report) in enumerate(rows, start=2):
        where = f"{path}, row {number}"
        if _name(f"{where}, column Image", name) in names:
            raise ValueError(f"{where}, column Image: {name!r} is given twice; give each image one row")
        names.add(name.strip())
        if report is not None and report.orientation != "image":
            raise ValueError(
                f"{where}: the report of {name!r} is in {report.orientation} orientation, but tables are in image "
                f"orientation; convert it with in_orientation('image')"
            )
        if form == "lvit":
            table.append([name.strip(), None if report is None else str(report) or None])
        elif report is None:
            table.append([name.strip()] + [None] * len(ATTRIBUTES))
        elif report.has_attributes:
            table.append([name.strip(), *(int(value) for value in report.attributes())])
        else:
            raise ValueError(f"{where}: {report.text!r} is free text and has no attributes; write it in the form lvit")
    if not names:
        raise ValueError(f"{path}: there are no rows to write; a table needs at least one")
    write_cells(path, table)


def _form(path: Path, header: Row) -> tuple[str, dict[str, int]]:
    """Return the form of a table and the position of each column."""
    names = ["" if cell is None else str(cell).strip().lower() for cell in header[1]]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}, row {header[0]}: the column {twice[0]} is there twice; keep one of them")
    complete = [form for form, columns in _COLUMNS.items() if {column.lower() for column in columns} <= set(names)]
    if len(complete) == 1:
        return complete[0], {name: position for position, name in enumerate(names) if name}
    what = "both forms at once" if complete else ", ".join(map(repr, filter(None, map(_text, header[1])))) or "nothing"
    either = " or ".join(", ".join(columns) for columns in _COLUMNS.values())
    raise ValueError(f"{path}, row {header[0]}: expected the columns {either}; found {what}; rename or remove columns")


def _cell(cells: list[object], position: int) -> object:
    return cells[position] if position < len(cells) else None


def _text(cell: object) -> str:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return "" if cell is None else str(cell).strip()


def _name(where: str, cell: object) -> str:
    name = _text(cell)
    if not name:
        raise ValueError(f"{where}: the name is empty; write the file's name")
    outside = any(
        parts.is_absolute() or parts.anchor or ".." in parts.parts
        for parts in (PurePosixPath(name), PureWindowsPath(name))
    )
    if outside or not name.isprintable():
        raise ValueError(f"{where}: {name!r} points outside its folder or cannot be a name; write the bare file name")
    return name


def _read_attributes(where: str, cells: list[object], columns: Mapping[str, int], orientation: str) -> Report | None:
    values = {name: _cell(cells, columns[name]) for name in ATTRIBUTES}
    values = {name: None if isinstance(value, str) and not value.strip() else value for name, value in values.items()}
    if all(value is None for value in values.values()):
        return None
    numbers = []
    for name, value in values.items():
        try:
            numbers.append(parse_attribute(name, value))
        except ValueError as error:
            raise ValueError(f"{where}, column {name}: {error}; correct the cell") from error
    return Report.from_attributes(numbers, orientation=orientation)
