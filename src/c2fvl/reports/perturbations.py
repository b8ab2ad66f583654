"""Perturb a report: say the same in other words, or say something wrong."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from c2fvl.reports.report import MAX_LESIONS, Report, parse_report
from c2fvl.reports.zones import HANDS, HEIGHTS, ZONES, hand_of, hands_of, height_of, mirrored, zone_at

_UPSIDE_DOWN = {"upper": "lower", "lower": "upper"}
_MIN_MISTYPED = 6  # a typing error in a shorter word can make another word of it
_NUM_ERRORS = 2
_FRACTION_SHUFFLED, _FRACTION_MIRRORED, _FRACTION_SHIFTED = 0.4, 0.3, 0.2
Generator = np.random.Generator


def wrong_report(report: Report, others: Sequence[Report | None], generator: Generator) -> Report:
    """Return a report that is wrong in a way drawn at random.

    It is the report of another image (of `others`; if that is None, the sides are exchanged), or it has the sides
    exchanged, one zone shifted, or upper and lower exchanged.
    """
    kind = generator.random()
    if kind < _FRACTION_SHUFFLED:
        other = others[int(generator.integers(len(others)))]
        return report.mirrored() if other is None else other
    if kind < _FRACTION_SHUFFLED + _FRACTION_MIRRORED:
        return report.mirrored()
    if kind < _FRACTION_SHUFFLED + _FRACTION_MIRRORED + _FRACTION_SHIFTED:
        return shift_zone(report, generator)
    return turn_upside_down(report, generator)


def _with_findings(report: Report, **findings: object) -> Report:
    """Return the report with other findings and their canonical sentence."""
    changed = dataclasses.replace(report, **findings, text="", unread=())  # type: ignore[arg-type]
    return dataclasses.replace(changed, text=str(changed))


def turn_upside_down(report: Report, generator: Generator) -> Report:
    """Exchange upper and lower."""
    zones = frozenset(zone_at(hand_of(zone), _UPSIDE_DOWN.get(height_of(zone), "middle")) for zone in report.zones)
    text = re.sub(r"\b(upper|lower)\b", _other_height, report.text, flags=re.IGNORECASE)
    return dataclasses.replace(report, zones=zones, text=text).with_matching_text()


def _other_height(match: re.Match[str]) -> str:
    other = _UPSIDE_DOWN[match[0].lower()]
    return other.upper() if match[0].isupper() else other.capitalize() if match[0][0].isupper() else other


def misread_orientation(report: Report, generator: Generator) -> Report:
    """Return the report as a radiologist would write it, in patient orientation, misread as image orientation."""
    written = report.in_orientation("patient")
    return dataclasses.replace(_with_findings(written) if written.has_attributes else written, orientation="image")


def shift_zone(report: Report, generator: Generator) -> Report:
    """Move one zone to a neighbour (above, below or in the other lung) that is not named."""
    moves = [
        (zone, other)
        for zone in ZONES
        if zone in report.zones
        for other in ZONES
        if other not in report.zones and _are_neighbours(zone, other)
    ]
    if not moves:
        return report
    zone, other = moves[int(generator.integers(len(moves)))]
    zones = (report.zones - {zone}) | {other}
    side = report.side
    if side in ("unilateral", "bilateral"):
        side = "bilateral" if len(hands_of(zones)) == 2 else "unilateral"
    return _with_findings(report, zones=zones, side=side)


def _are_neighbours(zone: str, other: str) -> bool:
    if hand_of(zone) != hand_of(other):
        return other == mirrored(zone)
    return abs(HEIGHTS.index(height_of(zone)) - HEIGHTS.index(height_of(other))) == 1


def miscount(report: Report, generator: Generator) -> Report:
    """Change the number of lesions by one to three; it stays at least one."""
    if not report.number:
        return report
    near = [number for number in range(report.number - 3, report.number + 4) if 1 <= number <= MAX_LESIONS]
    others = [number for number in near if number != report.number]
    return _with_findings(report, number=others[int(generator.integers(len(others)))]) if others else report


def drop_zones(report: Report, generator: Generator) -> Report:
    """Leave out half of the zones."""
    named = [zone for zone in ZONES if zone in report.zones]
    if len(named) < 2:
        return report
    kept = generator.permutation(len(named))[: (len(named) + 1) // 2]
    return _with_findings(report, zones=frozenset(named[index] for index in kept))


def mistype(report: Report, generator: Generator) -> Report:
    """Make a typing error in two long words: two letters exchanged, one left out, or one doubled."""
    text = report.text or str(report)
    words = [match for match in re.finditer(r"[A-Za-z]+", text) if len(match[0]) >= _MIN_MISTYPED]
    chosen = generator.permutation(len(words))[:_NUM_ERRORS]
    for index in sorted(chosen, reverse=True):
        word = words[index]
        at = word.start() + int(generator.integers(1, len(word[0]) - 2))
        kind = int(generator.integers(3))
        error = (text[at + 1] + text[at], text[at], text[at] * 2 + text[at + 1])[kind]
        text = text[:at] + error + text[at + 2 :]
    return parse_report(text, orientation=report.orientation) if chosen.size else report


def paraphrase(report: Report, generator: Generator) -> Report:
    """Say the same in another order and in other words of the grammar."""
    if not report.has_attributes:
        return report
    parts = []
    lungs = []
    for hand in generator.permutation(HANDS):
        heights = [height for height in HEIGHTS if zone_at(hand, height) in report.zones]
        generator.shuffle(heights)
        lungs += [f"{height} {hand} lung" for height in heights]
    if lungs:
        parts.append(" and ".join(lungs))
    if report.number is not None:
        parts.append(f"{report.number} infected area{'' if report.number == 1 else 's'}")
    if report.side is not None:
        parts.append(f"{'no' if report.side == 'none' else report.side} lung infection")
    sentence = ", ".join(parts)
    return parse_report(f"{sentence[0].upper()}{sentence[1:]}.", orientation=report.orientation)
