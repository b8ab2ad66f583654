"""What a report says of each finding, one by one, with "not known" as a value of its own. No torch.

A row of `FINDINGS` holds the side (0 none, 1 unilateral, 2 bilateral), the number of areas, six zones (1 named, 0 said
to be free) and the trust that the report is given: the probability, before the film is looked at, that it belongs to
this film. NaN is "not known", and for the trust "as the network has it by default".
"""

from dataclasses import replace

import numpy as np

from c2fvl.reports.free_text.reader import ParsedText, read_free_text
from c2fvl.reports.report import SIDES, Report
from c2fvl.reports.zones import ZONES, in_words

__all__ = ["FINDINGS", "FIRST_ZONE", "TRUST", "checked_trust", "explain", "findings_of", "has_findings"]

FINDINGS = ("side", "number", *ZONES, "trust")
"""The order of a network's nine numbers."""
TRUST = FINDINGS.index("trust")
DEFAULT_TRUST = 0.5
"""Of a network for which none was chosen."""
FIRST_ZONE = FINDINGS.index(ZONES[0])
MAX_LINES = 12
"""More phrases of one kind than this `explain` counts and does not quote."""


def checked_trust(trust: float) -> float:
    """Return the trust, which must be a probability; `ValueError` where it is none."""
    if not 0 <= trust <= 1:
        raise ValueError(f"the trust is {trust}; expected is a number from 0 (the film alone) to 1 (the report)")
    return float(trust)


def findings_of(report: Report | None) -> np.ndarray:
    """Return the row (9,) float32 of a report in the viewer's frame; NaN for what it does not say.

    A caption that tells a side or a number of areas lists every zone, so that a zone it leaves out is free; a mere list
    of zones says nothing of the others. Where it says "bilateral" and lists zones of one lung, those of the other are
    not known. Free text goes through `free_text.read_free_text`.

    What contradicts itself is not known: the side, where "unilateral" meets zones of both lungs (the zones are kept);
    side, number and zones, where "no infection" meets areas or zones, or a number of 0 meets a side with infection;
    number and zones, where a number of 0 meets zones. Raises `ValueError` for a report in the patient's frame.
    """
    row = np.full(len(FINDINGS), np.nan, np.float32)
    if report is None:
        return row
    if report.orientation != "image":
        raise ValueError(
            f"the report is in the {report.orientation}'s frame; convert it with in_orientation('image') first"
        )
    if report.has_attributes:
        _fill_from_caption(row, report)
    else:
        _fill(row, read_free_text(report.text))
    return row


def has_findings(report: Report | None) -> bool:
    """Tell whether any finding of a report, in whichever frame, is known."""
    return report is not None and not np.isnan(findings_of(replace(report, orientation="image"))[:TRUST]).all()


def explain(report: Report | None) -> tuple[str, ...]:
    """Tell in words what was understood of a report, in its own left and right, one line for each kind.

    The lines begin with "named", "free", "side", "number", "not known", "uncertain", "not read", "contradiction" or
    "refused", and a colon; a report in the patient's frame says so first. Without a report it is one line.
    """
    if report is None or not (report.has_attributes or report.text.strip()):
        return ("no report",)
    own = replace(report, orientation="image")  # not in_orientation: the words stay those of the report
    row = findings_of(own)
    zones = dict(zip(ZONES, row[FIRST_ZONE:TRUST], strict=True))
    lines = ["frame: left is the patient's left"] if report.orientation == "patient" else []
    lines += _line("named", _zones_in_words([zone for zone, value in zones.items() if value == 1]))
    lines += _line("free", _zones_in_words([zone for zone, value in zones.items() if value == 0]))
    lines += [] if np.isnan(row[0]) else [f"side: {SIDES[int(row[0])]}"]
    lines += [] if np.isnan(row[1]) else [f"number: {int(row[1])}"]
    unknown = [name for name, value in zip(FINDINGS[:2], row, strict=False) if np.isnan(value)]
    lines += _line("not known", unknown + _zones_in_words([zone for zone, value in zones.items() if np.isnan(value)]))
    if report.has_attributes:
        return (*lines, *_line("not read", _quoted(own.unread)), *_told("contradiction", own.contradictions()))
    reading = read_free_text(own.text)
    lines += _line("uncertain", _quoted(reading.uncertain)) + _line("not read", _quoted(reading.not_understood))
    lines += _told("contradiction", reading.contradictions)
    return (*lines, *([f"refused: {reading.refusal}"] if reading.refusal else []))


def _fill_from_caption(row: np.ndarray, report: Report) -> None:
    hands = {zone[0] for zone in report.zones}
    is_infected = report.side in ("unilateral", "bilateral")
    if report.side == "none" and (report.number or hands):
        return
    if report.number == 0 and (is_infected or hands):
        return
    if report.side is not None and not (report.side == "unilateral" and len(hands) == 2):
        row[0] = SIDES.index(report.side)
    if report.number is not None:
        row[1] = report.number
    is_whole = report.side is not None or report.number is not None
    is_free = report.side == "none" or (report.number == 0 and not hands)
    for place, zone in enumerate(ZONES, start=FIRST_ZONE):
        is_listed = is_whole and bool(hands) and (report.side != "bilateral" or zone[0] in hands)
        if zone in report.zones:
            row[place] = 1
        elif is_free or is_listed:
            row[place] = 0


def _fill(row: np.ndarray, reading: ParsedText) -> None:
    if reading.side is not None:
        row[0] = SIDES.index(reading.side)
    if reading.number is not None:
        row[1] = reading.number
    for place, zone in enumerate(ZONES, start=FIRST_ZONE):
        if zone in reading.zones:
            row[place] = 1
        elif zone in reading.free:
            row[place] = 0


def _zones_in_words(zones: list[str]) -> list[str]:
    """Return zones as "left lower zone", and a lung of which all three are there as "left lung"."""
    words: list[str] = []
    for hand in ("left", "right"):
        of_hand = [zone for zone in zones if zone[0] == hand[0]]
        whole = len(of_hand) == len(ZONES) // 2
        words += [f"{hand} lung"] if whole else [in_words(zone) for zone in of_hand]
    return words


def _line(kind: str, items: list[str]) -> list[str]:
    if not items:
        return []
    more = f", and {len(items) - MAX_LINES} more" if len(items) > MAX_LINES else ""
    return [f"{kind}: {', '.join(items[:MAX_LINES])}{more}"]


def _quoted(phrases: tuple[str, ...]) -> list[str]:
    return [f"'{phrase}'" for phrase in phrases]


def _told(kind: str, messages: tuple[str, ...]) -> list[str]:
    return [f"{kind}: {message}" for message in messages[:MAX_LINES]]
