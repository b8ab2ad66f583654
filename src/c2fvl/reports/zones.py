"""The six zones of the lungs and the frame that left and right are meant in."""

ZONES = ("lupper", "lmiddle", "llower", "rupper", "rmiddle", "rlower")
ORIENTATIONS = ("image", "patient")
HEIGHTS = ("upper", "middle", "lower")


def zone_in_words(zone: str) -> str:
    """Return a zone as it is told: "left upper zone"."""
    return f"{'left' if zone[0] == 'l' else 'right'} {zone[1:]} zone"


def check_orientation(orientation: str) -> None:
    """Raise `ValueError` for a frame that is not known."""
    if orientation not in ORIENTATIONS:
        raise ValueError(f"the frame of a report is {orientation!r}; expected {' or '.join(ORIENTATIONS)}")
