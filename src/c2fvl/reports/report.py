"""The report on one image: a sentence ⇄ side, number and zones ⇄ the eight attributes of C2FVL.

A sentence such as "Bilateral pulmonary infection, two infected areas, all left lung and lower right lung." is read by
the grammar of the published captions, with their known faults (`caption_grammar.py`, docs/reports.md). A sentence
outside of the grammar is kept as free text without attributes; nothing is guessed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from c2fvl.reports.caption_grammar import NUMBER_WORDS, parse_caption
from c2fvl.reports.zones import (
    HANDS,
    HEIGHTS,
    OTHER_HAND,
    ZONES,
    check_orientation,
    hands_of,
    height_of,
    mirrored,
    zones_of,
)

ATTRIBUTES = ("bilateral", "number", *ZONES)
"""The columns of C2FVL's tables, and the order of the eight numbers that its network reads."""
SIDES = ("none", "unilateral", "bilateral")
"""In the order of their numbers in a row of findings."""
MAX_LESIONS = 20
"""No caption counts more lesions; the published ones that are at hand end at nine."""
MAX_NUMBER = 999_999_999

_HAND = re.compile(
    r"\b(?:(?P<handed>left|right)(?P<lobe>[\s-]+middle[\s-]+lobe)|(?P<middle>middle[\s-]+lobe)|(?P<word>left|right)(?P<sided>sided)?|(?P<initial>[lr])(?=[uml][lz]\b|t\b)\w\w?|(?P<lingula>lingular?))\b"
    r"|(?<!\b[Bb]/)(?<!\b[Bb] / )(?<![\d’'])(?<!\d\s)\b(?-i:(?P<letter>[LR]))\b(?!['’])",
    re.IGNORECASE,
)
"""Words that name a lung: left, left-sided, Lt, LUL or LLZ (upper lobe, lower zone), lingula and middle lobe, which one
lung has, and a single L."""


@dataclass(frozen=True)
class Report:
    """What a report says about the infection on one image.

    Two reports are equal if they say the same in the same orientation, whatever their words.
    """

    side: str | None = None
    """"bilateral", "unilateral", "none" (no infection), or None if it is not given."""
    number: int | None = None
    """Number of lesions ("infected areas" in captions), or None if it is not given."""
    zones: frozenset[str] = frozenset()
    """The zones that are named as infected, of `ZONES`."""
    orientation: str = "image"
    """Whose left is meant: "image" (left of the image) or "patient" (patient's left)."""
    text: str = field(default="", compare=False)
    """The sentence as it was found."""
    unread: tuple[str, ...] = field(default=(), compare=False)
    """The parts of the sentence that could not be read."""

    def __post_init__(self) -> None:
        if self.side is not None and self.side not in SIDES:
            raise ValueError(f"side must be one of {', '.join(SIDES)}, or None, got {self.side!r}")
        if self.number is not None:
            if type(self.number) is bool or not hasattr(self.number, "__index__") or not 0 <= self.number <= MAX_NUMBER:
                raise ValueError(
                    f"number must be a whole number of lesions from 0 to {MAX_NUMBER}, or None, got {self.number!r}"
                )
            object.__setattr__(self, "number", int(self.number))  # it may be a NumPy integer
        object.__setattr__(self, "zones", frozenset(self.zones))
        if not self.zones <= set(ZONES):
            unknown = ", ".join(sorted(map(repr, self.zones - set(ZONES))))
            raise ValueError(f"there is no zone {unknown}; the zones are {', '.join(ZONES)}")
        check_orientation(self.orientation)

    @classmethod
    def from_attributes(cls, values: Sequence[float], *, orientation: str = "image") -> "Report":
        """Return the report of eight attributes in the order of `ATTRIBUTES`.

        Not bilateral, no lesion and no zone means no infection. Raises `ValueError` that names an attribute other than
        0 or 1 (for `number`: other than a whole number of 0 or more).
        """
        if len(values) != len(ATTRIBUTES):
            raise ValueError(f"{len(values)} attributes, expected {len(ATTRIBUTES)}: {', '.join(ATTRIBUTES)}")
        named = {name: parse_attribute(name, value) for name, value in zip(ATTRIBUTES, values, strict=True)}
        zones = frozenset(zone for zone in ZONES if named[zone])
        infected = named["number"] or zones
        side = "bilateral" if named["bilateral"] else "unilateral" if infected else "none"
        return cls(side, named["number"], zones, orientation)

    @property
    def has_attributes(self) -> bool:
        """Whether side, number or zones are given; False for free text."""
        return self.side is not None or self.number is not None or bool(self.zones)

    def attributes(self) -> tuple[float, ...]:
        """Return the eight numbers in the order of `ATTRIBUTES`.

        If the side is not given, it follows from the zones. If the number is not given, it is the minimum that side and
        zones allow: one lesion for each lung. Raises `ValueError` for free text and in patient orientation.
        """
        if not self.has_attributes:
            raise ValueError(f"the report {self.text!r} is free text and has no attributes; check has_attributes first")
        self.check_image_orientation()
        hands = hands_of(self.zones)
        bilateral = self.side == "bilateral" if self.side is not None else len(hands) == 2
        minimum = max(len(hands), {"bilateral": 2, "unilateral": 1}.get(self.side or "", 0))
        number = minimum if self.number is None else self.number
        return (float(bilateral), float(number), *(float(zone in self.zones) for zone in ZONES))

    def check_image_orientation(self) -> None:
        """Raise `ValueError` if the report is not in image orientation, as networks and tables need it."""
        if self.orientation != "image":
            raise ValueError(
                f"the report is in {self.orientation} orientation; convert it with in_orientation('image') first"
            )

    def mirrored(self) -> "Report":
        """Return the report of the mirrored image: left and right are exchanged, in the text too."""
        zones = frozenset(map(mirrored, self.zones))
        return replace(
            self, zones=zones, text=_mirrored_text(self.text), unread=tuple(map(_mirrored_text, self.unread))
        ).with_matching_text()

    def with_matching_text(self) -> "Report":
        """Return the report with a text that says what its findings say.

        This is its own text, or the canonical sentence if the text holds a word that was not exchanged ("rihgt").
        """
        if not self.has_attributes or not self.text or parse_report(self.text, orientation=self.orientation) == self:
            return self
        return replace(self, text=str(replace(self, text="", unread=())), unread=())

    def in_orientation(self, orientation: str) -> "Report":
        """Return the same findings in words of another orientation, "image" or "patient"."""
        check_orientation(orientation)
        return self if orientation == self.orientation else replace(self.mirrored(), orientation=orientation)

    def contradictions(self) -> tuple[str, ...]:
        """Return in words what cannot all be true in the report; the report keeps it as it was given."""
        hands = hands_of(self.zones)
        found = []
        if self.side == "unilateral" and len(hands) == 2:
            found.append("unilateral, with zones of both lungs")
        if self.side == "bilateral" and len(hands) == 1:
            found.append("bilateral, with zones of one lung")
        if self.side == "none" and (self.number or self.zones):
            found.append("no infection, with infected areas or zones")
        if self.side in ("bilateral", "unilateral") and self.number == 0:
            found.append(f"{self.side} infection, with no infected area")
        if self.number is not None and self.number > MAX_LESIONS:
            found.append(f"{self.number} infected areas, more than {MAX_LESIONS}")
        if self.side is None and self.number == 0 and self.zones:
            found.append("no infected area, with zones")
        return tuple(found)

    def __str__(self) -> str:
        """Return the canonical sentence, which `parse_report` reads back; without attributes, return the text."""
        if not self.has_attributes:
            return self.text
        side = {"none": "no pulmonary infection"}.get(self.side or "", f"{self.side} pulmonary infection")
        parts = [side] if self.side is not None else []
        if self.number is not None:
            number = NUMBER_WORDS[self.number] if self.number < len(NUMBER_WORDS) else str(self.number)
            parts.append(f"{number} infected {'area' if self.number == 1 else 'areas'}")
        lungs = [_lung(hand, self.zones) for hand in HANDS]
        if any(lungs):
            parts.append(" and ".join(filter(None, lungs)))
        sentence = ", ".join(parts)
        return f"{sentence[0].upper()}{sentence[1:]}."


def default_orientation(report: "Report | str") -> str:
    """Return whose left a report means that does not say it.

    Captions of the grammar mean the left of the image, as those of QaTa-COV19 do; free text means the patient's left,
    as radiologists do.
    """
    parsed = parse_report(report) if isinstance(report, str) else report
    return "image" if parsed.has_attributes or not parsed.text else "patient"


def parse_report(sentence: str, *, orientation: str = "image") -> Report:
    """Parse a sentence; `orientation`, "image" or "patient", says whose left it means.

    A sentence with any part outside of the grammar becomes free text, and these parts are listed in `unread`. A side or
    number that is given twice and differently counts as not given, and both parts as unread.
    """
    check_orientation(orientation)
    parsed = parse_caption(sentence)
    return Report(parsed.side, parsed.number, parsed.zones, orientation, sentence.strip(), parsed.unread)


def _mirrored_text(text: str) -> str:
    """Exchange all words of `_HAND`; the lingula, the middle of the left lung, for the middle lobe of the right one."""

    def other(match: re.Match[str]) -> str:
        word = match[0]
        if match["handed"]:
            swapped = OTHER_HAND[match["handed"].lower()] + match["lobe"]
        elif match["middle"]:
            swapped = "lingula"
        elif match["lingula"]:
            swapped = "right middle lobe"
        elif match["word"]:
            swapped = OTHER_HAND[match["word"].lower()] + (match["sided"] or "").lower()
        else:
            swapped = ("r" if word[0] in "lL" else "l") + word[1:]
            return swapped[0].upper() + swapped[1:] if word[0].isupper() else swapped
        return swapped.upper() if word.isupper() else swapped.capitalize() if word[0].isupper() else swapped

    return _HAND.sub(other, text)


def _lung(hand: str, zones: frozenset[str]) -> str:
    heights = [height_of(zone) for zone in zones_of(hand) if zone in zones]
    if not heights:
        return ""
    return f"{'all' if len(heights) == len(HEIGHTS) else ' '.join(heights)} {hand} lung"


def parse_attribute(name: str, value: object) -> int:
    """Return the number in a cell of an attribute; raise `ValueError` for another value."""
    number: float | None = None
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}(\.0+)?\s*", value, re.ASCII):
        number = float(value)
    elif not isinstance(value, str | bool):
        try:
            number = float(value)  # type: ignore[arg-type]  # also NumPy numbers
        except (TypeError, ValueError, OverflowError):
            number = None
    limit = MAX_NUMBER if name == "number" else 1
    if number is None or not 0 <= number <= limit or number != int(number):
        expected = "a whole number of 0 or more" if name == "number" else "0 or 1"
        raise ValueError(f"{name} is {value!r}, expected {expected}")
    return int(number)
