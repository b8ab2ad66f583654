"""Charts of scores and runs: each one SVG element, readable on light and dark ground and in print.

Colours are those of `data.pictures`, from the palette of Okabe and Ito; lines of text take the page's own colour.
"""

import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from c2fvl.evaluation.summary import ReliabilityBin
from c2fvl.metrics.intervals import Estimate

_BLUE, _VERMILLION, _GREEN, _ORANGE, _GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#888888"
LONGEST_LABEL = 48
"""Characters of a row's title; tables hold the whole of it."""
_INK = "#010203"  # stands for the page's colour of text


def curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Return the loss and Dice curves of a run's log."""
    figure, (losses, scores) = _figure("curves", (9, 3.2), columns=2)
    for axes, lines in (
        (losses, [("train_loss", "training", _BLUE), ("val_loss", "validation", _VERMILLION)]),
        (scores, [("val_dice_per_image", "Dice per image", _GREEN), ("val_iou_per_image", "IoU per image", _BLUE)]),
    ):
        for key, label, colour in lines:
            points = [(line["epoch"], line[key]) for line in history if key in line]  # not every epoch is validated
            axes.plot(
                *zip(*points, strict=True), label=label, color=colour, marker="o" if len(points) < 25 else None, ms=3
            )
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(labelcolor=_INK, frameon=False)
    losses.set(xlabel="epoch", ylabel="loss")
    scores.set(xlabel="epoch", ylabel="validation score", ylim=(0, 1))
    return _svg(figure, "curves")


def dots(
    rows: Sequence[tuple[str, Estimate]], *, name: str, label: str, width: float = 9, reference: int | None = None
) -> str:
    """Return a dot with its interval for each row, from top to bottom; values are fractions, shown in per cent.

    `width` is in inches; `reference` is the row whose value is drawn through all.
    """
    figure, (axes,) = _figure(name, (width, 0.9 + 0.32 * len(rows)))
    for index, (_, estimate) in enumerate(rows):
        value, shown = 100 * estimate.value, f"{100 * estimate.value:.1f}"
        if estimate.low is not None and estimate.high is not None:
            low, high = 100 * estimate.low, 100 * estimate.high
            axes.plot([low, high], [index, index], color=_BLUE, lw=2, solid_capstyle="butt")
            shown += f" ({low:.1f} to {high:.1f})"
        axes.plot([value], [index], "o", color=_BLUE, ms=6)
        axes.annotate(
            shown, (1.0, index), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", color=_INK, fontsize=9,
        )  # fmt: skip
    if reference is not None:
        axes.axvline(100 * rows[reference][1].value, color=_GREY, lw=1, ls="--")
    axes.set(
        xlabel=label,
        yticks=range(len(rows)),
        yticklabels=[textwrap.shorten(title, LONGEST_LABEL, placeholder=" …") for title, _ in rows],
        ylim=(-0.6, len(rows) - 0.4),
    )
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return _svg(figure, name)


def cases_by_size(dice: Sequence[float], area: Sequence[float], *, unit: str) -> str:
    """Return the Dice of each case against the area of its lesion; cases without lesion stand at the left edge."""
    found, sizes = np.asarray(dice, float), np.asarray(area, float)
    figure, (axes,) = _figure("cases", (9, 3.6))
    filled = sizes > 0
    minimum = sizes[filled].min() / 2 if filled.any() else 1.0
    axes.scatter(sizes[filled], found[filled], s=14, alpha=0.5, color=_BLUE, linewidths=0, label="images with a lesion")
    if not filled.all():
        left = np.full((~filled).sum(), minimum)
        axes.scatter(left, found[~filled], s=30, marker="<", color=_VERMILLION, label="images without")
        axes.legend(labelcolor=_INK, frameon=False)
    axes.set(
        xscale="log", xlabel=f"area of the lesion, {unit} (logarithmic)", ylabel="Dice of the image", ylim=(-0.03, 1.03)
    )
    _plain_numbers(axes.xaxis)
    return _svg(figure, "cases")


def reliability(bins: Sequence[ReliabilityBin]) -> str:
    """Return the fraction of lesion among pixels by their probability, and how many pixels there are of each."""
    filled = [row for row in bins if row.num_pixels]
    figure, (curve, counts) = _figure("reliability", (9, 3.6), columns=2)
    curve.plot([0, 1], [0, 1], color=_GREY, lw=1, ls="--")
    probabilities = [row.mean_probability for row in filled]
    curve.plot(probabilities, [row.lesion_fraction for row in filled], "o-", color=_BLUE, ms=4)
    curve.set(
        xlabel="probability (dashed: ideal)",
        ylabel="fraction of lesion among these pixels",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    counts.bar(probabilities, [row.num_pixels for row in filled], width=0.05, color=_BLUE)
    counts.set(yscale="log", xlabel="probability", ylabel="pixels (logarithmic)", xlim=(0, 1))
    _plain_numbers(counts.yaxis)
    return _svg(figure, "reliability")


def risk_coverage(coverage: Sequence[float], dice: Sequence[float]) -> str:
    """Return the mean Dice of the images that are kept when a reader takes over the least certain ones."""
    figure, (axes,) = _figure("risk", (9, 3.2))
    axes.plot(np.multiply(coverage, 100), dice, color=_BLUE, label="by estimated Dice")
    axes.axhline(dice[-1], color=_ORANGE, lw=1, label="all images")
    axes.set(xlabel="images kept, % (the most certain first)", ylabel="their mean Dice")
    axes.legend(labelcolor=_INK, frameon=False)
    return _svg(figure, "risk")


def _figure(name: str, size: tuple[float, float], *, columns: int = 1) -> tuple[Any, Any]:
    import matplotlib as mpl  # takes half a second to load
    from matplotlib.figure import Figure

    with mpl.rc_context(_style(name)):
        figure = Figure(figsize=size, layout="constrained")
        found = figure.subplots(1, columns, squeeze=False)[0]
    for axes in found:
        axes.grid(alpha=0.3)
        axes.tick_params(colors=_INK)
        axes.xaxis.label.set_color(_INK)
        axes.yaxis.label.set_color(_INK)
        for spine in axes.spines.values():
            spine.set_color(_GREY)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, found


def _plain_numbers(axis: Any) -> None:
    """Label powers of ten as numbers; matplotlib would typeset them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:,.10g}".replace(",", " ")))
    axis.set_minor_formatter(NullFormatter())


def _style(name: str) -> Any:
    return {
        "svg.fonttype": "none", "svg.hashsalt": f"c2fvl-{name}", "font.family": "sans-serif",
        "text.parse_math": False,  # words from a table may hold a $
    }  # fmt: skip


def _svg(figure: Any, name: str) -> str:
    """Return the figure as an SVG element with unique ids, because a page has several."""
    import matplotlib as mpl
    import matplotlib.text

    buffer = io.StringIO()
    with mpl.rc_context(_style(name)), warnings.catch_warnings():
        for text in figure.findobj(mpl.text.Text):
            text.set_parse_math(False)
        # words stay text in an SVG, so that the reader's fonts draw them, not the ones at hand here
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
