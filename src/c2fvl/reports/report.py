"""The report: sentence ⇄ side, number and zones ⇄ the eight attributes of C2FVL, and the tables that hold them.

A sentence such as "Bilateral pulmonary infection, two infected areas, all left lung and lower right lung." is read by
the grammar of the published captions, their known faults included (`sentences.py`, docs/reports.md). What lies outside
of it is kept as free text without attributes, never guessed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from c2fvl.reports.caption_grammar import NUMBER_WORDS, parse_caption
from c2fvl.reports.zones import HEIGHTS, ZONES, check_orientation

ATTRIBUTES = ("bilateral", "number", *ZONES)
"""The columns of C2FVL's tables and the order of a network's eight numbers."""
SIDES = ("none", "unilateral", "bilateral")
"""In the order of their numbers in a row of findings."""
MAX_LESIONS = 20
"""More infected areas than this no caption counts; the published ones that are at hand end at nine."""

MAX_NUMBER = 999_999_999

_OTHER_HAND = {"left": "right", "right": "left"}
_HAND = re.compile(
    r"\b(?:(?P<word>left|right)(?P<sided>sided)?|(?P<initial>[lr])(?=[uml][lz]\b|t\b)\w\w?|(?P<lingula>lingular?))\b"
    r"|(?<![\d’'])(?<!\d\s)\b(?-i:(?P<letter>[LR]))\b(?!['’])",
    re.IGNORECASE,
)
"""Words that name a lung: left, left-sided, Lt, LUL or LLZ (upper lobe, lower zone), lingula, and L alone."""


@dataclass(frozen=True)
class Report:
    """What is known of the infection on one film. Two reports are equal when they say the same in the same frame."""

    side: str | None = None
    """"bilateral", "unilateral", "none" (no infection), or None where it is not said."""
    number: int | None = None
    """Infected areas, None where it is not said."""
    zones: frozenset[str] = frozenset()
    """The zones named, of `ZONES`."""
    orientation: str = "image"
    """Whose left: "image" (left of the picture) or "patient" (a radiologist's left)."""
    text: str = field(default="", compare=False)
    """The sentence as found."""
    unread: tuple[str, ...] = field(default=(), compare=False)
    """The parts of the sentence that could not be read."""

    def __post_init__(self) -> None:
        if self.side is not None and self.side not in SIDES:
            raise ValueError(f"the side of a report is {self.side!r}; expected one of {', '.join(SIDES)}, or None")
        if self.number is not None:
            if type(self.number) is bool or not hasattr(self.number, "__index__") or not 0 <= self.number <= MAX_NUMBER:
                raise ValueError(
                    f"the number of areas is {self.number!r}; expected a whole number from 0 to {MAX_NUMBER}, or None"
                )
            object.__setattr__(self, "number", int(self.number))  # NumPy counts too
        object.__setattr__(self, "zones", frozenset(self.zones))
        if not self.zones <= set(ZONES):
            unknown = ", ".join(sorted(map(repr, self.zones - set(ZONES))))
            raise ValueError(f"there is no zone {unknown}; expected are {', '.join(ZONES)}")
        check_orientation(self.orientation)

    @classmethod
    def from_attributes(cls, values: Sequence[float], *, orientation: str = "image") -> "Report":
        """Return the report that eight attributes mean, in the order of `ATTRIBUTES`.

        Not bilateral, no area and no zone means no infection. Raises `ValueError` that names the attribute which is
        not 0 or 1 (`number`: not a whole number of 0 or more).
        """
        if len(values) != len(ATTRIBUTES):
            raise ValueError(f"{len(values)} attributes, expected {len(ATTRIBUTES)}: {', '.join(ATTRIBUTES)}")
        named = {name: attribute_value(name, value) for name, value in zip(ATTRIBUTES, values, strict=True)}
        zones = frozenset(zone for zone in ZONES if named[zone])
        infected = named["number"] or zones
        side = "bilateral" if named["bilateral"] else "unilateral" if infected else "none"
        return cls(side, named["number"], zones, orientation)

    @property
    def has_attributes(self) -> bool:
        """Whether side, number or zones are known; False for free text."""
        return self.side is not None or self.number is not None or bool(self.zones)

    def attributes(self) -> tuple[float, ...]:
        """Return the eight numbers in the order of `ATTRIBUTES`.

        A side that is not said follows from the zones; a number that is not said is the least that side and zones
        allow: one area for each lung concerned. Raises `ValueError` for free text and outside of the viewer's frame.
        """
        if not self.has_attributes:
            raise ValueError(f"the report {self.text!r} is free text and has no attributes; ask has_attributes first")
        if self.orientation != "image":
            raise ValueError(
                f"the report is in the {self.orientation}'s frame; convert it with in_orientation('image') first"
            )
        hands = {zone[0] for zone in self.zones}
        bilateral = self.side == "bilateral" if self.side is not None else len(hands) == 2
        minimum = max(len(hands), {"bilateral": 2, "unilateral": 1}.get(self.side or "", 0))
        number = minimum if self.number is None else self.number
        return (float(bilateral), float(number), *(float(zone in self.zones) for zone in ZONES))

    def mirrored(self) -> "Report":
        """Return the report of the mirrored film: left and right are exchanged, in the text too."""
        zones = frozenset(("r" if zone[0] == "l" else "l") + zone[1:] for zone in self.zones)
        found = replace(self, zones=zones, text=_exchange(self.text), unread=tuple(map(_exchange, self.unread)))
        return found.with_true_text()

    def with_true_text(self) -> "Report":
        """Return the report with a sentence that says what it says.

        Its own, or the canonical one where words stayed in it that an exchange did not know ("rihgt").
        """
        if not self.has_attributes or not self.text or parse_report(self.text, orientation=self.orientation) == self:
            return self
        return replace(self, text=str(replace(self, text="", unread=())), unread=())

    def in_orientation(self, orientation: str) -> "Report":
        """Return the same finding told in `frame`, "image" or "patient"."""
        check_orientation(orientation)
        return self if orientation == self.orientation else replace(self.mirrored(), orientation=orientation)

    def contradictions(self) -> tuple[str, ...]:
        """Return in words what the report says that cannot all be true; it is kept as it was said all the same."""
        hands = {zone[0] for zone in self.zones}
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
        """Return the canonical sentence, which `parse_report` reads back; the text where there are no attributes."""
        if not self.has_attributes:
            return self.text
        side = {"none": "no pulmonary infection"}.get(self.side or "", f"{self.side} pulmonary infection")
        parts = [side] if self.side is not None else []
        if self.number is not None:
            number = NUMBER_WORDS[self.number] if self.number < len(NUMBER_WORDS) else str(self.number)
            parts.append(f"{number} infected {'area' if self.number == 1 else 'areas'}")
        lungs = [_lung(hand, self.zones) for hand in ("left", "right")]
        if any(lungs):
            parts.append(" and ".join(filter(None, lungs)))
        sentence = ", ".join(parts)
        return f"{sentence[0].upper()}{sentence[1:]}."


def parse_report(sentence: str, *, orientation: str = "image") -> Report:
    """Read a sentence; `frame` says whose left it means.

    Parts outside of the grammar are listed in `unread`; a sentence without any part inside of it becomes free text.
    Said twice and differently counts as not said, and both parts as unread.
    """
    check_orientation(orientation)
    parsed = parse_caption(sentence)
    return Report(parsed.side, parsed.number, parsed.zones, orientation, sentence.strip(), parsed.unread)


def _exchange(text: str) -> str:
    """Exchange all words of `_HAND`; the lingula, the left lung's middle, for the right middle lobe."""

    def other(match: re.Match[str]) -> str:
        word = match[0]
        if match["lingula"]:
            swapped = "right middle lobe"
        elif match["word"]:
            swapped = _OTHER_HAND[match["word"].lower()] + (match["sided"] or "").lower()
        else:
            swapped = ("r" if word[0] in "lL" else "l") + word[1:]
            return swapped[0].upper() + swapped[1:] if word[0].isupper() else swapped
        return swapped.upper() if word.isupper() else swapped.capitalize() if word[0].isupper() else swapped

    return _HAND.sub(other, text)


def _lung(hand: str, zones: frozenset[str]) -> str:
    heights = [height for height in HEIGHTS if hand[0] + height in zones]
    if not heights:
        return ""
    return f"{'all' if len(heights) == len(HEIGHTS) else ' '.join(heights)} {hand} lung"


def attribute_value(name: str, value: object) -> int:
    """Return the number in a cell of attributes."""
    number: float | None = None
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}(\.0+)?\s*", value, re.ASCII):
        number = float(value)
    elif not isinstance(value, str | bool):
        try:
            number = float(value)  # type: ignore[arg-type]  # NumPy's numbers too
        except (TypeError, ValueError, OverflowError):
            number = None
    limit = MAX_NUMBER if name == "number" else 1
    if number is None or not 0 <= number <= limit or number != int(number):
        expected = "a whole number of 0 or more" if name == "number" else "0 or 1"
        raise ValueError(f"{name} is {value!r}, expected {expected}")
    return int(number)
