"""Read and write xlsx and csv files: limits on reading, and nothing in a written file can run.

Tables are not trusted. An xlsx of a few kilobytes may unpack to gigabytes or claim thousands of millions of cells, so
size, unpacked size, tags and rows are limited, all but the last before anything is parsed. Formulas are never computed.
"""

import csv
import io
import logging
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from c2fvl.files import storage

MAX_BYTES = 64 * 2**20
MAX_UNPACKED_BYTES = 256 * 2**20
MAX_ROWS = 1_000_000
MAX_TAGS = 2_500_000
"""Tags of XML in an xlsx, those of empty cells too; a filled cell has four. More take minutes to read."""
MAX_TAG_BYTES = 64 * 1024
MAX_MEMBERS = 10_000
"""Files inside an xlsx."""
MAX_COLUMNS = 64
"""Cells further to the right are ignored."""

Row = tuple[int, list[object]]
"""Row number as a spreadsheet shows it, and its cells: str, int, float, bool, a date, or None for an empty one."""

_ZIP_MAGIC = b"PK\x03\x04"
_ZIP_ENTRY = b"PK\x01\x02"
_CHUNK = 2**20
_XML_BEGIN = re.compile(rb"[\0\s\xef\xbb\xbf\xff\xfe]*(?:<|$)")
_DOCTYPE = re.compile(rb"<!(?!--|\[CDATA\[|$|-$|\[[CDAT]*$)")
_GIANT_TAG = re.compile(rb"<[^>]{%d}" % MAX_TAG_BYTES)
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Text that a spreadsheet runs as a formula, also behind apostrophes, so that reading undoes writing."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")

_BAD_ZIP = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError)
_DAMAGE = (*_BAD_ZIP, ValueError, LookupError, TypeError, AttributeError, OverflowError, ElementTree.ParseError)

_logger = logging.getLogger(__name__)


def read_cells(path: Path | str) -> list[Row]:
    """Read the first sheet of an xlsx, or a csv (UTF-8, separated by commas, semicolons or tabs).

    Empty rows are left out; the others keep their number. Text keeps its spaces. The apostrophe that `write_cells` puts
    before text that looks like a formula is removed. Raises `FileNotFoundError`, or `ValueError` for another kind of
    file, a damaged file, or a file beyond the limits.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the file does not exist; check the name")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path}: {size} bytes, the limit of a table is {MAX_BYTES}; split it")
    suffix = path.suffix.lower()
    if suffix == ".xlsx":
        rows = _rows_of_xlsx(path)
    elif suffix == ".csv":
        rows = _rows_of_csv(path)
    else:
        raise ValueError(
            f"{path}: expected a table that ends in .xlsx or .csv, found {suffix or 'no ending'}; save it as that"
        )
    found: list[Row] = []
    try:
        for number, cells in enumerate(rows, start=1):
            if number > MAX_ROWS:
                raise ValueError(
                    f"{path}: more than {MAX_ROWS} rows; split the table, or remove stray cells far below it"
                )
            if any(cell is not None and str(cell).strip() for cell in cells):
                found.append((number, cells))
    except OSError as error:
        raise ValueError(f"{path}: the table cannot be read ({error.strerror}); check its permissions") from error
    return found


def read_csv(path: Path | str) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]]]:
    """Read a csv as (column names in lower case, [(row number with the header as 1, column → cell), …]).

    Empty rows are skipped. Cells lose the spaces around them; an empty cell is "". Raises as `read_cells`, and
    `ValueError` for a missing header, a column without a name or named twice, and a row longer than the header.
    """
    path = Path(path)
    table = read_cells(path)
    if not table:
        raise ValueError(f"{path}: the table is empty; expected a row of column names and one row per file")
    columns = tuple("" if cell is None else str(cell).strip().lower() for cell in table[0][1])
    if not all(columns) or len(set(columns)) < len(columns):
        raise ValueError(f"{path}: the header is {', '.join(map(repr, columns))}; give each column a name of its own")
    rows: list[tuple[int, dict[str, str]]] = []
    for number, cells in table[1:]:
        if len(cells) > len(columns):
            raise ValueError(
                f"{path}, row {number}: {len(cells)} cells, expected {len(columns)} ({', '.join(columns)}); "
                f"put text that holds a comma in quotation marks"
            )
        texts = ["" if cell is None else str(cell).strip() for cell in cells]
        rows.append((number, dict(zip(columns, texts + [""] * (len(columns) - len(texts)), strict=True))))
    return columns, rows


def write_cells(path: Path | str, rows: Iterable[Sequence[object]]) -> None:
    """Write rows of text and whole numbers as xlsx or csv; the ending of `path` decides which.

    Text that a spreadsheet would run as a formula is stored as text: as a text cell in an xlsx, behind an apostrophe in
    a csv. Raises `ValueError` for another ending, for control characters, and for more than `MAX_ROWS` rows.
    """
    path = Path(path)
    rows = [list(row) for row in rows]
    if len(rows) > MAX_ROWS:
        raise ValueError(f"{path}: {len(rows)} rows to write, the limit is {MAX_ROWS}; split the table")
    for number, row in enumerate(rows, start=1):
        for cell in row:
            if isinstance(cell, str) and _CONTROL.search(cell):
                raise ValueError(f"{path}, row {number}: {cell!r} holds a control character; remove it")
    suffix = path.suffix.lower()
    if suffix == ".xlsx":
        storage.write_bytes(path, _xlsx(rows))
    elif suffix == ".csv":
        buffer = io.StringIO(newline="")
        csv.writer(buffer).writerows([[_inert(cell) for cell in row] for row in rows])
        storage.write_text(path, buffer.getvalue())
    else:
        raise ValueError(f"{path}: a table is written as .xlsx or .csv, not as {suffix or 'a file without ending'}")


def _rows_of_xlsx(path: Path) -> Iterator[list[object]]:
    from openpyxl import load_workbook  # takes a tenth of a second, which only xlsx files need

    _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about styles and other parts that are not read
            workbook = load_workbook(path, read_only=True, data_only=False, keep_links=False)
            try:
                if not workbook.worksheets:
                    raise ValueError("it has no sheet")
                if len(workbook.worksheets) > 1:
                    _logger.info("%s: only the first of %d sheets is read", path, len(workbook.worksheets))
                sheet = workbook.worksheets[0]
                sheet.reset_dimensions()  # the size that the file claims may be false
                rows: list[list[object]] = []
                for row in sheet.iter_rows(max_col=MAX_COLUMNS, values_only=True):
                    if len(rows) > MAX_ROWS:
                        break
                    rows.append(_trim(row))
            finally:
                workbook.close()
    except _DAMAGE as error:
        # damage may raise almost any exception inside the reader
        raise ValueError(f"{path}: not a readable xlsx ({error}); open it and save it again as xlsx") from error
    yield from rows


def _trim(row: Sequence[object]) -> list[object]:
    if row.count(None) == len(row):
        return []
    cells = list(row)
    while cells and cells[-1] is None:
        cells.pop()
    return cells


def _check_zip(path: Path) -> None:
    """Refuse files that are not zip, that unpack to too many bytes, or whose XML defines a document type."""
    content = path.read_bytes()
    if not content.startswith(_ZIP_MAGIC):
        raise ValueError(f"{path}: not an xlsx (it does not begin as a zip file does); save it as xlsx or as csv")
    if content.count(_ZIP_ENTRY) > MAX_MEMBERS:
        raise ValueError(f"{path}: holds more than {MAX_MEMBERS} files, which no table does; save it again as xlsx")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > MAX_UNPACKED_BYTES:
                raise ValueError(f"{path}: unpacks to {unpacked} bytes, the limit is {MAX_UNPACKED_BYTES}; split it")
            tags = 0
            for member in archive.infolist():
                with archive.open(member) as part:
                    try:
                        tags += _count_tags(part, MAX_TAGS - tags)
                    except _RefusedError as error:
                        raise ValueError(f"{path}: {member.filename} {error}") from error
    except _BAD_ZIP as error:
        raise ValueError(f"{path}: not a readable xlsx ({error}); open it and save it again as xlsx") from error


class _RefusedError(Exception):
    """What a file in an archive must not hold, in words."""


def _count_tags(part: IO[bytes], maximum: int) -> int:
    """Return how many tags a file in an archive has, 0 unless it is XML.

    Raises `_RefusedError` for more than `maximum`, a tag of `MAX_TAG_BYTES`, and a document type.
    """
    chunk = part.read(_CHUNK)
    if not _XML_BEGIN.match(chunk):
        return 0
    tags, carried = 0, b""
    while chunk:
        text = carried + chunk.replace(b"\0", b"")  # as in UTF-16
        if _DOCTYPE.search(text):
            raise _RefusedError("defines a document type; save it again as xlsx")
        if _GIANT_TAG.search(text):
            raise _RefusedError(f"has a tag of more than {MAX_TAG_BYTES} bytes; save it again as xlsx")
        last = text.rfind(b"<")
        carried = text[last:] if last >= 0 and b">" not in text[last:] else b""
        tags += text.count(b"<") - carried.count(b"<")
        if tags > maximum:
            raise _RefusedError(
                f"holds more than the {MAX_TAGS:,} tags that are read, those of empty cells too; delete the empty "
                "cells beside and below the table, or save it as csv"
            )
        chunk = part.read(_CHUNK)
    return tags


def _rows_of_csv(path: Path) -> Iterator[list[object]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a csv in UTF-8 ({error}); save it as CSV UTF-8") from error
    header = text.lstrip().split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            yield _trim([_live(cell) or None for cell in row])
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a readable csv ({error}); save it again") from error


def _xlsx(rows: Sequence[Sequence[object]]) -> bytes:
    from openpyxl import Workbook

    workbook = Workbook()
    sheet = workbook.worksheets[0]
    for row_number, row in enumerate(rows, start=1):
        for column, value in enumerate(row, start=1):
            if value is not None:
                cell = sheet.cell(row_number, column, value)
                if isinstance(value, str):
                    cell.data_type = "s"
    buffer = io.BytesIO()
    workbook.save(buffer)
    return buffer.getvalue()


def _inert(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _live(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
