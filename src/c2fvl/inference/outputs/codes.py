"""The codes of SNOMED CT and DICOM for what is segmented, and where in the lungs.

SNOMED CT has an exact code for each height of a lung; the side is a modifier. Sides are always the patient's.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from c2fvl.reports.zones import HANDS, HEIGHTS, ZONES, hand_of, hands_of, height_of

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept, FindingSite

Triple = tuple[str, str, str]
"""Value, scheme and meaning of a code."""
OWN_SCHEME = "99C2FVL"
"""The coding scheme of codes that no standard has."""

IS_SOURCE = ("121322", "DCM", "Source image for image processing operation")

_ABNORMAL = ("49755003", "SCT", "Morphologically abnormal structure")
_BODY = ("123037004", "SCT", "Body structure")
_LESION = ("52988006", "SCT", "Lesion")
_LUNG = ("39607008", "SCT", "Lung")
_ZONES = {
    "upper": ("281392002", "SCT", "Upper zone of lung"),
    "middle": ("281393007", "SCT", "Middle zone of lung"),
    "lower": ("281394001", "SCT", "Lower zone of lung"),
}
_SIDES = {
    "left": ("7771000", "SCT", "Left"),
    "right": ("24028007", "SCT", "Right"),
    "bilateral": ("51440002", "SCT", "Bilateral"),
}
_LESIONS = ("lesion", "infection", "infected area", "opacity", "consolidation", "ground-glass opacity", "pneumonia")
_LUNGS = ("lung", "lungs", "left lung", "right lung")


def is_lesion(name: str) -> bool:
    """Tell whether a class of this name is a lesion of the lung."""
    return name.lower() in _LESIONS


def lesion_numbers(classes: Sequence[str]) -> list[int]:
    """Return the numbers in a mask of those classes that are lesions; classes count from 1."""
    return [number for number, name in enumerate(classes, start=1) if is_lesion(name)]


def class_codes(name: str) -> "tuple[CodedConcept, CodedConcept]":
    """Return category and type of a class by its name.

    A lung has no side in its code, because the name of a class does not say whose left it means. A name that has no
    code here becomes a code of our own scheme with the name as its meaning.
    """
    if is_lesion(name):
        return concept(_ABNORMAL), concept(_LESION)
    if name.lower() in _LUNGS:
        return concept(_BODY), concept(_LUNG)
    value = "".join(letter for letter in name.upper().replace(" ", "_") if letter.isascii())[:16]
    return concept(_BODY), concept((value or "CLASS", OWN_SCHEME, name[:64]))


def places_of(zones: Collection[str], *, has_sides: bool, has_heights: bool) -> list[tuple[Triple, str]]:
    """Return the region of each of some zones of the patient, and its side: "left", "right", "bilateral" or "".

    Without `has_sides`, where nobody knows which side an image shows, the heights are returned alone. Without
    `has_heights`, as on slices, whose zones are not those of a lung, the lung is returned with its side. The lung alone
    is returned where nothing is known.
    """
    if has_sides and has_heights and zones:
        return [(_ZONES[height_of(zone)], hand_of(zone)) for zone in ZONES if zone in zones]
    if has_heights and zones:
        heights = {height_of(zone) for zone in zones}
        return [(_ZONES[height], "") for height in HEIGHTS if height in heights]
    hands = hands_of(zones) if has_sides else set()
    return [(_LUNG, "bilateral" if len(hands) == len(HANDS) else next(iter(hands), ""))]


def regions(places: Sequence[tuple[Triple, str]]) -> "list[CodedConcept]":
    """Return places as anatomic regions, the side as a modifier in each."""
    found = []
    for place, hand in places:
        region = concept(place)
        if hand:
            region.AnatomicRegionModifierSequence = [concept(_SIDES[hand])]
        found.append(region)
    return found


def sites(places: Sequence[tuple[Triple, str]]) -> "list[FindingSite]":
    """Return places as finding sites of a report."""
    from highdicom.sr import FindingSite

    return [FindingSite(concept(place), concept(_SIDES[hand]) if hand else None) for place, hand in places]


def in_words(places: Sequence[tuple[Triple, str]]) -> str:
    """Return places in words: "upper zone of lung, left"."""
    return "; ".join(f"{meaning.lower()}{f', {hand}' * bool(hand)}" for (_, _, meaning), hand in places)


def concept(code: Triple) -> "CodedConcept":
    """Return a code (value, scheme, meaning) as highdicom wants it."""
    from highdicom.sr import CodedConcept

    value, scheme, meaning = code
    return CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)
