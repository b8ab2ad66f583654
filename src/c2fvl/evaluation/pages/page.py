"""The page of an evaluation or an audit: one file that asks nothing of any network and runs nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from c2fvl.evaluation.pages import charts
from c2fvl.evaluation.summary import Scores
from c2fvl.reports.zones import in_words

ROW_LABELS = {
    ("original", "corrected"): "original resolution, corrected protocol",
    ("network", "corrected"): "network resolution, corrected protocol",
    ("network", "published"): "network resolution, published protocol",
}
_LENGTHS = {
    "hd95": "Hausdorff distance, 95th percentile",
    "hd": "Hausdorff distance",
    "assd": "average symmetric surface distance",
}
_FRACTIONS = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision of pixels",
    "recall": "recall of pixels",
    "specificity": "specificity of pixels",
    **{
        f"lesion_{name}_{minimum}": f"{word} of lesions, found at IoU ≥ 0.{minimum[0]}"
        for minimum in ("10", "50")
        for name, word in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
    },
}
_AREAS = {
    "area": "predicted area",
    "area_target": "true area",
    "area_difference": "predicted less true area",
}
_OF_THEMSELVES = {"estimated_dice": "Dice that the network expects"}
_DOTTED = ("dice", "iou", "precision", "recall", "lesion_f1_10", "lesion_f1_50")


def label_of(name: str, unit: str) -> tuple[str, bool]:
    """Return the name of a score in words with its unit, and whether it is a share, to be shown in per cent."""
    if name in _LENGTHS:
        return f"{_LENGTHS[name]}, {unit}", False
    if name in _AREAS:
        return f"{_AREAS[name]}, {'pixels' if unit == 'pixel' else f'{unit}²'}", False
    if name.startswith("nsd_"):
        return f"surface within {name.removeprefix('nsd_')} {unit}, %", True
    return f"{(_FRACTIONS | _OF_THEMSELVES)[name]}, %", True


def show(estimate: Mapping[str, float | None] | None, *, fraction: bool) -> str:
    """Return a figure with its interval in words, a share in per cent."""
    if estimate is None or estimate["value"] is None:
        return "–"
    numbers = [None if estimate[key] is None else _number(estimate[key], fraction) for key in ("value", "low", "high")]
    return f"{numbers[0]}" if numbers[1] is None else f"{numbers[0]} ({numbers[1]} to {numbers[2]})"


def _number(value: float | None, fraction: bool) -> str:
    assert value is not None
    shown = f"{100 * value:.2f}" if fraction else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
    return shown.replace("-", "−")


def show_p(probability: float) -> str:
    """Return a p value as papers print it."""
    return "< 0.001" if probability < 0.001 else f"{probability:.3f}"


def render(
    summary: Mapping[str, Any],
    scores: Scores,
    *,
    pictures: Sequence[Mapping[str, Any]],
    history: Sequence[Mapping[str, Any]],
) -> str:
    """Return the page of a summary; `scores` are those of each case, which its charts show.

    The parts "calibration", "reading" and "audit" are there where the summary has them. Words from files (reports,
    names, paths) are shown as text, whatever they hold.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    figures, unit = summary["figures"], summary["unit"]["length"]
    table = [
        {"name": label_of(name, unit)[0], "fraction": label_of(name, unit)[1], **found}
        for name, found in figures["per_image"].items()
    ]
    return environment.get_template("report.html").render(
        summary=summary,
        scores=[{**row, "label": ROW_LABELS[row["resolution"], row["protocol"]]} for row in summary["scores"]],
        table=table,
        pictures=pictures,
        history=history,
        show=show,
        show_p=show_p,
        charts=charts_of(summary, scores, history),
        audit=summary.get("audit"),
        calibration=summary["calibration"],
        given=given(summary),
        reading=findings_rows(summary.get("reading")),
    )


def charts_of(
    summary: Mapping[str, Any], scores: Scores, history: Sequence[Mapping[str, Any]]
) -> dict[str, str | list[str]]:
    """Return the charts of a summary by name, each an SVG element, "strata" one for each kind.

    `scores` are those of each case, of which "dice" and "area_target" are drawn.
    """
    figures, unit = summary["figures"], summary["unit"]["length"]
    rows = [(_FRACTIONS[name], figures["per_image"][name]) for name in _DOTTED]
    rows += [(f"pooled {_FRACTIONS[name]}", figures["pooled"][name]) for name in ("dice", "iou")]
    area = "pixels" if unit == "pixel" else f"{unit}²"
    found: dict[str, str | list[str]] = {
        "figures": charts.dots(rows, name="figures", label="%, with 95 % intervals"),
        "cases": charts.cases_by_size(scores["dice"].tolist(), scores["area_target"].tolist(), unit=area),
        "strata": [
            charts.dots(
                [(f"{row['label']} ({row['num_cases']})", row["dice"]) for row in stratum["rows"]],
                name=f"stratum{number}", label="Dice per image, %", width=6,
            )
            for number, stratum in enumerate(figures["strata"])
        ],
    }  # fmt: skip
    if history:
        found["curves"] = charts.curves(history)
    if "audit" in summary and summary["audit"]["changes"]:
        changes = summary["audit"]["changes"]
        found["battery"] = charts.dots(
            [(row["title"], row["dice"]) for row in changes], name="battery", label="Dice per image, %",
            reference=next((place for place, row in enumerate(changes) if row["name"] == "none"), None),
        )  # fmt: skip
    calibration = summary["calibration"]
    if calibration is not None:
        found["reliability"] = charts.reliability(calibration["pixels"]["reliability"])
        if calibration["confidence"] is not None:
            curve = calibration["confidence"]["curve"]
            found["risk"] = charts.risk_coverage(curve["coverage"], curve["dice"])
    return found


def findings_rows(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return a row for each finding of the summary's part "reading", the mean of the zones first."""
    if found is None:
        return []
    rows = [("zones, mean", found["zones_mean"])] if "zones_mean" in found else []
    rows += [(in_words(zone), row) for zone, row in found["zones"].items()]
    rows += [(title, found[name]) for name, title in (("side", "side"), ("number", "areas")) if name in found]
    return [{"name": name, "auc": row.get("auc"), **{key: row[key] for key in ("accuracy", "majority")}}
            for name, row in rows]  # fmt: skip


def given(summary: Mapping[str, Any]) -> str:
    """Return in words which report films were given, and with which trust if the network has one."""
    text = summary["text"]
    has_trust = text.get("trust") is not None and text["kind"] != "none"
    return f"{text['given']}, trust {text['trust']:g}" if has_trust else str(text["given"])
