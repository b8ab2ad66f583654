"""Several networks in one table: scores, parameters, operations, speed and memory.

Scores are those of the film's own grid by the corrected rule, per image and pooled. An evaluation of the same weights
on the same films with the same reports is used again; what was scored on other films does not enter one table.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2fvl import storage
from c2fvl.battery import change_text
from c2fvl.checkpoint import find_model, load_model, parse_settings, read_metrics
from c2fvl.config import Config
from c2fvl.csv_tables import read_csv
from c2fvl.datasets import fingerprint, scan
from c2fvl.evaluate import OWN_TABLE, default_folder, describe_text, evaluate
from c2fvl.profiling import Conditions, Speed, Stage, build_empty, measure_speed, stages
from c2fvl.spreadsheets import write_cells

logger = logging.getLogger(__name__)

SPEED_BATCH = 8
"""Films at once where speed is measured and no number is given."""

SCORES = {
    "dice_per_image": "Dice per image",
    "iou_per_image": "IoU per image",
    "dice_pooled": "Dice pooled",
    "iou_pooled": "IoU pooled",
}
COSTS = {"parameters": "parameters, M", "gflops": "GFLOP per film"}
SPEEDS = {"films_per_second": "films/s", "peak_memory": "peak memory, MiB"}
LOWER_IS_BETTER = {*COSTS, "peak_memory"}


@dataclass(frozen=True)
class Entry:
    """One network of the table."""

    label: str
    model: str
    """Name of the network."""
    path: Path
    text: str
    """The reports it was given, in words."""
    values: dict[str, float | None]
    """By the keys of `SCORES`, `COSTS` and `SPEEDS`; None where it was not asked for."""
    evaluation: Path | None


@dataclass(frozen=True)
class Comparison:
    """The table and what it says of."""

    entries: tuple[Entry, ...]
    caption: str
    columns: dict[str, str]
    """Key → heading, of the columns that hold something."""

    def best(self, column: str) -> set[int]:
        """Return the rows that hold the best value of a column; none where there is only one row."""
        values = [entry.values.get(column) for entry in self.entries]
        known = [value for value in values if value is not None]
        if len(known) < 2:
            return set()
        shown = [None if value is None else show(column, value) for value in values]
        aim = show(column, (min if column in LOWER_IS_BETTER else max)(known))
        return {row for row, value in enumerate(shown) if value == aim}


def compare(
    models: Sequence[Path | str],
    root: Path | str | None = None,
    *,
    split: str = "val",
    table: str | None = None,
    text: str = "right",
    seed: int = 0,
    text_model: str | None = None,
    device: str = "cpu",
    batch_size: int | None = SPEED_BATCH,
    workers: int = 0,
    speed: bool = True,
    fresh: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Return the table of run or model folders, scored on one split of `root`; without a root, of their costs alone.

    Evaluations are written beside each model, as `c2fvl evaluate` does; one of the same weights, films and reports is
    used again unless `fresh`. Raises, before anything long begins, `FileNotFoundError` and `ValueError` for folders
    that hold no model, and `ValueError` where two evaluations are not of the same films.
    """
    if not models:
        raise ValueError("there is nothing to compare; name run folders or model folders")
    folders = [find_model(path) for path in models]
    settings = [parse_settings(folder) for folder in folders]
    labels = _labels(folders, settings)
    whole = [_whole(config) for config in settings]
    say = progress or (lambda message: None)
    summaries: list[dict[str, Any] | None] = [None] * len(folders)
    evaluations: list[Path | None] = [None] * len(folders)
    for row, folder in enumerate(folders if root is not None else []):
        assert root is not None
        place = default_folder(folder, split, text)
        captions = table or settings[row].data.table
        cases = change_text(scan(root, split, table=captions or None), text, seed=seed)
        wanted = {
            "root": str(root), "table": captions or OWN_TABLE, "seed": seed if text == "shuffled" else None,
            "fingerprint": fingerprint(cases),
        }  # fmt: skip
        found = None if fresh else _earlier(place, folder, wanted)
        if found is None:
            say(f"scoring {labels[row]}")
            model = load_model(folder, device=device)
            if text_model is not None and model.config.data.text == "sentence":
                model = model.with_text_model(text_model)
            found = evaluate(
                model, root, split=split, table=table, text=text, seed=seed, out=place,
                device=device, batch_size=batch_size, workers=workers,
            ).summary  # fmt: skip
        summaries[row], evaluations[row] = found, place
    _check_same_films(labels, [place for place in evaluations if place is not None])

    entries = []
    speeds: list[Speed] = []
    for row, folder in enumerate(folders):
        measured = None
        if speed:
            say(f"measuring {labels[row]}")
            measured = measure_speed(settings[row], Conditions(device, batch_size=batch_size or SPEED_BATCH))
            speeds.append(measured)
        entries.append(
            _entry(
                label=labels[row],
                folder=folder,
                config=settings[row],
                whole=whole[row],
                summary=summaries[row],
                evaluation=evaluations[row],
                speed=measured,
                text=text,
            )
        )
    columns = {**(SCORES if root is not None else {}), **COSTS, **(SPEEDS if speed else {})}
    return Comparison(tuple(entries), _caption(root, split, summaries, speeds), columns)


def _labels(folders: Sequence[Path], settings: Sequence[Config]) -> list[str]:
    """Return a short name for each: its preset or network, made distinct by folder names where two are alike."""
    short = [config.preset or config.model.name for config in settings]
    names = [folder.parent.name if folder.name == "best" else folder.name for folder in folders]
    labels = [
        label if short.count(label) == 1 else f"{label} ({name})" for label, name in zip(short, names, strict=True)
    ]
    return [label if labels.count(label) == 1 else f"{short[row]} ({folders[row]})" for row, label in enumerate(labels)]


def _whole(config: Config) -> Stage:
    """Return the network's parameters and operations."""
    network, inputs = build_empty(config)
    return stages(network, inputs)[-1]


def _earlier(place: Path, folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Return the summary that an earlier evaluation left, if it is of these weights, films and reports."""
    try:
        summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
        data, weights = summary["data"], summary["model"]["weights_sha256"]
        fits = (
            Path(data["root"]).resolve() == Path(wanted["root"]).resolve()
            and data["caption_table"] == wanted["table"]
            and data["fingerprint"] == wanted["fingerprint"]
            and summary["text"]["seed"] == wanted["seed"]
            and weights is not None
            and weights == read_metrics(folder).get("weights_sha256")
            and (place / "cases.csv").is_file()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return summary if fits else None


def _check_same_films(labels: Sequence[str], places: Sequence[Path]) -> None:
    seen = [{row["id"] for _, row in read_csv(place / "cases.csv")[1]} for place in places]
    for label, films in zip(labels, seen, strict=False):
        if films != seen[0]:
            some = ", ".join(sorted(films ^ seen[0])[:3])
            raise ValueError(
                f"{labels[0]} was scored on {len(seen[0])} films and {label} on {len(films)}, not the same ones (such "
                f"as {some}); score them again with --fresh"
            )


def _entry(
    *,
    label: str,
    folder: Path,
    config: Config,
    whole: Stage,
    summary: dict[str, Any] | None,
    evaluation: Path | None,
    speed: Speed | None,
    text: str,
) -> Entry:
    values: dict[str, float | None] = {"parameters": whole.parameters / 1e6, "gflops": whole.flops / 1e9}
    if summary is not None:
        values |= {name: 100 * summary["scores"][0][name] for name in SCORES}
    if speed is not None:
        values |= {name: getattr(speed, name) for name in SPEEDS}
    reads = config.data.text
    given = summary["text"]["given"] if summary is not None else describe_text(text, reads, 1, 1)
    return Entry(label, config.model.name, folder, given, values, evaluation)


def _caption(
    root: Path | str | None, split: str, summaries: Sequence[dict[str, Any] | None], speeds: Sequence[Speed]
) -> str:
    parts = []
    if root is not None and summaries[0] is not None:
        count = summaries[0]["data"]["num_cases"]
        parts.append(
            f"Scores in % on the {split} part of {Path(root).name}, {count} films, on the film's own grid by the "
            "corrected rule."
        )
    parts.append("GFLOP: 2 for each multiplication with its addition, one film at the network's size.")
    if speeds:
        speed = speeds[0]
        parts.append(
            f"Speed and memory of the inference form alone on this machine ({speed.device}, {speed.threads} threads, "
            f"batches of {speed.batch_size}, float32): for comparison within this table only."
        )
    return " ".join(parts)


def show(column: str, value: float | None) -> str:
    """Return a value with as many digits as mean something."""
    if value is None:
        return "–"
    return f"{value:.2f}" if column in SCORES or value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def header(comparison: Comparison) -> list[str]:
    """Return the headings of the table."""
    return ["network", "report given", *comparison.columns.values()]


def rows(comparison: Comparison, *, mark: Callable[[str], str] = str) -> list[list[str]]:
    """Return the rows of the table as text, the best value of each column through `mark`."""
    best = {column: comparison.best(column) for column in comparison.columns}
    found = []
    for number, entry in enumerate(comparison.entries):
        cells = [show(column, entry.values.get(column)) for column in comparison.columns]
        marked = [
            mark(cell) if number in best[column] else cell
            for column, cell in zip(comparison.columns, cells, strict=True)
        ]
        found.append([entry.label, entry.text, *marked])
    return found


def to_markdown(comparison: Comparison) -> str:
    """Return the table in Markdown, the best values bold."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    body = [
        [_markdown(label), _markdown(text), *cells]
        for label, text, *cells in rows(comparison, mark=lambda cell: f"**{cell}**")
    ]
    rule = ["---", "---", *("---:" for _ in comparison.columns)]
    return "\n".join([line(header(comparison)), line(rule), *map(line, body), "", comparison.caption, ""])


def to_latex(comparison: Comparison) -> str:
    """Return the table in LaTeX for the package booktabs, the best values bold."""
    body = [
        [_latex(label), _latex(text), *cells]
        for label, text, *cells in rows(comparison, mark=lambda cell: rf"\textbf{{{cell}}}")
    ]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(comparison.caption)}}}",
        rf"\begin{{tabular}}{{ll{'r' * len(comparison.columns)}}}",
        r"\toprule",
        " & ".join(map(_latex, header(comparison))) + r" \\",
        r"\midrule",
        *(" & ".join(cells).replace("–", "--") + r" \\" for cells in body),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything as plain values, unrounded."""
    return {
        "caption": comparison.caption,
        "networks": [
            {
                **dataclasses.asdict(entry),
                "path": str(entry.path),
                "evaluation": None if entry.evaluation is None else str(entry.evaluation),
            }
            for entry in comparison.entries
        ],
    }


def write(comparison: Comparison, out: Path | str) -> list[Path]:
    """Write the table as `compare.csv`, `.md`, `.tex` and `.json` to the folder `out`; return the files."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the tables")
    cells: list[list[object]] = [["network", "model", "report given", *comparison.columns]]
    cells += [
        [entry.label, entry.model, entry.text, *(entry.values.get(column) for column in comparison.columns)]
        for entry in comparison.entries
    ]
    files = [out / f"compare.{ending}" for ending in ("csv", "md", "tex", "json")]
    write_cells(files[0], cells)
    storage.write_text(files[1], to_markdown(comparison))
    storage.write_text(files[2], to_latex(comparison))
    storage.write_json(files[3], to_json(comparison))
    return files


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _markdown(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\|*_`<>[]" else character for character in text)
