"""What a report says of each finding, one by one, with "not known" as a value of its own. No torch.

A row of `FINDINGS` holds the side (0 none, 1 unilateral, 2 bilateral), the number of areas, six zones (1 named, 0 said
to be free) and the trust that the report is given: the probability, before the film is looked at, that it belongs to
this film. NaN is "not known", and for the trust "as the network has it by default".
"""

import numpy as np

from c2fvl.report import SIDES, ZONES, Report

FINDINGS = ("side", "number", *ZONES, "trust")
"""The order of a network's nine numbers."""
TRUST = FINDINGS.index("trust")
DEFAULT_TRUST = 0.5
"""Of a network for which none was chosen."""
FIRST_ZONE = FINDINGS.index(ZONES[0])
SIDE_ORDER = ("none", "unilateral", "bilateral")
"""The sides by their number in a row."""

assert set(SIDE_ORDER) == set(SIDES)


def findings_of(report: Report | None) -> np.ndarray:
    """Return the row (9,) float32 of a report in the viewer's frame; NaN for what it does not say.

    A caption that tells a side or a number of areas lists every zone, so that a zone it leaves out is free; a mere list
    of zones says nothing of the others. Where it says "bilateral" and lists zones of one lung, those of the other are
    not known. Raises `ValueError` for a report in the patient's frame.
    """
    row = np.full(len(FINDINGS), np.nan, np.float32)
    if report is None or not report.has_attributes:
        return row
    if report.frame != "viewer":
        raise ValueError(f"the report is in the {report.frame}'s frame; convert it with in_frame('viewer') first")
    if report.side is not None:
        row[0] = SIDE_ORDER.index(report.side)
    if report.number is not None:
        row[1] = report.number
    hands = {zone[0] for zone in report.zones}
    is_whole = report.side is not None or report.number is not None
    is_free = report.side == "none" or (report.number == 0 and not hands)
    for place, zone in enumerate(ZONES, start=FIRST_ZONE):
        is_listed = is_whole and bool(hands) and (report.side != "bilateral" or zone[0] in hands)
        if zone in report.zones:
            row[place] = 1
        elif is_free or is_listed:
            row[place] = 0
    return row
