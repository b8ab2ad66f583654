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
_SIZE, _LETTERS = (4.4, 2.9), 10
"""Inches, and points of the letters: on a telephone, where the chart is 360 pixels wide, they are 11 pixels high."""
LONGEST_LABEL = 48
"""Characters of a row's title; tables hold the whole of it."""
_INK = "#010203"  # stands for the page's colour of text


def losses(history: Sequence[Mapping[str, Any]], epoch: int | None) -> str:
    """Return the loss curves of a run's log; the model that was scored is of `epoch`."""
    lines = [("train_loss", "training", _BLUE), ("val_loss", "validation", _VERMILLION)]
    return _curves(history, lines, epoch, name="losses", label="loss", factor=1)


def validation_scores(history: Sequence[Mapping[str, Any]], epoch: int | None) -> str:
    """Return the curves of validation Dice and IoU of a run's log; the model that was scored is of `epoch`."""
    lines = [("val_dice_per_image", "Dice per image", _GREEN), ("val_iou_per_image", "IoU per image", _BLUE)]
    return _curves(history, lines, epoch, name="validation", label="validation score, %", factor=100)


def _curves(
    history: Sequence[Mapping[str, Any]],
    lines: Sequence[tuple[str, str, str]],
    epoch: int | None,
    *,
    name: str,
    label: str,
    factor: float,
) -> str:
    figure, axes = _figure(name)
    for key, words, colour in lines:
        points = [(line["epoch"], factor * line[key]) for line in history if key in line]  # not all are validated
        axes.plot(*zip(*points, strict=True), label=words, color=colour, marker="o" if len(points) < 25 else None, ms=3)
        kept = [point for point in points if point[0] == epoch]
        axes.plot([x for x, _ in kept], [y for _, y in kept], "*", color=colour, ms=13)
    if epoch is not None:
        axes.axvline(epoch, color=_GREY, lw=1, ls="--", label=f"kept: epoch {epoch}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylabel=label)
    if factor > 1:
        axes.set_ylim(0, 100)
    _legend(axes)
    return _svg(figure, name)


def dots(rows: Sequence[tuple[str, Estimate]], *, name: str, label: str, reference: int | None = None) -> str:
    """Return a dot with its interval for each row, from top to bottom; values are fractions, shown in per cent.

    `reference` is the row whose value is drawn through all. For pages that hold pictures only; a results page draws
    such marks itself.
    """
    figure, axes = _figure(name, (9, 0.9 + 0.32 * len(rows)))
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
    found, sizes = 100 * np.asarray(dice, float), np.asarray(area, float)
    figure, axes = _figure("cases")
    filled = sizes > 0
    minimum = sizes[filled].min() / 2 if filled.any() else 1.0
    axes.scatter(sizes[filled], found[filled], s=14, alpha=0.5, color=_BLUE, linewidths=0, label="images with a lesion")
    if not filled.all():
        left = np.full((~filled).sum(), minimum)
        axes.scatter(left, found[~filled], s=30, marker="<", color=_VERMILLION, label="images without")
        _legend(axes)
    axes.set(
        xscale="log", xlabel=f"area of the lesion, {unit} (log scale)", ylabel="Dice of the image, %", ylim=(-3, 103)
    )
    _plain_numbers(axes.xaxis)
    return _svg(figure, "cases")


def reliability(bins: Sequence[ReliabilityBin]) -> str:
    """Return the fraction of lesion among pixels by their probability."""
    filled = [row for row in bins if row.num_pixels]
    figure, axes = _figure("reliability")
    axes.plot([0, 100], [0, 100], color=_GREY, lw=1, ls="--")
    probabilities, fractions = zip(*((row.mean_probability, row.lesion_fraction) for row in filled), strict=True)
    axes.plot(np.multiply(probabilities, 100), np.multiply(fractions, 100), "o-", color=_BLUE, ms=4)
    axes.set(
        xlabel="probability, % (dashed: ideal)", ylabel="lesion among these pixels, %", xlim=(0, 100), ylim=(0, 100)
    )
    return _svg(figure, "reliability")


def pixels_by_probability(bins: Sequence[ReliabilityBin]) -> str:
    """Return how many pixels there are of each probability."""
    filled = [row for row in bins if row.num_pixels]
    figure, axes = _figure("pixels")
    centres = [100 * row.mean_probability for row in filled if row.mean_probability is not None]
    axes.bar(centres, [row.num_pixels for row in filled], width=5, color=_BLUE)
    axes.set(yscale="log", xlabel="probability, %", ylabel="pixels (log scale)", xlim=(0, 100))
    _plain_numbers(axes.yaxis)
    return _svg(figure, "pixels")


def risk_coverage(coverage: Sequence[float], dice: Sequence[float]) -> str:
    """Return the mean Dice of the images that are kept when a reader takes over the least certain ones."""
    figure, axes = _figure("risk")
    scores = np.multiply(dice, 100)
    axes.plot(np.multiply(coverage, 100), scores, color=_BLUE, label="by estimated Dice")
    axes.axhline(scores[-1], color=_ORANGE, lw=1, label="all images")
    axes.set(xlabel="images kept, % (most certain first)", ylabel="their mean Dice, %")
    _legend(axes)
    return _svg(figure, "risk")


def _figure(name: str, size: tuple[float, float] = _SIZE) -> tuple[Any, Any]:
    import matplotlib as mpl  # takes half a second to load
    from matplotlib.figure import Figure

    with mpl.rc_context(_style(name)):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.tick_params(colors=_INK, labelsize=_LETTERS)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_INK, fontsize=_LETTERS)
    for spine in axes.spines.values():
        spine.set_color(_GREY)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _legend(axes: Any) -> None:
    """Put the legend above the axes, where it hides nothing."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, columnspacing=1, handlelength=1.5, borderaxespad=0,
        labelcolor=_INK, frameon=False, fontsize=_LETTERS,
    )  # fmt: skip


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
    text = text.replace(_BLUE.lower(), f"var(--mark, {_BLUE})")  # lighter on a dark page
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
