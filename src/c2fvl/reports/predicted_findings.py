"""What a network reads off an image before it reads the report, in words and records. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from c2fvl.reports.findings import FINDINGS, TRUST
from c2fvl.reports.report import SIDES, Report
from c2fvl.reports.zones import (
    HANDS,
    ZONES,
    hand_in_words,
    hand_of,
    hands_of,
    mirrored,
    zone_in_words,
    zone_key,
    zones_of,
)

LOGITS = ("zones", "number", "side", "agreement")
"""The outputs of the network beside its mask, in the order of its findings."""
ZONE_THRESHOLD = 0.5
"""From this probability on, a zone is named in the predicted report."""
MIN_AGREEMENT = 0.5
"""Below this agreement, a finding of the report counts as not followed."""
_MIN_GAIN = float(np.log(20))
"""If the mirrored report is so much likelier than the report, left and right may be exchanged."""
_SIDE_WORDS = {
    "none": "no infection",
    "unilateral": "infection of one lung",
    "bilateral": "infection of both lungs",
}


@dataclass(frozen=True)
class PredictedFindings:
    """Zones, number of lesions and side of one image with their probabilities, in image orientation."""

    zones: dict[str, float]
    """Probability of infection in each of `ZONES`."""
    number: tuple[float, ...]
    """Probability of 0, 1, … lesions; the last is that of so many or more."""
    side: dict[str, float]
    """Probability of "none", "unilateral" and "bilateral"."""
    agreement: dict[str, float]
    """For each known finding of the report, of `FINDINGS`: the weight, from 0 to 1, with which the network uses it."""
    reported: dict[str, float]
    """The known findings of the report: side as an index of `SIDES`, number, and 1 or 0 for each zone."""

    @classmethod
    def from_logits(cls, logits: Sequence[np.ndarray], reported: np.ndarray | None) -> "PredictedFindings":
        """Return the findings of one image.

        `logits` are those of zones (6,), number (N,), side (3,) and agreement (8,); `reported` is the row (9,) of the
        report, or None.
        """
        zones, number, side, agreement = logits
        reported = np.full(len(FINDINGS), np.nan) if reported is None else reported
        weights = _sigmoid(agreement)
        known = [index for index in range(TRUST) if not np.isnan(reported[index])]
        return cls(
            zones=dict(zip(ZONES, _sigmoid(zones).tolist(), strict=True)),
            number=tuple(_softmax(number).tolist()),
            side=dict(zip(SIDES, _softmax(side).tolist(), strict=True)),
            agreement={FINDINGS[index]: float(weights[index]) for index in known},
            reported={FINDINGS[index]: float(reported[index]) for index in known},
        )

    @property
    def report(self) -> Report:
        """The predicted report, in image orientation: the likeliest side and number, and zones that fit them."""
        side = max(self.side, key=lambda name: self.side[name])
        if side == "none":
            return Report("none", 0)
        likeliest = {hand: max(zones_of(hand), key=lambda zone: self.zones[zone]) for hand in HANDS}
        stronger = max(HANDS, key=lambda hand: self.zones[likeliest[hand]])
        hands = set(HANDS) if side == "bilateral" else {stronger}
        zones = {zone for zone in ZONES if self.zones[zone] >= ZONE_THRESHOLD and hand_of(zone) in hands}
        zones |= {likeliest[hand] for hand in hands - hands_of(zones)}  # an infected lung has at least one zone
        number = max(range(len(hands), len(self.number)), key=lambda count: self.number[count])
        return Report(side, number, frozenset(zones))

    def remarks(self, orientation: str = "image") -> tuple[str, ...]:
        """Return in words, in that orientation, where report and image disagree, and which of them was followed."""
        lines = []
        if self.fits_mirrored():
            lines.append(
                "the report names one lung and fits the image far better with left and right exchanged; its left was "
                f"taken as the {hand_in_words('left', orientation)}: check the orientation of report and image"
            )
        shown, is_partial = self.report.zones, False
        for zone in ZONES:
            if zone not in self.reported:
                continue
            name, probability = zone_in_words(_oriented(zone, orientation), orientation), self.zones[zone]
            if self.reported[zone] == 1 and probability < ZONE_THRESHOLD and zone not in shown:
                text = f"the report names the {name}; the image shows little there ({probability:.2f})"
            elif self.reported[zone] == 0 and probability >= ZONE_THRESHOLD:
                text = f"the report says that the {name} is free; the image shows infection there ({probability:.2f})"
            else:
                continue
            lines.append(text + self._outcome(zone))
            is_partial |= self.agreement[zone] < MIN_AGREEMENT
        if "side" in self.reported:
            reported = SIDES[int(self.reported["side"])]
            likeliest = max(self.side, key=lambda name: self.side[name])
            if reported != likeliest:
                lines.append(
                    f"the report says {_SIDE_WORDS[reported]}; the image looks like {_SIDE_WORDS[likeliest]} "
                    f"({self.side[likeliest]:.2f} against {self.side[reported]:.2f})"
                    + self._outcome("side", is_partial=is_partial)
                )
        return tuple(lines)

    def fits_mirrored(self) -> bool:
        """Tell whether the report names one lung alone and its mirror image is far more probable by the image."""
        known = {zone: value for zone, value in self.reported.items() if zone in ZONES}
        if len(hands_of([zone for zone, value in known.items() if value == 1])) != 1:
            return False

        def fit(zones: dict[str, float]) -> float:
            chances = [self.zones[zone] if value == 1 else 1 - self.zones[zone] for zone, value in zones.items()]
            return float(np.log(np.maximum(chances, 1e-3)).sum())

        return fit({mirrored(zone): value for zone, value in known.items()}) - fit(known) > _MIN_GAIN

    def _outcome(self, finding: str, *, is_partial: bool = False) -> str:
        """Say whether the report was followed in a finding; `is_partial` where some zones of it were not followed."""
        weight = self.agreement[finding]
        followed = "followed all the same"
        if weight < MIN_AGREEMENT:
            followed = "not followed here"
        elif is_partial:
            followed = "followed only where the zones above do not contradict it"
        return f"; the report is {followed} (weight {weight:.2f})"

    def lines(self, orientation: str = "image") -> tuple[str, ...]:
        """Return the predicted report in that orientation, and a line with the probability of each finding."""
        sides = ", ".join(f"{_SIDE_WORDS[name]} {probability:.2f}" for name, probability in self.side.items())
        numbers = ", ".join(f"{count}: {probability:.2f}" for count, probability in self._counts().items())
        zones = [
            f"{zone_in_words(zone, orientation)}: {self.zones[_oriented(zone, orientation)]:.2f}" for zone in ZONES
        ]
        report = f"{self.report.in_orientation(orientation)} Left is the {hand_in_words('left', orientation)}."
        return (report, *zones, f"side: {sides}", f"lesions: {numbers}")

    def as_dict(self, orientation: str = "image") -> dict[str, Any]:
        """Return the record of the findings in an orientation, "image" or "patient", which names each zone."""

        def named(values: dict[str, float]) -> dict[str, float]:
            oriented = {_oriented(name, orientation): round(value, 4) for name, value in values.items()}
            return {
                zone_key(name, orientation) if name in ZONES else name: oriented[name]
                for name in FINDINGS
                if name in oriented
            }

        return {
            "orientation": orientation,
            "report": str(self.report.in_orientation(orientation)),
            "zones": named(self.zones),
            "number": {count: round(probability, 4) for count, probability in self._counts().items()},
            "side": {name: round(probability, 4) for name, probability in self.side.items()},
            "agreement": named(self.agreement),
            "remarks": list(self.remarks(orientation)),
        }

    def _counts(self) -> dict[str, float]:
        """Return the probabilities of the number by their names, "0", "1", …, "7 or more"."""
        last = len(self.number) - 1
        return {f"{count} or more" if count == last else str(count): self.number[count] for count in range(last + 1)}


def _oriented(name: str, orientation: str) -> str:
    """Return the name of a finding in an orientation; only zones change."""
    return mirrored(name) if orientation == "patient" and name in ZONES else name


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return powers / powers.sum()
