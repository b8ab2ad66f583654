"""A report told otherwise, or wrongly."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from c2fvl.reports.report import MAX_LESIONS, Report, parse_report
from c2fvl.reports.zones import ZONES

_HEIGHTS = ("upper", "middle", "lower")
_UPSIDE_DOWN = {"upper": "lower", "lower": "upper"}
_SHORTEST_MISTYPED = 6  # a slip in a shorter word can make another word of it
_NUM_SLIPS = 2
_FRACTION_SHUFFLED, _FRACTION_MIRRORED, _FRACTION_SHIFTED = 0.4, 0.3, 0.2
Draw = np.random.Generator


def wrong_report(report: Report, others: Sequence[Report | None], draw: Draw) -> Report:
    """Return a report that is wrong in a way drawn at random: another film's, other side, turned over, a zone off.

    `others` are those of all films; where the one drawn is None, the sides are exchanged.
    """
    kind = draw.random()
    if kind < _FRACTION_SHUFFLED:
        other = others[int(draw.integers(len(others)))]
        return report.mirrored() if other is None else other
    if kind < _FRACTION_SHUFFLED + _FRACTION_MIRRORED:
        return report.mirrored()
    if kind < _FRACTION_SHUFFLED + _FRACTION_MIRRORED + _FRACTION_SHIFTED:
        return shift_zone(report, draw)
    return turn_upside_down(report, draw)


def _told(report: Report, **changes: object) -> Report:
    """Return the report with other findings, in the canonical sentence."""
    found = dataclasses.replace(report, **changes, text="", unread=())  # type: ignore[arg-type]
    return dataclasses.replace(found, text=str(found))


def turn_upside_down(report: Report, draw: Draw) -> Report:
    """Exchange upper and lower."""
    zones = frozenset(zone[0] + _UPSIDE_DOWN.get(zone[1:], zone[1:]) for zone in report.zones)
    text = re.sub(r"\b(upper|lower)\b", _other_height, report.text, flags=re.IGNORECASE)
    return dataclasses.replace(report, zones=zones, text=text).with_true_text()


def _other_height(match: re.Match[str]) -> str:
    other = _UPSIDE_DOWN[match[0].lower()]
    return other.upper() if match[0].isupper() else other.capitalize() if match[0][0].isupper() else other


def misread_orientation(report: Report, draw: Draw) -> Report:
    """Return what a reader makes of the report as a radiologist would write it, taken for the viewer's."""
    found = report.in_orientation("patient")
    return dataclasses.replace(_told(found) if found.has_attributes else found, orientation="image")


def shift_zone(report: Report, draw: Draw) -> Report:
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


def miscount(report: Report, draw: Draw) -> Report:
    """Give a number that is one to three higher or lower, and at least one."""
    if not report.number:
        return report
    near = [number for number in range(report.number - 3, report.number + 4) if 1 <= number <= MAX_LESIONS]
    others = [number for number in near if number != report.number]
    return _told(report, number=others[int(draw.integers(len(others)))]) if others else report


def drop_zones(report: Report, draw: Draw) -> Report:
    """Leave out half of the zones."""
    named = [zone for zone in ZONES if zone in report.zones]
    if len(named) < 2:
        return report
    kept = draw.permutation(len(named))[: (len(named) + 1) // 2]
    return _told(report, zones=frozenset(named[place] for place in kept))


def mistype(report: Report, draw: Draw) -> Report:
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
    return parse_report(text, orientation=report.orientation) if chosen.size else report


def paraphrase(report: Report, draw: Draw) -> Report:
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
    return parse_report(f"{sentence[0].upper()}{sentence[1:]}.", orientation=report.orientation)
