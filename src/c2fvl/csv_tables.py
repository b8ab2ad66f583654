"""Small csv tables, read with limits: a header, one row per file."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from c2fvl import storage

MAX_BYTES = 256 * 2**20
MAX_ROWS = 1_000_000


def read_csv(path: Path | str) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]]]:
    """Read a csv in UTF-8 as (column names in lower case, [(row number with the header as 1, column → cell), …]).

    Rows without any content are passed over. Raises `FileNotFoundError`, or `ValueError` for a file that is too
    large, not text, without header, with a column named twice, or with a row longer or shorter than the header.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"{path}: {size} bytes, the limit of a csv is {MAX_BYTES}; split the table")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no such file; check the name") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a csv in UTF-8 ({error}); save it as CSV UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    columns: tuple[str, ...] = ()
    try:
        for number, cells in enumerate(reader, start=1):
            if not columns:
                columns = _columns(path, cells)
            elif any(cell.strip() for cell in cells):
                if len(cells) != len(columns):
                    raise ValueError(
                        f"{path}, row {number}: {len(cells)} cells, expected {len(columns)} ({', '.join(columns)}); "
                        f"put text that holds a comma in quotation marks"
                    )
                rows.append((number, dict(zip(columns, cells, strict=True))))
                if len(rows) > MAX_ROWS:
                    raise ValueError(f"{path}: more than {MAX_ROWS} rows; split the table")
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a readable csv ({error}); save it again") from error
    if not columns:
        raise ValueError(f"{path}: the table is empty; expected a row of column names and one row per file")
    return columns, rows


def _columns(path: Path, cells: list[str]) -> tuple[str, ...]:
    columns = tuple(cell.strip().lower() for cell in cells)
    if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0]):
        raise ValueError(f"{path}: the cells are parted by {';' if ';' in columns[0] else 'tabs'}; part them by commas")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice or not all(columns):
        raise ValueError(f"{path}: the header is {cells}; each column needs a name of its own")
    return columns


def write_csv(path: Path | str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as csv in UTF-8; text that a spreadsheet would run as a formula is written as text.

    A leading =, +, -, @, tab or carriage return of a text cell gets an apostrophe before it; numbers stay numbers.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_inert(cell) for cell in columns])
    for row in rows:
        writer.writerow([_inert(cell) for cell in row])
    storage.write_text(path, buffer.getvalue())


def _inert(cell: object) -> object:
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{cell}"
    return cell
