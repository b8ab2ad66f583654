"""The report: sentence ⇄ side, number and zones ⇄ the eight attributes of C2FVL, and the tables that hold them.

A sentence such as "Bilateral pulmonary infection, two infected areas, all left lung and lower right lung." is read by
the grammar of the published captions, their known faults included (`sentences.py`, docs/reports.md). What lies outside
of it is kept as free text without attributes, never guessed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal, NamedTuple

from c2fvl.sentences import NUMBER_WORDS, read_sentence
from c2fvl.spreadsheets import Row, read_cells, write_cells

__all__ = ["ATTRIBUTES", "FRAMES", "SIDES", "ZONES", "Report", "Survey", "TableRow", "parse_report", "read_table",
           "survey", "write_table", "zone_in_words"]  # fmt: skip

ZONES = ("lupper", "lmiddle", "llower", "rupper", "rmiddle", "rlower")
ATTRIBUTES = ("bilateral", "number", *ZONES)
"""The columns of C2FVL's tables and the order of a network's eight numbers."""
SIDES = ("bilateral", "unilateral", "none")
MAX_ROWS_SHOWN = 20
MAX_AREAS = 20
"""More infected areas than this no caption counts; the published ones that are at hand end at nine."""
FRAMES = ("viewer", "patient")

MAX_NUMBER = 999_999_999

_HEIGHTS = ("upper", "middle", "lower")
_OTHER_HAND = {"left": "right", "right": "left"}
_HAND = re.compile(
    r"\b(?:(?P<word>left|right)(?P<sided>sided)?|(?P<initial>[lr])(?=[uml][lz]\b|t\b)\w\w?|(?P<lingula>lingular?))\b"
    r"|(?<![\d’'])(?<!\d\s)\b(?-i:(?P<letter>[LR]))\b(?!['’])",
    re.IGNORECASE,
)
"""Words that name a lung: left, left-sided, Lt, LUL or LLZ (upper lobe, lower zone), lingula, and L alone."""
_COLUMNS = {"lvit": ("Image", "Description"), "c2fvl": ("Image", *ATTRIBUTES)}


@dataclass(frozen=True)
class Report:
    """What is known of the infection on one film. Two reports are equal when they say the same in the same frame."""

    side: str | None = None
    """"bilateral", "unilateral", "none" (no infection), or None where it is not said."""
    number: int | None = None
    """Infected areas, None where it is not said."""
    zones: frozenset[str] = frozenset()
    """The zones named, of `ZONES`."""
    frame: str = "viewer"
    """Whose left: "viewer" (left of the picture) or "patient" (a radiologist's left)."""
    text: str = field(default="", compare=False)
    """The sentence as found."""
    unread: tuple[str, ...] = field(default=(), compare=False)
    """The parts of the sentence that could not be read."""

    def __post_init__(self) -> None:
        if self.side is not None and self.side not in SIDES:
            raise ValueError(f"the side of a report is {self.side!r}; expected one of {', '.join(SIDES)}, or None")
        if self.number is not None:
            if type(self.number) is bool or not hasattr(self.number, "__index__") or not 0 <= self.number <= MAX_NUMBER:
                raise ValueError(
                    f"the number of areas is {self.number!r}; expected a whole number from 0 to {MAX_NUMBER}, or None"
                )
            object.__setattr__(self, "number", int(self.number))  # NumPy counts too
        object.__setattr__(self, "zones", frozenset(self.zones))
        if not self.zones <= set(ZONES):
            unknown = ", ".join(sorted(map(repr, self.zones - set(ZONES))))
            raise ValueError(f"there is no zone {unknown}; expected are {', '.join(ZONES)}")
        _check_frame(self.frame)

    @classmethod
    def from_attributes(cls, values: Sequence[float], *, frame: str = "viewer") -> "Report":
        """Return the report that eight attributes mean, in the order of `ATTRIBUTES`.

        Not bilateral, no area and no zone means no infection. Raises `ValueError` that names the attribute which is
        not 0 or 1 (`number`: not a whole number of 0 or more).
        """
        if len(values) != len(ATTRIBUTES):
            raise ValueError(f"{len(values)} attributes, expected {len(ATTRIBUTES)}: {', '.join(ATTRIBUTES)}")
        named = {name: _attribute(name, value) for name, value in zip(ATTRIBUTES, values, strict=True)}
        zones = frozenset(zone for zone in ZONES if named[zone])
        infected = named["number"] or zones
        side = "bilateral" if named["bilateral"] else "unilateral" if infected else "none"
        return cls(side, named["number"], zones, frame)

    @property
    def has_attributes(self) -> bool:
        """Whether side, number or zones are known; False for free text."""
        return self.side is not None or self.number is not None or bool(self.zones)

    def attributes(self) -> tuple[float, ...]:
        """Return the eight numbers in the order of `ATTRIBUTES`.

        A side that is not said follows from the zones; a number that is not said is the least that side and zones
        allow: one area for each lung concerned. Raises `ValueError` for free text and outside of the viewer's frame.
        """
        if not self.has_attributes:
            raise ValueError(f"the report {self.text!r} is free text and has no attributes; ask has_attributes first")
        if self.frame != "viewer":
            raise ValueError(f"the report is in the {self.frame}'s frame; convert it with in_frame('viewer') first")
        hands = {zone[0] for zone in self.zones}
        bilateral = self.side == "bilateral" if self.side is not None else len(hands) == 2
        least = max(len(hands), {"bilateral": 2, "unilateral": 1}.get(self.side or "", 0))
        number = least if self.number is None else self.number
        return (float(bilateral), float(number), *(float(zone in self.zones) for zone in ZONES))

    def mirrored(self) -> "Report":
        """Return the report of the mirrored film: left and right are exchanged, in the text too."""
        zones = frozenset(("r" if zone[0] == "l" else "l") + zone[1:] for zone in self.zones)
        found = replace(self, zones=zones, text=_exchange(self.text), unread=tuple(map(_exchange, self.unread)))
        return found.with_true_text()

    def with_true_text(self) -> "Report":
        """Return the report with a sentence that says what it says.

        Its own, or the canonical one where words stayed in it that an exchange did not know ("rihgt").
        """
        if not self.has_attributes or not self.text or parse_report(self.text, frame=self.frame) == self:
            return self
        return replace(self, text=str(replace(self, text="", unread=())), unread=())

    def in_frame(self, frame: str) -> "Report":
        """Return the same finding told in `frame`, "viewer" or "patient"."""
        _check_frame(frame)
        return self if frame == self.frame else replace(self.mirrored(), frame=frame)

    def contradictions(self) -> tuple[str, ...]:
        """Return in words what the report says that cannot all be true; it is kept as it was said all the same."""
        hands = {zone[0] for zone in self.zones}
        found = []
        if self.side == "unilateral" and len(hands) == 2:
            found.append("unilateral, with zones of both lungs")
        if self.side == "bilateral" and len(hands) == 1:
            found.append("bilateral, with zones of one lung")
        if self.side == "none" and (self.number or self.zones):
            found.append("no infection, with infected areas or zones")
        if self.side in ("bilateral", "unilateral") and self.number == 0:
            found.append(f"{self.side} infection, with no infected area")
        if self.number is not None and self.number > MAX_AREAS:
            found.append(f"{self.number} infected areas, more than {MAX_AREAS}")
        if self.side is None and self.number == 0 and self.zones:
            found.append("no infected area, with zones")
        return tuple(found)

    def __str__(self) -> str:
        """Return the canonical sentence, which `parse_report` reads back; the text where there are no attributes."""
        if not self.has_attributes:
            return self.text
        side = {"none": "no pulmonary infection"}.get(self.side or "", f"{self.side} pulmonary infection")
        parts = [side] if self.side is not None else []
        if self.number is not None:
            number = NUMBER_WORDS[self.number] if self.number < len(NUMBER_WORDS) else str(self.number)
            parts.append(f"{number} infected {'area' if self.number == 1 else 'areas'}")
        lungs = [_lung(hand, self.zones) for hand in ("left", "right")]
        if any(lungs):
            parts.append(" and ".join(filter(None, lungs)))
        sentence = ", ".join(parts)
        return f"{sentence[0].upper()}{sentence[1:]}."


def zone_in_words(zone: str) -> str:
    """Return a zone as it is told: "left upper zone"."""
    return f"{'left' if zone[0] == 'l' else 'right'} {zone[1:]} zone"


def parse_report(sentence: str, *, frame: str = "viewer") -> Report:
    """Read a sentence; `frame` says whose left it means.

    Parts outside of the grammar are listed in `unread`; a sentence without any part inside of it becomes free text.
    Said twice and differently counts as not said, and both parts as unread.
    """
    _check_frame(frame)
    said = read_sentence(sentence)
    zones = frozenset(hand[0] + height for hand, height in said.zones)
    return Report(said.side, said.number, zones, frame, sentence.strip(), said.unread)


@dataclass(frozen=True)
class TableRow:
    """One row of a caption table."""

    row: int
    """Row number as a spreadsheet shows it; the header is row 1."""
    name: str
    """The cell `Image`: the file's name, of the mask in QaTa-COV19."""
    report: Report | None
    """None where the cell is empty."""


class TableError(ValueError):
    """All rows of a table that cannot be read, one message each."""

    def __init__(self, messages: Sequence[str]) -> None:
        self.messages = tuple(messages)
        shown = "\n".join(messages[:MAX_ROWS_SHOWN])
        more = f"\nand {len(messages) - MAX_ROWS_SHOWN} more rows" if len(messages) > MAX_ROWS_SHOWN else ""
        super().__init__(shown + more)


def read_table(path: Path | str, *, frame: str = "viewer") -> list[TableRow]:
    """Read a caption table, xlsx or csv, with the columns of LViT or of C2FVL.

    LViT: `Image, Description`. C2FVL: `Image` and the eight `ATTRIBUTES`. Order, case and spaces around the names of
    columns do not matter, further columns are passed over. `frame` says whose left the table means.

    Raises `FileNotFoundError`, or `ValueError` (`TableError` with all wrong rows) that names file, row, column and
    value: unreadable or too large a file,
    wrong columns, no rows, an empty name, a name that points outside its folder, one name in two rows, an attribute
    that is not 0 or 1, a number that is negative or not whole.
    """
    _check_frame(frame)
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
                report = parse_report(text, frame=frame) if text else None
            else:
                report = _read_attributes(where, cells, columns, frame)
            found.append(TableRow(number, name, report))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise TableError(wrong)
    return found


def write_table(
    path: Path | str, rows: Iterable[tuple[str, Report | None]], *, form: Literal["lvit", "c2fvl"] = "lvit"
) -> None:
    """Write names and reports (viewer's frame; None leaves the cells empty) as xlsx or csv, whole or not at all.

    `form` is "lvit" (canonical sentences) or "c2fvl" (attributes). Raises `ValueError`, before anything is written,
    for no rows, a name that `read_table` would refuse, a name given twice, another frame, and free text as attributes.
    """
    path = Path(path)
    if form not in _COLUMNS:
        raise ValueError(f"there is no form of table {form!r}; expected one of {', '.join(_COLUMNS)}")
    table: list[list[object]] = [list(_COLUMNS[form])]
    names: set[str] = set()
    for number, (name, report) in enumerate(rows, start=2):
        where = f"{path}, row {number}"
        if _name(f"{where}, column Image", name) in names:
            raise ValueError(f"{where}, column Image: {name!r} is given twice; give each image one row")
        names.add(name.strip())
        if report is not None and report.frame != "viewer":
            raise ValueError(
                f"{where}: the report of {name!r} is in the {report.frame}'s frame, a table is in the viewer's; "
                f"convert it with in_frame('viewer')"
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


class Survey(NamedTuple):
    """How far a table can be read."""

    read: int
    """Rows of which everything was read."""
    unread: list[tuple[int, str, str]]
    """The others: row, sentence, reason."""


def survey(path: Path | str) -> Survey:
    """Read a table and account for every row: read in full, or listed with its sentence and the reason."""
    unread = []
    rows = read_table(path)
    for row in rows:
        if row.report is None:
            unread.append((row.row, "", "the cell is empty"))
        elif not row.report.has_attributes:
            unread.append((row.row, row.report.text, "free text, outside of the grammar"))
        elif row.report.unread:
            unread.append((row.row, row.report.text, f"not read: {'; '.join(row.report.unread)}"))
    return Survey(len(rows) - len(unread), unread)


def _check_frame(frame: str) -> None:
    if frame not in FRAMES:
        raise ValueError(f"the frame of a report is {frame!r}; expected {' or '.join(FRAMES)}")


def _exchange(text: str) -> str:
    """Exchange all words of `_HAND`; the lingula, the left lung's middle, for the right middle lobe."""

    def other(match: re.Match[str]) -> str:
        word = match[0]
        if match["lingula"]:
            swapped = "right middle lobe"
        elif match["word"]:
            swapped = _OTHER_HAND[match["word"].lower()] + (match["sided"] or "").lower()
        else:
            swapped = ("r" if word[0] in "lL" else "l") + word[1:]
            return swapped[0].upper() + swapped[1:] if word[0].isupper() else swapped
        return swapped.upper() if word.isupper() else swapped.capitalize() if word[0].isupper() else swapped

    return _HAND.sub(other, text)


def _lung(hand: str, zones: frozenset[str]) -> str:
    heights = [height for height in _HEIGHTS if hand[0] + height in zones]
    if not heights:
        return ""
    return f"{'all' if len(heights) == len(_HEIGHTS) else ' '.join(heights)} {hand} lung"


def _attribute(name: str, value: object) -> int:
    number: float | None = None
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}(\.0+)?\s*", value, re.ASCII):
        number = float(value)
    elif not isinstance(value, str | bool):
        try:
            number = float(value)  # type: ignore[arg-type]  # NumPy's numbers too
        except (TypeError, ValueError, OverflowError):
            number = None
    limit = MAX_NUMBER if name == "number" else 1
    if number is None or not 0 <= number <= limit or number != int(number):
        expected = "a whole number of 0 or more" if name == "number" else "0 or 1"
        raise ValueError(f"{name} is {value!r}, expected {expected}")
    return int(number)


def _form(path: Path, header: Row) -> tuple[str, dict[str, int]]:
    """Return the form of a table and the position of each column."""
    names = ["" if cell is None else str(cell).strip().lower() for cell in header[1]]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}, row {header[0]}: the column {twice[0]} is there twice; keep one")
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


def _read_attributes(where: str, cells: list[object], columns: Mapping[str, int], frame: str) -> Report | None:
    values = {name: _cell(cells, columns[name]) for name in ATTRIBUTES}
    values = {name: None if isinstance(value, str) and not value.strip() else value for name, value in values.items()}
    if all(value is None for value in values.values()):
        return None
    numbers = []
    for name, value in values.items():
        try:
            numbers.append(_attribute(name, value))
        except ValueError as error:
            raise ValueError(f"{where}, column {name}: {error}; correct the cell") from error
    return Report.from_attributes(numbers, frame=frame)
