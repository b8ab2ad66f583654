"""What is understood of a report, as `POST /api/v1/read` answers it, and a sentence from zones. No torch."""

from typing import Any

import numpy as np

from c2fvl.reports.findings import FINDINGS, TRUST, explain, findings_of
from c2fvl.reports.free_text.reader import read_free_text
from c2fvl.reports.report import SIDES, default_orientation, parse_report
from c2fvl.reports.zones import HANDS, HEIGHTS, ZONES, orientation_in_words, zone_key
from c2fvl.serve.networks import ServedModel
from c2fvl.serve.problems import ProblemError

STATES = ("lesion", "clear")
"""What can be set for a zone by hand."""


def reading_of(text: str | None, orientation: str | None, model: ServedModel) -> dict[str, Any]:
    """Return what this model understands of a report, with the field names of a record of `c2fvl predict`.

    Zones are named in image orientation, as in the record.
    """
    if text is None:
        return {"sentence": None, "understood": None, "explained": ["no report"]}
    whose = orientation or default_orientation(text)
    report = parse_report(text, orientation=whose)
    within = report.in_orientation("image")
    row = dict(zip(FINDINGS[:TRUST], findings_of(within).tolist(), strict=False))
    named = [zone for zone in ZONES if row[zone] == 1]
    free = [zone for zone in ZONES if row[zone] == 0]
    found: dict[str, Any] = {
        "sentence": text,
        "orientation_given": whose,
        "orientation": "image",
        "orientation_in_words": orientation_in_words(whose),
        "understood": str(within),
        "zones": [zone_key(zone, "image") for zone in named],
        "free_zones": [zone_key(zone, "image") for zone in free],
        "number": None if np.isnan(row["number"]) else int(row["number"]),
        "side": None if np.isnan(row["side"]) else SIDES[int(row["side"])],
        "is_caption": report.has_attributes,
        "explained": list(explain(report)),
        "refused": _refusal(text, whose, model),
    }
    if report.has_attributes:
        return found | {
            "not_understood": list(report.unread),
            "uncertain": [],
            "contradictions": list(report.contradictions()),
        }
    parsed = read_free_text(text)
    return found | {
        "used": list(parsed.understood),
        "not_understood": list(parsed.not_understood),
        "uncertain": list(parsed.uncertain),
        "contradictions": list(parsed.contradictions),
    }


def _refusal(text: str, orientation: str, model: ServedModel) -> str | None:
    """Return why this model cannot use the report at all."""
    if model.plain.encoder is None:
        return "this network reads no report; the one given changes nothing"
    try:
        model.predictor().understand(text, orientation=orientation)
    except ValueError as error:
        return str(error)
    return None


def sentence_from_zones(zones: Any) -> str:
    """Return a sentence for zones set by hand; the reader of free text reads exactly these back.

    `zones` has for some of "left_upper", "left_middle", …, "right_lower" one of `STATES`; an empty one gives "". The
    left is the one of the orientation that the sentence is sent with. Raises `ProblemError` for another content.
    """
    known = [f"{hand}_{height}" for hand in HANDS for height in HEIGHTS]
    if not isinstance(zones, dict) or not all(
        name in known and isinstance(state, str) and state in STATES for name, state in zones.items()
    ):
        detail = f"The zones must be an object of {', '.join(known)}, each with {' or '.join(STATES)}."
        raise ProblemError(422, detail, field="zones")
    places = {name: f"{name.replace('_', ' ')} zone" for name in known}
    named = [f"Opacity in the {places[name]}." for name in known if zones.get(name) == "lesion"]
    free = [f"The {places[name]} is clear." for name in known if zones.get(name) == "clear"]
    return " ".join(named + free)
