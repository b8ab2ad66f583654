"""Published scores: are a Dice and an IoU means over images, or pooled over all pixels?"""

from dataclasses import dataclass

MAX_SLACK = 0.004
"""Of a Dice, that digits not given may leave; means over images can lie this near to a pooled figure."""


@dataclass(frozen=True)
class PublishedPair:
    """What a published pair of Dice and IoU can be."""

    kind: str
    """"pooled", "per image", "impossible" or "unknown"."""
    dice_if_pooled: float
    """In the unit of the pair: 2J / (1 + J)."""
    words: str


def read_published(dice: str, iou: str) -> PublishedPair:
    """Tell from a pair of figures, as printed, whether it is one pooled figure or a mean over images.

    Of one count of pixels Dice = 2J/(1+J) exactly. As this is concave in J, a mean over images lies below it (Jensen),
    the more so the more films differ, and never below J. A unit of the last digit given is allowed for, for some round
    and some cut off; figures above 1 are per cent.
    Raises `ValueError` for what is no pair of scores.
    """
    values, slack = [], []
    for name, text in (("Dice", dice), ("IoU", iou)):
        try:
            values.append(float(text))
        except ValueError:
            raise ValueError(f"the {name} is {text!r}; expected is a number such as 83.40 or 0.834") from None
        slack.append(10.0 ** -len(text.strip().partition(".")[2]))
    scale = 100.0 if max(values) > 1 else 1.0
    if scale > 1 and min(values) <= 1 and "." in (dice if values[0] < values[1] else iou):
        raise ValueError(
            f"Dice {dice} and IoU {iou} look like per cent beside a fraction; expected are both in one unit, "
            "with two digits behind the point of per cent"
        )
    found, overlap = (value / scale for value in values)
    if not (0 <= found <= 1 and 0 <= overlap <= 1):
        raise ValueError(f"Dice {dice} and IoU {iou} are no scores; expected are 0 to 1, or 0 to 100 in per cent")
    pooled = 2 * overlap / (1 + overlap)
    tolerance = (slack[0] + slack[1] * 2 / (1 + overlap) ** 2) / scale
    apart, shown = (pooled - found) * 100, f"2J/(1+J) is {pooled * scale:.{2 if scale > 1 else 4}f}"
    if abs(pooled - found) <= tolerance and tolerance > MAX_SLACK:
        words = f"too few digits to tell: {shown}; give them as printed, such as 83.40 74.62"
        return PublishedPair("unknown", pooled * scale, words)
    if abs(pooled - found) <= tolerance + 1e-12:
        words = (
            f"pooled, to all appearance: {shown}, which is the Dice given but for its last digit. (A mean over images "
            "that all score alike would look the same.)"
        )
        return PublishedPair("pooled", pooled * scale, words)
    if found > pooled:
        words = f"impossible: {shown}, and no mean over images can lie above it; one of the two is something else"
        return PublishedPair("impossible", pooled * scale, words)
    if found < overlap - sum(slack) / scale:
        words = "impossible: a Dice is never below its IoU; the two may have changed places"
        return PublishedPair("impossible", pooled * scale, words)
    words = f"per image: {shown}, {apart:.2f} points above the Dice given; one pooled count could not differ"
    return PublishedPair("per image", pooled * scale, words)
