"""The page of a comparison: which system is better, and by how much, image by image."""

import sys
from datetime import datetime

from c2fvl.evaluation.compare.compare import COSTS, SCORES, SPEEDS, Comparison, Entry, show
from c2fvl.evaluation.compare.tables import DIFFERENCE_HEADER, difference_rows
from c2fvl.evaluation.pages.axis import Axis
from c2fvl.evaluation.pages.effects import Effect
from c2fvl.evaluation.pages.page import from_template
from c2fvl.evaluation.summary import Remark
from c2fvl.metrics.intervals import Estimate

_MAIN = "dice_per_image"


def render_comparison(comparison: Comparison) -> str:
    """Return the page; labels and paths are shown as text, whatever they hold."""
    scored = [entry for entry in comparison.entries if entry.values.get(_MAIN) is not None]
    ranked = [(entry, _estimate(entry)) for entry in sorted(scored, key=lambda entry: -(entry.values[_MAIN] or 0))]
    effects = sorted(_effects(comparison), key=lambda effect: -effect.estimate.value)
    return from_template(
        "comparison.html",
        title=", ".join(entry.label for entry in comparison.entries),
        date=datetime.now().astimezone().date().isoformat(),
        comparison=comparison,
        verdict=verdict(comparison),
        ranked=ranked,
        score_axis=Axis.around([estimate for _, estimate in ranked], limits=(0, 100)),
        effects=effects,
        effects_axis=Axis.around([effect.estimate for effect in effects], zero=True, limits=(-100, 100)),
        others={name: title for name, title in SCORES.items() if name != _MAIN},
        costs={name: title for name, title in (COSTS | SPEEDS).items() if _is_known(comparison, name)},
        show=show,
        difference_header=DIFFERENCE_HEADER,
        difference_rows=difference_rows(comparison),
        command=" ".join(sys.argv),
    )


def verdict(comparison: Comparison) -> Remark | None:
    """Return one sentence on the system with the highest Dice per image; None without a second one.

    Another system counts as worse where the confidence interval of the paired difference says so.
    """
    scored = [entry for entry in comparison.entries if entry.values.get(_MAIN) is not None]
    if not comparison.differences:
        return None
    best = max(scored, key=lambda entry: entry.values[_MAIN] or 0)
    worse: list[str] = []
    unclear: list[str] = []
    for effect in _effects(comparison):
        first, second = effect.title, effect.tag
        label = best.label.removesuffix(f", {len(best.paths)} seeds")
        if label in (first, second):
            other = second if first == label else first
            clear = effect.effect == ("helps" if first == label else "harm")
            (worse if clear else unclear).append(other)
    clauses = [f"better than {_listed(worse)}"] if worse else []
    clauses += [f"not clearly better than {_listed(unclear)}"] if unclear else []
    words = f"{best.label} has the highest Dice per image; it is {', and '.join(clauses)}"
    if len({entry.text.split(",")[0] for entry in scored}) > 1:  # "none, because …" is none
        return Remark(f"{words}. But not all were given the same reports, so this compares reports too.", True)
    return Remark(f"{words}.", False)


def _is_known(comparison: Comparison, column: str) -> bool:
    return any(entry.values.get(column) is not None for entry in comparison.entries)


def _effects(comparison: Comparison) -> list[Effect]:
    return [Effect(pair.first, pair.second, pair.differences["dice"].mean) for pair in comparison.differences]


def _estimate(entry: Entry) -> Estimate:
    low, high = entry.intervals.get(_MAIN, (None, None))
    value = entry.values[_MAIN]
    assert value is not None  # only systems that were scored are asked for
    return Estimate(value / 100, None if low is None else low / 100, None if high is None else high / 100)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
