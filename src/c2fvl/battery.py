"""The battery: deterministic changes of the reports of a data set, to find out what a network makes of its text.

Each change takes all cases and returns them in their order with other reports. Words of a sentence are exchanged where
that is enough (left and right, upper and lower), so that a network that reads sentences sees nothing else change; where
zones or a count are new, the sentence is the canonical one. A report without what is to be changed stays as it is.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from c2fvl.cases import Case
from c2fvl.report import MAX_AREAS, ZONES, Report, parse_report

_HEIGHTS = ("upper", "middle", "lower")
_UPSIDE_DOWN = {"upper": "lower", "lower": "upper"}
_SHORTEST_MISTYPED = 6  # a slip in a shorter word can make another word of it
_NUM_SLIPS = 2
_SHARE_SHUFFLED, _SHARE_MIRRORED, _SHARE_SHIFTED = 0.4, 0.3, 0.2

Draw = np.random.Generator
OfReport = Callable[[Report, Draw], Report | None]


@dataclass(frozen=True)
class Change:
    """One change of reports."""

    name: str
    title: str
    """In words, for tables and charts."""
    is_wrong: bool
    """Whether the report then says of most films what is not so."""
    apply: Callable[[Sequence[Case], int], list[Case]]
    """(cases, seed) → the cases with other reports."""


def constant_report(cases: Sequence[Case]) -> Report | None:
    """Return the most common report, of equally common ones the first by its words; None where there is none.

    Free texts count as one report only where their words are the same.
    """
    reports = [case.report for case in cases if case.report is not None]
    said = [(report, "" if report.has_attributes else report.text) for report in reports]
    counts = Counter(said)
    return min(counts, key=lambda entry: (-counts[entry], str(entry[0])), default=(None, ""))[0]


def battery(constant: Report | None) -> tuple[Change, ...]:
    """Return every change but the second pass, in the order of the tables; `constant` is that of `constant_report`."""
    return (
        Change("right", "its own report", False, lambda cases, seed: list(cases)),
        Change("none", "no report", False, lambda cases, seed: _with(cases, [None] * len(cases))),
        Change("paraphrase", "in other words", False, _each(_paraphrase)),
        Change("typing_errors", "with typing errors", False, _each(_mistype)),
        Change("zones_dropped", "half of the zones left out", False, _each(_drop_zones)),
        Change("count_wrong", "another number of areas", True, _each(_miscount)),
        Change("zone_off", "one zone off by one", True, _each(_shift_zone)),
        Change("upside_down", "upper and lower exchanged", True, _each(_turn_upside_down)),
        Change("sides_exchanged", "left and right exchanged", True, _each(lambda report, draw: report.mirrored())),
        Change("patient_frame", "told in the patient's frame, read in the viewer's", True, _each(_misread_frame)),
        Change("constant", "the most common report", True, lambda cases, seed: _with(cases, [constant] * len(cases))),
        Change("shuffled", "that of another film", True, _shuffle),
    )


def change_text(cases: Sequence[Case], name: str, *, seed: int = 0) -> list[Case]:
    """Return the cases with the reports of one change of `battery`, "constant" made from these cases themselves.

    Raises `ValueError` for a change that is not known, and for "shuffled" among fewer than two films.
    """
    changes = {change.name: change for change in battery(constant_report(cases))}
    if name not in changes:
        raise ValueError(f"the text is {name!r}; expected is one of {', '.join(changes)}")
    return changes[name].apply(cases, seed)


def wrong_report(report: Report, others: Sequence[Report | None], draw: Draw) -> Report:
    """Return a report that is wrong in a way drawn at random: another film's, other side, turned over, a zone off.

    `others` are those of all films; where the one drawn is None, the sides are exchanged.
    """
    kind = draw.random()
    if kind < _SHARE_SHUFFLED:
        other = others[int(draw.integers(len(others)))]
        return report.mirrored() if other is None else other
    if kind < _SHARE_SHUFFLED + _SHARE_MIRRORED:
        return report.mirrored()
    if kind < _SHARE_SHUFFLED + _SHARE_MIRRORED + _SHARE_SHIFTED:
        return _shift_zone(report, draw)
    return _turn_upside_down(report, draw)


def _with(cases: Sequence[Case], reports: Sequence[Report | None]) -> list[Case]:
    return [dataclasses.replace(case, report=report) for case, report in zip(cases, reports, strict=True)]


def _each(change: OfReport) -> Callable[[Sequence[Case], int], list[Case]]:
    """Return the change of all cases by one of a report, with random numbers that depend on seed and place alone."""

    def apply(cases: Sequence[Case], seed: int) -> list[Case]:
        return _with(
            cases,
            [
                None if case.report is None else change(case.report, np.random.default_rng([seed, place]))
                for place, case in enumerate(cases)
            ],
        )

    return apply


def _shuffle(cases: Sequence[Case], seed: int) -> list[Case]:
    """Send the reports around one random circle of all films, so that none keeps its own; words may still agree."""
    if len(cases) < 2:
        raise ValueError("reports can only be shuffled among two films or more")
    order = np.random.default_rng(seed).permutation(len(cases))
    changed = list(cases)
    for place, source in zip(order, np.roll(order, 1), strict=True):
        changed[place] = dataclasses.replace(cases[place], report=cases[source].report)
    return changed


def _told(report: Report, **changes: object) -> Report:
    """Return the report with other findings, in the canonical sentence."""
    found = dataclasses.replace(report, **changes, text="", unread=())  # type: ignore[arg-type]
    return dataclasses.replace(found, text=str(found))


def _turn_upside_down(report: Report, draw: Draw) -> Report:
    zones = frozenset(zone[0] + _UPSIDE_DOWN.get(zone[1:], zone[1:]) for zone in report.zones)
    text = re.sub(r"\b(upper|lower)\b", _other_height, report.text, flags=re.IGNORECASE)
    return dataclasses.replace(report, zones=zones, text=text).with_true_text()


def _other_height(match: re.Match[str]) -> str:
    other = _UPSIDE_DOWN[match[0].lower()]
    return other.upper() if match[0].isupper() else other.capitalize() if match[0][0].isupper() else other


def _misread_frame(report: Report, draw: Draw) -> Report:
    """Return what a reader makes of the report as a radiologist would write it, taken for the viewer's."""
    found = report.in_frame("patient")
    return dataclasses.replace(_told(found) if found.has_attributes else found, frame="viewer")


def _shift_zone(report: Report, draw: Draw) -> Report:
    """Move one of the zones to a neighbour, above, below or in the other lung, that is not named."""
    moves = [
        (zone, other)
        for zone in ZONES
        if zone in report.zones
        for other in ZONES
        if other not in report.zones and _are_neighbours(zone, other)
    ]
    if not moves:
        return report
    zone, other = moves[int(draw.integers(len(moves)))]
    zones = (report.zones - {zone}) | {other}
    side = report.side
    if side in ("unilateral", "bilateral"):
        side = "bilateral" if len({name[0] for name in zones}) == 2 else "unilateral"
    return _told(report, zones=zones, side=side)


def _are_neighbours(zone: str, other: str) -> bool:
    apart = abs(_HEIGHTS.index(zone[1:]) - _HEIGHTS.index(other[1:]))
    return apart == 1 if zone[0] == other[0] else apart == 0


def _miscount(report: Report, draw: Draw) -> Report:
    """Give a number that is one to three higher or lower, and at least one."""
    if not report.number:
        return report
    near = [number for number in range(report.number - 3, report.number + 4) if 1 <= number <= MAX_AREAS]
    others = [number for number in near if number != report.number]
    return _told(report, number=others[int(draw.integers(len(others)))]) if others else report


def _drop_zones(report: Report, draw: Draw) -> Report:
    named = [zone for zone in ZONES if zone in report.zones]
    if len(named) < 2:
        return report
    kept = draw.permutation(len(named))[: (len(named) + 1) // 2]
    return _told(report, zones=frozenset(named[place] for place in kept))


def _mistype(report: Report, draw: Draw) -> Report:
    """Make a slip in two long words: two letters exchanged, one left out, or one twice."""
    text = report.text or str(report)
    words = [match for match in re.finditer(r"[A-Za-z]+", text) if len(match[0]) >= _SHORTEST_MISTYPED]
    chosen = draw.permutation(len(words))[:_NUM_SLIPS]
    for place in sorted(chosen, reverse=True):
        word = words[place]
        at = word.start() + int(draw.integers(1, len(word[0]) - 2))
        kind = int(draw.integers(3))
        slip = (text[at + 1] + text[at], text[at], text[at] * 2 + text[at + 1])[kind]
        text = text[:at] + slip + text[at + 2 :]
    return parse_report(text, frame=report.frame) if chosen.size else report


def _paraphrase(report: Report, draw: Draw) -> Report:
    """Say the same in another order and in other words that the reader of reports knows."""
    if not report.has_attributes:
        return report
    parts = []
    lungs = []
    for hand, name in draw.permutation([("l", "left"), ("r", "right")]):
        heights = [height for height in _HEIGHTS if hand + height in report.zones]
        draw.shuffle(heights)
        lungs += [f"{height} {name} lung" for height in heights]
    if lungs:
        parts.append(" and ".join(lungs))
    if report.number is not None:
        parts.append(f"{report.number} infected area{'' if report.number == 1 else 's'}")
    if report.side is not None:
        parts.append(f"{'no' if report.side == 'none' else report.side} lung infection")
    sentence = ", ".join(parts)
    return parse_report(f"{sentence[0].upper()}{sentence[1:]}.", frame=report.frame)
