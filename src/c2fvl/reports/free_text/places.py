"""Settle the places of a statement: which zones and which lungs its words mean. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from c2fvl.reports.free_text.terms import BOTH, Place
from c2fvl.reports.free_text.words import Part
from c2fvl.reports.zones import HEIGHTS, zone_at


@dataclass(frozen=True)
class Places:
    """The places of a statement."""

    zones: frozenset[str] = frozenset()
    hands: frozenset[str] = frozenset()
    """Lungs that are named without a height."""
    lungs: bool = False
    """Whether "the lungs" are named without a side."""
    lung: bool = False
    """Whether "lung" is named without a side; only a denial says which one: "no lung infection"."""
    is_unclear: bool = False
    """Whether some place could not be settled."""


@dataclass
class _Unit:
    """One place as the text words it: "left upper", "middle zone", "the lungs"."""

    hands: frozenset[str] = frozenset()
    heights: frozenset[str] = frozenset()
    is_noun: bool = False
    is_plural: bool = False
    is_whole: bool = False
    is_adjective: bool = False
    follows_header: bool = False

    def add(self, place: Place) -> None:
        self.hands |= place.hands
        self.heights |= place.heights
        self.is_noun |= place.is_noun
        self.is_plural |= place.is_plural
        self.is_whole |= place.is_whole
        self.is_adjective |= place.is_adjective

    @property
    def is_settled(self) -> bool:
        return self.is_noun or self.is_adjective


def settle_places(parts: Sequence[Part]) -> Places:
    """Settle sides and heights of the places: what one leaves out, its neighbour says."""
    units = _units(parts)
    zones: set[str] = set()
    hands: set[str] = set()
    lungs = lung = is_unclear = False
    for index, unit in enumerate(units):
        before = units[index - 1] if index else None
        behind = units[index + 1] if index + 1 < len(units) else None
        if not unit.hands:
            unit.hands = _hands_of(unit, before, units[index + 1 : index + 4])
        if unit.heights and not unit.is_settled and not any(later.is_noun for later in units[index + 1 : index + 4]):
            header = before is not None and before.is_noun and not before.heights  # "left lung, middle and lower"
            unit.follows_header = header or (before is not None and before.follows_header)
            if not unit.follows_header:
                is_unclear = True
                continue
        if unit.heights:
            is_unclear |= not unit.hands
            zones |= _zones(unit.hands, unit.heights)
        elif behind is not None and behind.heights and not behind.hands and unit.hands:
            continue  # "left lung, middle and lower zones"
        elif behind is not None and not unit.is_noun and behind.hands and behind.heights and len(unit.hands) == 1:
            zones |= _zones(unit.hands, behind.heights)  # "left and right lower"
        elif unit.is_whole and unit.is_noun and (unit.hands or unit.is_plural):
            zones |= _zones(unit.hands or BOTH, frozenset(HEIGHTS))
        elif unit.hands:
            hands |= unit.hands
        elif unit.is_noun:
            lungs |= unit.is_plural
            lung |= not unit.is_plural
    return Places(frozenset(zones), frozenset(hands), lungs, lung, is_unclear)


def _zones(hands: frozenset[str], heights: frozenset[str]) -> set[str]:
    return {zone_at(hand, height) for hand in hands for height in heights}


def _units(parts: Sequence[Part]) -> list[_Unit]:
    units: list[_Unit] = []
    for part in parts:
        unit = _Unit()
        for word in part.places():
            place = word.term.place
            is_new_hand = place.hands and unit.hands and not (place.hands == unit.hands or place.is_bilateral)
            is_new_height = place.heights and unit.heights and unit.is_noun and not place.is_adjective
            if is_new_hand or (is_new_height and place.heights != unit.heights):
                units.append(unit)
                unit = _Unit()
            unit.add(place)
        if part.places():
            units.append(unit)
    return units


def _hands_of(unit: _Unit, before: _Unit | None, behind: Sequence[_Unit]) -> frozenset[str]:
    """Return the lung that its neighbours give to a place without one; empty if that is not sure."""
    if unit.heights and before is not None and before.hands:
        if not unit.is_noun or not unit.is_plural or not before.is_noun or not before.heights:
            return before.hands
        return before.hands if before.hands == BOTH else frozenset()
    if unit.heights and not unit.is_noun:
        noun = next((later for later in behind if later.is_noun or later.hands), None)
        if noun is not None and noun.hands:
            return noun.hands
        return BOTH if noun is not None and noun.is_plural else frozenset()
    return BOTH if unit.heights and unit.is_plural else frozenset()
