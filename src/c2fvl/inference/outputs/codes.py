"""The codes of SNOMED CT and DICOM for what is segmented, and where in the lungs.

SNOMED CT has an exact code for each height of a lung; the side is a modifier. Sides are always the patient's.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from c2fvl.reports.zones import HEIGHTS, ZONES, hand_of, height_of

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept

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


def anatomic_regions(zones: Collection[str], *, has_sides: bool = True) -> "list[CodedConcept]":
    """Return the regions of some zones of the patient, each with its side; the lung without a side if there are none.

    Without `has_sides`, where nobody knows the orientation of the image, the heights are returned alone.
    """
    if not zones:
        return [concept(_LUNG)]
    if not has_sides:
        heights = {height_of(zone) for zone in zones}
        return [concept(_ZONES[height]) for height in HEIGHTS if height in heights]
    return [_sided(_ZONES[height_of(zone)], hand_of(zone)) for zone in ZONES if zone in zones]


def sites(zones: Collection[str], *, has_sides: bool = True) -> "list[tuple[CodedConcept, CodedConcept | None]]":
    """Return the same regions as `anatomic_regions`, each with its side apart, as reports want it."""
    found = []
    for region in anatomic_regions(zones, has_sides=has_sides):
        modifiers = region.get("AnatomicRegionModifierSequence")
        if modifiers:
            del region.AnatomicRegionModifierSequence
        found.append((region, modifiers[0] if modifiers else None))
    return found


def _sided(region: Triple, hand: str) -> "CodedConcept":
    sided = concept(region)
    sided.AnatomicRegionModifierSequence = [concept(_SIDES[hand])]
    return sided


def concept(code: Triple) -> "CodedConcept":
    """Return a code (value, scheme, meaning) as highdicom wants it."""
    from highdicom.sr import CodedConcept

    value, scheme, meaning = code
    return CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)
