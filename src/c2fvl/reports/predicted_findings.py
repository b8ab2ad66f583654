"""What a network read off a film itself, and how far it believed the report: numbers → words and records. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from c2fvl.reports.findings import FINDINGS, TRUST
from c2fvl.reports.report import SIDES, Report
from c2fvl.reports.zones import ZONES, in_words

LOGITS = ("zones", "number", "side", "agreement")
"""What a network that reads films gives beside its probabilities, in the order of `models.FindingLogits`."""
ZONE_THRESHOLD = 0.5
"""Probability from which a zone is named in the film's own report."""
DOUBTED_BELOW = 0.5
"""Belief below which a statement of a report is called doubted."""
_OTHER = {zone: ("r" if zone[0] == "l" else "l") + zone[1:] for zone in ZONES}


@dataclass(frozen=True)
class PredictedFindings:
    """Zones, number and side of one film with their probabilities, in the viewer's frame."""

    zones: dict[str, float]
    """Probability of infection in each of `ZONES`."""
    number: tuple[float, ...]
    """Probability of 0, 1, … areas; the last of so many or more."""
    side: dict[str, float]
    """Probability of "none", "unilateral" and "bilateral"."""
    believed: dict[str, float]
    """For each finding that the report tells, of `FINDINGS`: the weight, from 0 to 1, with which it was followed."""
    told: dict[str, float]
    """Those findings as the report has them: side by `SIDES`, number, and 1 or 0 for each zone."""

    @classmethod
    def from_logits(cls, logits: Sequence[np.ndarray], told: np.ndarray | None) -> "PredictedFindings":
        """Return the reading of one film's logits, (6,), (N,), (3,) and (8,), and the row (9,) that was told."""
        zones, number, side, agreement = logits
        told = np.full(len(FINDINGS), np.nan) if told is None else told
        beliefs = _logistic(agreement)
        known = [place for place in range(TRUST) if not np.isnan(told[place])]
        return cls(
            zones=dict(zip(ZONES, _logistic(zones).tolist(), strict=True)),
            number=tuple(_softmax(number).tolist()),
            side=dict(zip(SIDES, _softmax(side).tolist(), strict=True)),
            believed={FINDINGS[place]: float(beliefs[place]) for place in known},
            told={FINDINGS[place]: float(told[place]) for place in known},
        )

    @property
    def report(self) -> Report:
        """Return the film's own report, in the viewer's frame: the likeliest side and number, and zones that fit."""
        side = max(self.side, key=lambda name: self.side[name])
        zones = {zone for zone, fraction in self.zones.items() if fraction >= ZONE_THRESHOLD}
        if side == "none":
            return Report("none", 0)
        of_hand = {hand: max(self.zones[zone] for zone in ZONES if zone[0] == hand) for hand in "lr"}
        stronger = max(of_hand, key=lambda hand: of_hand[hand])
        hands = {"l", "r"} if side == "bilateral" else {stronger}
        zones = {zone for zone in zones if zone[0] in hands}
        for hand in hands - {zone[0] for zone in zones}:  # an infected lung has at least its likeliest zone
            zones.add(max((zone for zone in ZONES if zone[0] == hand), key=lambda zone: self.zones[zone]))
        minimum = len(hands)
        number = max(range(minimum, len(self.number)), key=lambda count: self.number[count])
        return Report(side, number, frozenset(zones))

    def remarks(self, orientation: str = "image") -> tuple[str, ...]:
        """Return in words, in that frame, where the report says what the film does not show, and what was done."""
        lines = []
        for zone in ZONES:
            if zone not in self.told:
                continue
            name = in_words(zone if orientation == "image" else _OTHER[zone])
            shown, believed = self.zones[zone], self.believed[zone]
            if self.told[zone] == 1 and shown < ZONE_THRESHOLD:
                lines.append(
                    f"the report names the {name}; the film shows little there ({shown:.2f})" + _done(believed)
                )
            elif self.told[zone] == 0 and shown >= ZONE_THRESHOLD:
                lines.append(
                    f"by the report the {name} is free; the film shows infection there ({shown:.2f})" + _done(believed)
                )
        if "side" in self.told:
            said = SIDES[int(self.told["side"])]
            likeliest = max(self.side, key=lambda name: self.side[name])
            if said != likeliest:
                lines.append(
                    f"the report says {_SIDE_WORDS[said]}; the film looks like {_SIDE_WORDS[likeliest]} "
                    f"({self.side[likeliest]:.2f} against {self.side[said]:.2f})" + _done(self.believed["side"])
                )
        return tuple(lines)

    def lines(self, orientation: str = "image") -> tuple[str, ...]:
        """Return the film's own report, in that frame, and a figure for each thing that it says."""
        sides = ", ".join(f"{_SIDE_WORDS[name]} {fraction:.2f}" for name, fraction in self.side.items())
        numbers = ", ".join(
            f"{_count(place, self.number)}: {fraction:.2f}" for place, fraction in enumerate(self.number)
        )
        shown = {zone: self.zones[zone if orientation == "image" else _OTHER[zone]] for zone in ZONES}
        zones = [f"{in_words(zone)}: {fraction:.2f}" for zone, fraction in shown.items()]
        return (str(self.report.in_orientation(orientation)), *zones, f"side: {sides}", f"areas: {numbers}")

    def as_dict(self, orientation: str = "image") -> dict[str, Any]:
        """Return the record of the reading, in the frame "image" or "patient"."""

        def framed(name: str) -> str:
            return _OTHER.get(name, name) if orientation == "patient" else name

        own = self.report.in_orientation(orientation)
        return {
            "frame": orientation,
            "report": str(own),
            "zones": _in_order({framed(zone): round(fraction, 4) for zone, fraction in self.zones.items()}),
            "number": {_count(place, self.number): round(fraction, 4) for place, fraction in enumerate(self.number)},
            "side": {name: round(fraction, 4) for name, fraction in self.side.items()},
            "agreement": _in_order({framed(name): round(fraction, 4) for name, fraction in self.believed.items()}),
            "remarks": list(self.remarks(orientation)),
        }


_SIDE_WORDS = {
    "none": "no infection",
    "unilateral": "infection of one lung",
    "bilateral": "infection of both lungs",
}


def _count(place: int, numbers: tuple[float, ...]) -> str:
    return f"{place} or more" if place == len(numbers) - 1 else str(place)


def _in_order(named: dict[str, float]) -> dict[str, float]:
    return {name: named[name] for name in FINDINGS if name in named}


def _done(believed: float) -> str:
    verb = "not followed" if believed < DOUBTED_BELOW else "followed all the same"
    return f"; {verb} (weight {believed:.2f})"


def _logistic(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    fractions = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return fractions / fractions.sum()
