"""The results page of an evaluation or an audit: one HTML file without scripts or requests to other files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from c2fvl.evaluation.pages import charts
from c2fvl.evaluation.pages.panels import PanelGroup
from c2fvl.evaluation.pages.rows import (
    FRACTIONS,
    PROTOCOLS,
    area_unit,
    findings_table,
    label_of,
    show_number,
    show_p,
)  # fmt: skip
from c2fvl.evaluation.statistics import Scores
from c2fvl.evaluation.summary import Summary
from c2fvl.messages import printable

_CHARTED = ("dice", "iou", "precision", "recall", "lesion_f1_10", "lesion_f1_50")


def render(
    summary: Summary,
    scores: Scores,
    *,
    panels: Sequence[PanelGroup],
    history: Sequence[Mapping[str, Any]],
) -> str:
    """Return the page of a summary; its charts show `scores`, those of each case, and `history`, the log of the run.

    Words from files (reports, names, paths) are shown as text, whatever they hold.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    return environment.get_template("evaluation.html").render(
        summary=summary,
        protocols=PROTOCOLS,
        labels={name: label_of(name, summary.unit.length) for name in summary.statistics.per_image},
        panels=panels,
        history=history,
        number=show_number,
        show_p=show_p,
        charts=charts_of(summary, scores, history),
        findings=findings_table(summary.predicted_findings),
    )


def charts_of(summary: Summary, scores: Scores, history: Sequence[Mapping[str, Any]]) -> dict[str, str | list[str]]:
    """Return the charts of a summary by name, each an SVG element; "subgroups" holds one for each division.

    `scores` are those of each case, of which "dice" and "area_target" are drawn.
    """
    statistics = summary.statistics
    rows = [(FRACTIONS[name], statistics.per_image[name]) for name in _CHARTED]
    rows += [(f"pooled {FRACTIONS[name]}", statistics.pooled[name]) for name in ("dice", "iou")]  # type: ignore[misc]
    area = area_unit(summary.unit.length)
    found: dict[str, str | list[str]] = {
        "scores": charts.dots(rows, name="scores", label="%, with 95 % confidence intervals"),
        "cases": charts.cases_by_size(scores["dice"].tolist(), scores["area_target"].tolist(), unit=area),
        "subgroups": [
            charts.dots(
                [(f"{row.label} ({row.num_cases})", row.dice) for row in table.rows],
                name=f"subgroups{number}", label="Dice per image, %", width=6,
            )
            for number, table in enumerate(statistics.subgroups)
        ],
    }  # fmt: skip
    if history:
        found["curves"] = charts.curves(history)
    if summary.audit is not None and summary.audit.changes:
        changes = summary.audit.changes
        found["changes"] = charts.dots(
            [(row.title, row.dice) for row in changes], name="changes", label="Dice per image, %",
            reference=next((index for index, row in enumerate(changes) if row.name == "none"), None),
        )  # fmt: skip
    if summary.calibration is not None:
        found["reliability"] = charts.reliability(summary.calibration.pixels.reliability)
        if summary.calibration.confidence is not None:
            curve = summary.calibration.confidence.curve
            found["risk"] = charts.risk_coverage(curve.coverage, curve.dice)
    return found


def _shown(value: Any) -> Any:
    """Return words of files as one line that a page only shows; what the templates make stays as it is."""
    return printable(value) if type(value) is str else value
