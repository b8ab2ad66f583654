"""Tables and paragraphs that fit the terminal. Nothing here takes long to load."""

import shutil
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence

from c2fvl.messages import printable

_GAP = "  "
_UNLIMITED, _NARROWEST = 10_000, 24


def terminal_width() -> int:
    """Return the width of the terminal in letters, or that in COLUMNS; without limit for a file or a pipe."""
    return shutil.get_terminal_size((_UNLIMITED, 0)).columns


def width_of(text: str) -> int:
    """Return how many columns of a terminal a line takes: wide letters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int | None = None) -> str:
    """Return a plain table, the last `numbers` columns (all but the first) to the right.

    Where the terminal is too narrow for it, the titles are wrapped; where that is not enough, each row becomes a block.
    """
    header, rows = [printable(name) for name in header], [[printable(cell) for cell in row] for row in rows]
    first = 1 if numbers is None else len(header) - numbers
    for titles in ([[name] for name in header], _wrapped(header, rows)):
        lines = _grid(titles, rows, first)
        if max(map(width_of, lines)) <= terminal_width():
            return "\n".join(lines)
    return "\n\n".join(_block(header, row) for row in rows)


def paragraph(text: str, *, indent: str = "") -> str:
    """Return words on lines that fit the terminal, broken between words."""
    wide = max(len(indent) + _NARROWEST, terminal_width())
    return "\n".join(
        textwrap.wrap(
            printable(text), wide, initial_indent=indent, subsequent_indent=indent,
            break_long_words=False, break_on_hyphens=False,
        )
    )  # fmt: skip


def described(entries: Mapping[str, str]) -> str:
    """Return names with what they mean, one column each, the meanings wrapped as the terminal demands."""
    width = max(map(width_of, entries))
    return "\n".join(_item(_padded(printable(name), width), meaning) for name, meaning in entries.items())


def _grid(titles: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], first: int) -> list[str]:
    """Return the lines of a table; `titles` holds the lines of each title."""
    widths = [
        max(map(width_of, (*title, *(row[index] for row in rows))), default=0) for index, title in enumerate(titles)
    ]
    height = max(map(len, titles))
    above = [[""] * (height - len(title)) + list(title) for title in titles]
    rule = ["\u2500" * (sum(widths) + len(_GAP) * (len(widths) - 1))]
    lines = [
        _GAP.join(
            _padded(cell, width, right=index >= first)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (*zip(*above, strict=True), *rows)
    ]
    return lines[:height] + rule + lines[height:]


def _wrapped(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the lines of each title, none wider than the longest cell or word of its column."""
    titles = []
    for index, name in enumerate(header):
        width = max(map(width_of, (*name.split(), *(row[index] for row in rows))), default=0)
        titles.append(textwrap.wrap(name, max(1, width), break_long_words=False, break_on_hyphens=False))
    return titles


def _block(header: Sequence[str], row: Sequence[str]) -> str:
    """Return a row as lines: its first cell, then each other cell after its title, or below where there is no room."""
    width = max(map(width_of, header[1:]), default=0)
    if width + 2 * len(_GAP) + _NARROWEST > terminal_width():
        below = (f"  {name}\n{paragraph(cell, indent='    ')}" for name, cell in zip(header[1:], row[1:], strict=True))
        return "\n".join([row[0], *below])
    lines = [_item(f"  {_padded(name, width)}", cell) for name, cell in zip(header[1:], row[1:], strict=True)]
    return "\n".join([row[0], *lines])


def _item(name: str, meaning: str) -> str:
    """Return a name and, on the same line and below it, what it means."""
    indent = " " * (width_of(name) + len(_GAP))
    return f"{name}{_GAP}{paragraph(meaning, indent=indent)[len(indent) :]}".rstrip()


def _padded(text: str, width: int, *, right: bool = False) -> str:
    space = " " * (width - width_of(text))
    return space + text if right else text + space
