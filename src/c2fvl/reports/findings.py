"""The findings of a report one by one, each of them known or not. No torch.

A row of `FINDINGS` holds the side (0 none, 1 unilateral, 2 bilateral), the number of lesions, six zones (1 named as
infected, 0 said to be free) and the trust in the report: the probability, before the image is read, that the report
belongs to this image. NaN means "not known"; for the trust it means "the default of the network".
"""

from dataclasses import replace

import numpy as np

from c2fvl.messages import listed
from c2fvl.reports.free_text.reader import ParsedText, read_free_text
from c2fvl.reports.report import SIDES, Report
from c2fvl.reports.zones import ZONES, hand_of, hands_of, orientation_in_words, zones_in_words

FINDINGS = ("side", "number", *ZONES, "trust")
"""The order of the nine numbers that the network reads."""
TRUST = FINDINGS.index("trust")
DEFAULT_TRUST = 0.5
"""The trust of a network for which none was fitted."""
FIRST_ZONE = FINDINGS.index(ZONES[0])
MAX_LINES = 12
"""`explain` quotes at most so many phrases of one kind and counts the others."""


def checked_trust(trust: float) -> float:
    """Return the trust as a float; raise `ValueError` if it is no probability."""
    if not 0 <= trust <= 1:
        raise ValueError(f"trust must be between 0 (ignore the report) and 1 (follow it), got {trust}")
    return float(trust)


def findings_of(report: Report | None) -> np.ndarray:
    """Return the row (9,) float32 of a report in image orientation; NaN for what it does not say.

    A caption with a side or a number of lesions lists every zone, so a zone that it leaves out is free; a mere list of
    zones says nothing about the others. If it says "bilateral" and lists zones of one lung, those of the other are not
    known. Free text is read by `read_free_text`.

    What contradicts itself is not known: the side, if "unilateral" meets zones of both lungs (the zones are kept);
    side, number and zones, if "no infection" meets lesions or zones, or a number of 0 meets a side with infection;
    number and zones, if a number of 0 meets zones. Raises `ValueError` for a report in patient orientation.
    """
    row = np.full(len(FINDINGS), np.nan, np.float32)
    if report is None:
        return row
    report.check_image_orientation()
    if report.has_attributes:
        _fill_from_caption(row, report)
    else:
        _fill_from_text(row, read_free_text(report.text))
    return row


def has_findings(report: Report | None) -> bool:
    """Tell whether any finding of a report, in either orientation, is known."""
    return report is not None and not np.isnan(findings_of(replace(report, orientation="image"))[:TRUST]).all()


def explain(report: Report | None) -> tuple[str, ...]:
    """Tell in words what was understood of a report, with its own left and right, one line for each kind.

    The first line, "orientation", says whose left that is; the others begin with "named", "free", "side", "number",
    "not known", "uncertain", "not read", "contradiction" or "refused", and a colon. Without a report there is one line.
    """
    if report is None or not (report.has_attributes or report.text.strip()):
        return ("no report",)
    as_written = replace(report, orientation="image")  # not in_orientation: left and right stay those of the report
    row = findings_of(as_written)
    zones = dict(zip(ZONES, row[FIRST_ZONE:TRUST], strict=True))
    lines = [f"orientation: {orientation_in_words(report.orientation)}"]
    lines += _line("named", zones_in_words([zone for zone, value in zones.items() if value == 1]))
    lines += _line("free", zones_in_words([zone for zone, value in zones.items() if value == 0]))
    lines += [] if np.isnan(row[0]) else [f"side: {SIDES[int(row[0])]}"]
    lines += [] if np.isnan(row[1]) else [f"number: {int(row[1])}"]
    unknown = [name for name, value in zip(FINDINGS[:2], row, strict=False) if np.isnan(value)]
    lines += _line("not known", unknown + zones_in_words([zone for zone, value in zones.items() if np.isnan(value)]))
    if report.has_attributes:
        lines += _line("not read", _quoted(report.unread))
        contradictions = as_written.contradictions()
        refusal = ""
    else:
        parsed = read_free_text(report.text)
        lines += _line("uncertain", _quoted(parsed.uncertain)) + _line("not read", _quoted(parsed.not_understood))
        contradictions, refusal = parsed.contradictions, parsed.refusal
    lines += [f"contradiction: {message}" for message in contradictions[:MAX_LINES]]
    return (*lines, *([f"refused: {refusal}"] if refusal else []))


def _fill_from_caption(row: np.ndarray, report: Report) -> None:
    hands = hands_of(report.zones)
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
    for index, zone in enumerate(ZONES, start=FIRST_ZONE):
        is_listed = is_whole and bool(hands) and (report.side != "bilateral" or hand_of(zone) in hands)
        if zone in report.zones:
            row[index] = 1
        elif is_free or is_listed:
            row[index] = 0


def _fill_from_text(row: np.ndarray, parsed: ParsedText) -> None:
    if parsed.side is not None:
        row[0] = SIDES.index(parsed.side)
    if parsed.number is not None:
        row[1] = parsed.number
    for index, zone in enumerate(ZONES, start=FIRST_ZONE):
        if zone in parsed.zones:
            row[index] = 1
        elif zone in parsed.free:
            row[index] = 0


def _line(kind: str, items: list[str]) -> list[str]:
    return [f"{kind}: {listed(items, MAX_LINES)}"] if items else []


def _quoted(phrases: tuple[str, ...]) -> list[str]:
    return [f"'{phrase}'" for phrase in phrases]
