"""A csv with a header and one row per file, as text by column name."""

from pathlib import Path

from c2fvl.files.tables import read_cells


def read_csv(path: Path | str) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]]]:
    """Read a csv as (column names in lower case, [(row number with the header as 1, column → cell), …]).

    Rows without content are passed over; spaces around a cell are cut off, an empty cell is "". Raises
    `FileNotFoundError`, or `ValueError` for a file that is too large, not text, without header, with a column named
    twice, or with a row longer than the header.
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
