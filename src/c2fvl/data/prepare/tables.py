"""The authors' tables, under the names that they have had: captions, and the partition into train, val and test.

Known are `Train_text.xlsx`, `Val_text.xlsx`, `Test_text.xlsx` and `Train_Val_text.xlsx`; `Train_text_for_Covid19.xlsx`
with the captions of train and val and `Test_text_for_Covid19.xlsx`; `Train_ID.xlsx` and `Val_ID.xlsx`, the partition of
QaTa-COV19; `Train_text_MosMedData+ 1.xlsx` and, saved as csv, `Train_text_MosMedData+ 1(in).csv`. The names say the
split; the columns say what a table holds.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from c2fvl.data.cases import SPLITS
from c2fvl.data.file_names import split_name
from c2fvl.data.prepare.download import Pair
from c2fvl.files.tables import Row, read_cells
from c2fvl.messages import LinesError, listed
from c2fvl.reports.report import ATTRIBUTES, parse_attribute

_NAME_COLUMNS = ("image", "images", "id", "name", "file", "filename", "image_id", "mask")
_TEXT_COLUMNS = ("description", "text", "caption", "report", "sentence")
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
TABLE_SUFFIXES = (".xlsx", ".csv")


@dataclass(frozen=True)
class AuthorsTable:
    """One table."""

    path: Path
    splits: tuple[str, ...]
    """Those in its file name; empty for none."""
    columns: tuple[str, ...]
    """Of the caption: ("Description",), the eight attributes, or none for a partition alone."""
    rows: Mapping[str, tuple[object, ...]]
    """Name in lower case without ending → cells of the caption."""
    num_repeated: int = 0
    """Rows that say again what another row says."""

    @property
    def has_captions(self) -> bool:
        """Tell whether it is more than a partition."""
        return bool(self.columns)


def find_tables(given: Sequence[Path | str]) -> list[Path]:
    """Return the tables that were given, and those in folders that were given.

    Raises `FileNotFoundError` for a path that is neither, and for a folder without a table.
    """
    found = []
    for path in map(Path, given):
        if path.is_dir():
            inside = [entry for entry in sorted(path.iterdir()) if is_table(entry.name)]
            if not inside:
                raise FileNotFoundError(f"{path}: there is no table in this folder; expected .xlsx or .csv files")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path}: there is no such table or folder; check the name")
    return list(dict.fromkeys(found))


def is_table(name: str) -> bool:
    """Tell whether a file is a table by its name; locks and hidden files are none."""
    return name.lower().endswith(TABLE_SUFFIXES) and not name.startswith((".", "~$"))


def read_authors_table(path: Path) -> AuthorsTable | None:
    """Read a table; None for one without a column of names, which is not of this kind.

    Raises `ValueError` as `read_cells`, and with all wrong rows: an empty name, a name that leads out of its folder, a
    name in two rows with different captions, an attribute that is no number.
    """
    cells = read_cells(path)
    header = [str(cell).strip().lower() if cell is not None else "" for cell in cells[0][1]] if cells else []
    named = [header.index(name) for name in _NAME_COLUMNS if name in header]
    if not named:
        return None
    attributes = {name.lower() for name in ATTRIBUTES} <= set(header)
    texts = [header.index(name) for name in _TEXT_COLUMNS if name in header]
    if (attributes and texts) or len(texts) > 1:
        raise ValueError(f"{path}: it has more than one column of captions ({', '.join(header)}); keep one")
    columns = tuple(ATTRIBUTES) if attributes else ("Description",) if texts else ()
    places = [header.index(name.lower()) for name in ATTRIBUTES] if attributes else texts
    rows: dict[str, tuple[object, ...]] = {}
    wrong = []
    num_rows = 0
    for row in cells[1:]:
        try:
            name = _name(row, named[0])
            caption = _caption(row, columns, places)
            if rows.setdefault(name, caption) != caption:
                raise ValueError(f"{name!r} is there twice, with different captions; keep one row")
            num_rows += 1
        except ValueError as error:
            wrong.append(f"- row {row[0]}: {error}")
    if wrong:
        raise LinesError(f"{path}: {len(wrong)} rows are wrong", *wrong[:20])
    return AuthorsTable(path, splits_in(path.stem), columns, rows, num_rows - len(rows))


def splits_in(name: str) -> tuple[str, ...]:
    """Return the splits that the name of a table names as words, in the order train, val, test."""
    words = [_SPLIT_WORDS.get(word) for word in re.findall("[a-z]+", name.lower())]
    return tuple(split for split in SPLITS if split in words)


def _name(row: Row, place: int) -> str:
    """Return the name of a file in lower case, without folders and ending."""
    cell = row[1][place] if place < len(row[1]) else None
    text = "" if cell is None else str(cell).strip().replace("\\", "/")
    name = PurePosixPath(text)
    if not name.name:
        raise ValueError("the name is empty")
    if name.is_absolute() or PureWindowsPath(text).drive or ".." in name.parts or not text.isprintable():
        raise ValueError(f"{text!r} leads out of its folder; write the file name alone")
    return split_name(name.name)[0].casefold()


def _caption(row: Row, columns: tuple[str, ...], places: Sequence[int]) -> tuple[object, ...]:
    cells = [row[1][place] if place < len(row[1]) else None for place in places]
    values = tuple(None if isinstance(cell, str) and not cell.strip() else cell for cell in cells)
    if len(columns) > 1 and any(value is not None for value in values):
        for name, value in zip(columns, values, strict=True):
            parse_attribute(name, value)
    return values


@dataclass(frozen=True)
class Captions:
    """The captions of the images, as the tables have them."""

    columns: Mapping[str, tuple[str, ...]]
    """Split → columns of its table; a split without captions is not there."""
    cells: Mapping[int, tuple[object, ...]]
    """Index of a pair → cells of its caption."""


def check_belong(
    tables: Sequence[AuthorsTable], pairs: Sequence[Pair], names: Mapping[str, Mapping[str, Pair | None]]
) -> None:
    """Raise `ValueError` for a table of which no row names an image, unless the download lacks its split as a whole."""
    there = {split for pair in pairs for split in pair.splits}
    for table in tables:
        lacking = bool(table.splits) and there.isdisjoint(table.splits)
        if not lacking and not any(name in of_subset for of_subset in names.values() for name in table.rows):
            raise ValueError(
                f"{table.path}: none of its {len(table.rows)} rows names an image of the download; it is a table of "
                "other data, leave it out"
            )


def splits_by_tables(
    pairs: Sequence[Pair], names: Mapping[str, Mapping[str, Pair | None]], tables: Sequence[AuthorsTable]
) -> dict[int, str] | None:
    """Return index of a pair → its split, where folders and tables decide it; None if the tables divide nothing.

    `names` are the aliases of each subset. Tables without captions go before captions. An image that may be in several
    splits and that no table names gets none. Raises `ValueError` for tables that contradict each other, and for tables
    of train alone, which leave open what the other images are.
    """
    open_pairs = [index for index, pair in enumerate(pairs) if len(pair.splits) > 1]
    chosen = {index: pair.splits[0] for index, pair in enumerate(pairs) if len(pair.splits) == 1}
    if not open_pairs:
        return chosen
    possible = set(pairs[open_pairs[0]].splits)
    single = [table for table in tables if len(table.splits) == 1 and table.splits[0] in possible]
    deciding = [table for table in single if not table.has_captions] or single
    index_of = {id(pair): index for index, pair in enumerate(pairs)}
    said: dict[int, tuple[str, Path]] = {}
    contradictions = []
    for table in deciding:
        for name in table.rows:
            for pair in _meant(name, table, names):
                if len(pair.splits) == 1:
                    continue
                first = said.setdefault(index_of[id(pair)], (table.splits[0], table.path))
                if first[0] != table.splits[0]:
                    contradictions.append(f"- {pair.image.stem}: {first[1].name} and {table.path.name}")
    named = {split for split, _ in said.values()}
    if contradictions:
        raise LinesError(
            f"{len(contradictions)} images are in the tables of two splits; leave out one of the tables",
            *contradictions[:20],
        )
    if {"train", "val"} <= named:
        return chosen | {index: split for index, (split, _) in said.items()}
    if named and len(said) < len(open_pairs):
        missing = " and ".join(split for split in ("train", "val") if split not in named)
        raise ValueError(
            f"the tables name the {' and '.join(sorted(named))} images, {len(said)} of {len(open_pairs)}, but none "
            f"names those of {missing}; give the table of {missing} too, or add --by-patient"
        )
    return None


def _meant(name: str, table: AuthorsTable, names: Mapping[str, Mapping[str, Pair | None]]) -> list[Pair]:
    """Return the images that a row of a table can name: of each subset that may be in the splits of the table."""
    found: dict[int, Pair] = {}
    for aliases in names.values():
        if name not in aliases:
            continue
        pair = aliases[name]
        if pair is None:
            raise ValueError(f"{table.path}: the name {name!r} can mean two files; rename one of them")
        if not table.splits or set(table.splits) & set(pair.splits):
            found[id(pair)] = pair
    return list(found.values())


def find_captions(
    pairs: Sequence[Pair], splits: Mapping[int, str], names: Mapping[str, Mapping[str, Pair | None]],
    tables: Sequence[AuthorsTable],
) -> tuple[Captions, list[str]]:  # fmt: skip
    """Return the captions of the images that are in `splits`, and in words which rows and images are left over.

    Raises `ValueError` where two tables have different captions of an image, or captions of different forms.
    """
    index_of = {id(pair): index for index, pair in enumerate(pairs)}
    cells: dict[int, tuple[object, ...]] = {}
    source: dict[int, AuthorsTable] = {}
    columns: dict[str, tuple[str, ...]] = {}
    left_over = []
    for table in tables:
        strangers = []
        for name, caption in table.rows.items():
            meant = _meant(name, table, names)
            if len(meant) > 1:
                shown = listed([str(pair.image.name) for pair in meant])
                raise ValueError(f"{table.path}: {name!r} names {shown}; give the table a name with its split")
            strangers += [] if meant else [name]
            for index in (index_of[id(pair)] for pair in meant if table.has_captions):
                if index not in splits:
                    continue
                if cells.setdefault(index, caption) != caption:
                    raise ValueError(
                        f"{source[index].path} and {table.path} have different captions of {pairs[index].image.stem}; "
                        "give only one of them with --captions"
                    )
                source.setdefault(index, table)
                if columns.setdefault(splits[index], table.columns) != table.columns:
                    raise ValueError(
                        f"{table.path}: its columns are {', '.join(table.columns)}, but another table of "
                        f"{splits[index]} has {', '.join(columns[splits[index]])}; give only one form with --captions"
                    )
        if table.num_repeated:
            left_over.append(f"{table.num_repeated} rows of {table.path.name} repeat another row")
        if strangers:
            left_over.append(
                f"{len(strangers)} of {len(table.rows)} rows of {table.path.name} name no image: {listed(strangers, 3)}"
            )
    for split in columns:
        without = [pairs[index].image.stem for index in splits if splits[index] == split and index not in cells]
        if without:
            left_over.append(f"{len(without)} images of {split} have no caption in any table: {listed(without, 3)}")
    return Captions(columns, cells), left_over
