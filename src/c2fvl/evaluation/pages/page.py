"""The results page of an evaluation or an audit: one HTML file that loads nothing and runs its own script alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from c2fvl.data.pictures import FALSE_POSITIVE, FOUND, MISSED, PREDICTION_LINE, TRUTH_LINE, class_colour
from c2fvl.evaluation.pages import charts
from c2fvl.evaluation.pages.axis import Axis
from c2fvl.evaluation.pages.effects import Effect
from c2fvl.evaluation.pages.gallery import Entry
from c2fvl.evaluation.pages.panels import NUM_WORST, Panel, PanelGroup
from c2fvl.evaluation.pages.rows import (
    PROTOCOLS,
    area_unit,
    findings_table,
    label_of,
    lesion_sizes,
    show_number,
    show_p,
)  # fmt: skip
from c2fvl.evaluation.pages.verdict import verdict
from c2fvl.evaluation.statistics import Scores
from c2fvl.evaluation.summary import Summary
from c2fvl.files.content_policy import hashes_of
from c2fvl.messages import printable

_TEMPLATES = Path(__file__).parent / "templates"
_ON_STRIP = 2
"""Images of each group that the strip shows."""


def render(
    summary: Summary,
    scores: Scores,
    *,
    panels: Sequence[PanelGroup],
    gallery: Sequence[Entry],
    orientation: str,
    history: Sequence[Mapping[str, Any]],
) -> str:
    """Return the page of a summary; its charts show `scores`, those of each case, and `history`, the log of the run.

    `orientation` says whose left the reports mean, empty where it is said beside each. Words from files (reports,
    names, paths) are shown as text, whatever they hold.
    """
    strip, more = split_panels(panels)
    changes = () if summary.audit is None else summary.audit.changes
    effects = Effect.of_reports(changes)
    return from_template(
        "evaluation.html",
        summary=summary,
        title=title_of(summary),
        verdict=verdict(summary, scores),
        strip=strip,
        more=more,
        choice=_choice(strip),
        legend=_legend(summary.class_names),
        orientation=orientation,
        effects=effects,
        effects_axis=Axis.around([effect.estimate for effect in effects], zero=True, limits=(-100, 100)),
        subgroup_axis=Axis.around(
            [row.dice for table in summary.statistics.subgroups for row in table.rows], limits=(0, 100)
        ),
        gallery=gallery,
        num_without_thumbnail=sum(entry.thumbnail is None for entry in gallery),
        num_worst=NUM_WORST,
        area_unit=area_unit(summary.unit.length),
        protocols=PROTOCOLS,
        labels={name: label_of(name, summary.unit.length) for name in summary.statistics.per_image},
        lesion_sizes=lesion_sizes(summary.statistics.lesions),
        history=history,
        charts=charts_of(summary, scores, history),
        findings=findings_table(summary.predicted_findings),
    )


def from_template(name: str, **values: Any) -> str:
    """Return a page of a template with its style, its script, and a policy that lets nothing else run."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown,
    )  # fmt: skip
    environment.globals.update(number=show_number, show_p=show_p)
    style, script = ((_TEMPLATES / file).read_text(encoding="utf-8") for file in ("style.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes_of([script])}"
    template = environment.get_template(name)
    return template.render(style=Markup(style), script=Markup(script), policy=Markup(policy), **values)


def title_of(summary: Summary) -> str:
    """Return network, data set and split in words."""
    data, model = summary.data, summary.model
    preset = f" ({model.preset})" if model.preset and model.preset != model.name else ""
    who = f"masks in {model.name}" if model.is_masks else f"{model.name}{preset}"
    return f"{who} on {Path(data.root).stem if Path(data.root).suffix else Path(data.root).name}, {data.split} split"


def split_panels(groups: Sequence[PanelGroup]) -> tuple[list[tuple[str, Panel]], list[tuple[str, Panel]]]:
    """Return the images of the strip and the others, each with the title of its group."""
    strip: list[tuple[str, Panel]] = []
    more: list[tuple[str, Panel]] = []
    for group in groups:
        start = max(0, (len(group.panels) - _ON_STRIP) // 2) if group.title == "Median" else 0
        for number, panel in enumerate(group.panels):
            (strip if start <= number < start + _ON_STRIP else more).append((group.title, panel))
    return strip, more


def _choice(strip: Sequence[tuple[str, Panel]]) -> str:
    """Return in words which images the strip shows."""
    words = []
    for title, meaning in (("Best", "best"), ("Median", "in the middle"), ("Worst", "worst")):
        count = sum(group == title for group, _ in strip)
        if count:
            words.append(f"the {meaning if count == 1 else f'{count} {meaning}'}")
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]


def _legend(classes: Sequence[str]) -> list[tuple[str, str, bool]]:
    """Return words, colour and whether it is a line of everything that is drawn on the images."""
    areas = [("found", FOUND), ("false positive", FALSE_POSITIVE), ("missed", MISSED)]
    lines = [("true contour", TRUTH_LINE), ("predicted contour", PREDICTION_LINE)]
    if len(classes) > 1:
        areas = [(name, class_colour(number)) for number, name in enumerate(classes, start=1)]
        lines = lines[:1]
    return [
        (words, "#{:02x}{:02x}{:02x}".format(*colour), is_line)
        for entries, is_line in ((areas, False), (lines, True))
        for words, colour in entries
    ]


def charts_of(summary: Summary, scores: Scores, history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the charts of a summary by name, each an SVG element.

    `scores` are those of each case, of which "dice" and "area_target" are drawn.
    """
    area = area_unit(summary.unit.length)
    found = {"cases": charts.cases_by_size(scores["dice"].tolist(), scores["area_target"].tolist(), unit=area)}
    if history:
        found["losses"] = charts.losses(history, summary.model.epoch)
        found["validation"] = charts.validation_scores(history, summary.model.epoch)
    if summary.calibration is not None:
        bins = summary.calibration.pixels.reliability
        found |= {"reliability": charts.reliability(bins), "pixels": charts.pixels_by_probability(bins)}
        if summary.calibration.confidence is not None:
            curve = summary.calibration.confidence.curve
            found["risk"] = charts.risk_coverage(curve.coverage, curve.dice)
    return found


def _shown(value: Any) -> Any:
    """Return words of files as one line that a page only shows; what the templates make stays as it is."""
    return printable(value) if type(value) is str else value
