"""The table of a comparison for the terminal and for csv, Markdown, LaTeX and JSON files."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from c2fvl.evaluation.compare.compare import SCORES, Comparison, Entry, show
from c2fvl.evaluation.pages.markdown import escape
from c2fvl.evaluation.pages.markdown import table as markdown_table
from c2fvl.evaluation.pages.rows import show as show_estimate
from c2fvl.evaluation.pages.rows import show_p
from c2fvl.files import storage
from c2fvl.files.tables import write_cells


def header(comparison: Comparison) -> list[str]:
    """Return the headings of the table."""
    return ["network", "report given", *comparison.columns.values()]


def rows(comparison: Comparison, *, mark: Callable[[str], str] = str) -> list[list[str]]:
    """Return the rows of the table as text, the best value of each column through `mark`."""
    best = {column: comparison.best(column) for column in comparison.columns}
    found = []
    for number, entry in enumerate(comparison.entries):
        cells = [_cell(column, entry) for column in comparison.columns]
        marked = [
            mark(cell) if number in best[column] else cell
            for column, cell in zip(comparison.columns, cells, strict=True)
        ]
        found.append([entry.label, entry.text, *marked])
    return found


def _cell(column: str, entry: Entry) -> str:
    shown = show(column, entry.values.get(column))
    interval = entry.intervals.get(column)
    return shown if interval is None else f"{shown} ({interval[0]:.2f} to {interval[1]:.2f})"


DIFFERENCE_HEADER = ("A", "B", "A − B, Dice, points", "p permutation", "p Wilcoxon", "A − B, IoU, points")


def difference_rows(comparison: Comparison) -> list[list[str]]:
    """Return the paired differences as text, by `DIFFERENCE_HEADER`; p values as corrected."""
    found = []
    for pair in comparison.differences:
        dice, iou = (show_estimate(pair.differences[name].mean, fraction=True) for name in ("dice", "iou"))
        probabilities = [show_p(held["dice"]) for held in (pair.permutation_holm, pair.wilcoxon_holm)]
        found.append([pair.first, pair.second, dice, *probabilities, iou])
    return found


def to_markdown(comparison: Comparison) -> str:
    """Return the tables in Markdown, the best values bold."""
    body = [
        [escape(label), escape(text), *cells]
        for label, text, *cells in rows(comparison, mark=lambda cell: f"**{cell}**")
    ]
    lines = [
        *markdown_table(header(comparison), body, numbers=len(comparison.columns)),
        "",
        escape(comparison.caption),
        "",
    ]
    if comparison.differences:
        pairs = [[escape(first), escape(second), *cells] for first, second, *cells in difference_rows(comparison)]
        lines += [*markdown_table(DIFFERENCE_HEADER, pairs, numbers=4), "", comparison.statistics, ""]
    return "\n".join(lines)


def to_latex(comparison: Comparison) -> str:
    """Return the table in LaTeX for the package booktabs, the best values bold."""
    body = [
        [_latex(label), _latex(text), *cells]
        for label, text, *cells in rows(comparison, mark=lambda cell: rf"\textbf{{{cell}}}")
    ]
    lines = _latex_table(comparison.caption, f"ll{'r' * len(comparison.columns)}", header(comparison), body)
    if comparison.differences:
        pairs = [list(map(_latex, row)) for row in difference_rows(comparison)]
        lines += _latex_table(comparison.statistics, "llrrrr", DIFFERENCE_HEADER, pairs)
    return "\n".join(lines) + "\n"


def _latex_table(caption: str, columns: str, titles: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(caption)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(_latex, titles)) + r" \\",
        r"\midrule",
        *(" & ".join(cells).replace("–", "--").replace("−", "$-$").replace("< ", "$<$ ") + r" \\" for cells in body),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything as plain values, unrounded."""
    return {
        "caption": comparison.caption,
        "networks": [
            {
                **dataclasses.asdict(entry),
                "paths": [str(path) for path in entry.paths],
                "evaluations": [str(path) for path in entry.evaluations],
            }
            for entry in comparison.entries
        ],
        "statistics": comparison.statistics,
        "differences": [
            {
                "first": pair.first,
                "second": pair.second,
                **{
                    name: {
                        **apart.as_dict(),
                        "permutation_p_holm": pair.permutation_holm[name],
                        "wilcoxon_p_holm": pair.wilcoxon_holm[name],
                    }
                    for name, apart in pair.differences.items()
                },
            }
            for pair in comparison.differences
        ],
    }


def write(comparison: Comparison, out: Path | str, *, page: str) -> list[Path]:
    """Write the table as `compare.csv`, `.md`, `.tex` and `.json`, and its page, to `out`; return the files."""
    out = storage.check_folder(out, what="tables")
    scored = [column for column in comparison.columns if column in SCORES]
    bounds = [f"{column}_{bound}" for column in scored for bound in ("low", "high")]
    cells: list[list[object]] = [["network", "model", "report given", *comparison.columns, *bounds]]
    for entry in comparison.entries:
        row: list[object] = [entry.label, entry.model, entry.text]
        row += [entry.values.get(column) for column in comparison.columns]
        row += [bound for column in scored for bound in entry.intervals.get(column) or (None, None)]
        cells.append(row)
    files = [out / f"compare.{ending}" for ending in ("csv", "md", "tex", "json", "html")]
    write_cells(files[0], cells)
    storage.write_text(files[1], to_markdown(comparison))
    storage.write_text(files[2], to_latex(comparison))
    storage.write_json(files[3], to_json(comparison))
    storage.write_text(files[4], page)
    return files


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "−": "$-$", "^": r"\textasciicircum{}",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
