"""The six zones of the lungs: how they are named, mirrored and said in words, and whose left "left" is.

A zone is a key such as "lupper": the hand ("left" or "right") and the height within the lung. Whose left it is, the
orientation says: "image" is the left of the image, "patient" the patient's left, which is on the right of an image in
standard display.
"""

from collections.abc import Collection

HANDS = ("left", "right")
HEIGHTS = ("upper", "middle", "lower")
ZONES = ("lupper", "lmiddle", "llower", "rupper", "rmiddle", "rlower")
ORIENTATIONS = ("image", "patient")
OTHER_HAND = {"left": "right", "right": "left"}


def zone_at(hand: str, height: str) -> str:
    """Return the zone of a hand and a height: "left" and "upper" give "lupper"."""
    return hand[0] + height


def hand_of(zone: str) -> str:
    """Return the hand of a zone, "left" or "right"."""
    return "left" if zone[0] == "l" else "right"


def height_of(zone: str) -> str:
    """Return the height of a zone: "upper", "middle" or "lower"."""
    return zone[1:]


def hands_of(zones: Collection[str]) -> set[str]:
    """Return the hands of some zones."""
    return {hand_of(zone) for zone in zones}


def zones_of(hand: str) -> tuple[str, ...]:
    """Return the three zones of one lung, from the top down."""
    return tuple(zone_at(hand, height) for height in HEIGHTS)


def mirrored(zone: str) -> str:
    """Return the zone at the same height of the other lung."""
    return zone_at(OTHER_HAND[hand_of(zone)], height_of(zone))


def in_words(zone: str) -> str:
    """Return a zone in words: "left upper zone"."""
    return f"{hand_of(zone)} {height_of(zone)} zone"


def zone_in_words(zone: str, orientation: str) -> str:
    """Return a zone with whose left it is: "image left upper zone (patient's right)" or "patient's left upper zone"."""
    check_orientation(orientation)
    if orientation == "patient":
        return f"patient's {in_words(zone)}"
    return f"image {in_words(zone)} (patient's {OTHER_HAND[hand_of(zone)]})"


def zone_key(zone: str, orientation: str) -> str:
    """Return the name of a zone in records, which says whose left it is: "image_left_upper", "patient_right_lower"."""
    check_orientation(orientation)
    return f"{orientation}_{hand_of(zone)}_{height_of(zone)}"


def third_key(zone: str) -> str:
    """Return the name of that third of the height of a half of the image, which a zone of a lung is not."""
    return f"{zone_key(zone, 'image')}_third"


def zones_in_words(zones: Collection[str]) -> list[str]:
    """Return zones in words, in the order of `ZONES`; a lung with all of its zones is one entry, "left lung"."""
    words: list[str] = []
    for hand in HANDS:
        named = [zone for zone in zones_of(hand) if zone in zones]
        words += [f"{hand} lung"] if len(named) == len(HEIGHTS) else [in_words(zone) for zone in named]
    return words


def hand_in_words(hand: str, orientation: str = "image") -> str:
    """Return a hand so that nobody mistakes it: "image left (patient's right)" or "patient's left (image right)"."""
    check_orientation(orientation)
    if orientation == "image":
        return f"image {hand} (patient's {OTHER_HAND[hand]})"
    return f"patient's {hand} (image {OTHER_HAND[hand]})"


def orientation_in_words(orientation: str) -> str:
    """Return whose left an orientation means: "left is the image left (patient's right)"."""
    return f"left is the {hand_in_words('left', orientation)}"


def check_orientation(orientation: str) -> None:
    """Raise `ValueError` for an unknown orientation."""
    if orientation not in ORIENTATIONS:
        raise ValueError(
            f"orientation must be 'image' (left of the image) or 'patient' (patient's left), got {orientation!r}"
        )


def read_orientation(cell: str) -> str:
    """Return the orientation that a table's cell names; "viewer" and an empty cell mean "image".

    Raises `ValueError` for another word.
    """
    orientation = cell.strip().lower()
    orientation = "image" if orientation in ("", "viewer") else orientation
    check_orientation(orientation)
    return orientation
