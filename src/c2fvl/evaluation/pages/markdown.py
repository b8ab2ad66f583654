"""Words and tables for Markdown files, safe whatever the words hold."""

from collections.abc import Sequence

from c2fvl.messages import printable


def escape(text: str) -> str:
    """Return words that Markdown shows as they are: nothing in them is markup, HTML or a new line."""
    return "".join(f"\\{character}" if character in "\\|*_`<>[]" else character for character in printable(text))


def code(text: str) -> str:
    """Return words as code of Markdown, in which nothing but a backtick is markup; it becomes an apostrophe."""
    return "`" + printable(text).replace("`", "'") + "`"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> list[str]:
    """Return the lines of a table, its last `numbers` columns to the right; cells are escaped already."""
    rule = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]


def escaped_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> list[str]:
    """Return the lines of a table as `table` does, with all cells escaped."""
    return table(header, [[escape(cell) for cell in row] for row in rows], numbers=numbers)
