"""Published scores: is a pair of Dice and IoU the mean over images, or pooled over all pixels?"""

from dataclasses import dataclass

MAX_SLACK = 0.004
"""If missing digits leave more uncertainty of a Dice than this, a mean over images can look like a pooled score."""


@dataclass(frozen=True)
class PublishedPair:
    """What a published pair of Dice and IoU can be."""

    kind: str
    """"pooled", "per image", "impossible" or "unknown"."""
    dice_if_pooled: float
    """In the unit of the pair: 2J / (1 + J)."""
    words: str


def read_published(dice: str, iou: str) -> PublishedPair:
    """Return whether a pair of scores, as printed, is pooled over all pixels or a mean over images.

    Pooled over one count of pixels, Dice = 2J/(1+J) exactly. As this is concave in J, a mean over images is below it
    (Jensen), more so the more images differ, and never below J. One unit of the last digit is tolerated, because some
    papers round and some truncate; numbers above 1 are percent. Raises `ValueError` for what is no pair of scores.
    """
    values, slack = [], []
    for name, text in (("Dice", dice), ("IoU", iou)):
        try:
            values.append(float(text))
        except ValueError:
            raise ValueError(f"the {name} is {text!r}; expected a number such as 83.40 or 0.834") from None
        slack.append(10.0 ** -len(text.strip().partition(".")[2]))
    scale = 100.0 if max(values) > 1 else 1.0
    if scale > 1 and min(values) <= 1 and "." in (dice if values[0] < values[1] else iou):
        raise ValueError(
            f"Dice {dice} and IoU {iou} look like percent and a fraction; expected both in one unit, "
            "percent with two decimals"
        )
    dice_value, overlap = (value / scale for value in values)
    if not (0 <= dice_value <= 1 and 0 <= overlap <= 1):
        raise ValueError(f"Dice {dice} and IoU {iou} are no scores; expected 0 to 1, or 0 to 100 percent")
    pooled = 2 * overlap / (1 + overlap)
    tolerance = (slack[0] + slack[1] * 2 / (1 + overlap) ** 2) / scale
    gap, shown = (pooled - dice_value) * 100, f"2J/(1+J) is {pooled * scale:.{2 if scale > 1 else 4}f}"
    if abs(pooled - dice_value) <= tolerance and tolerance > MAX_SLACK:
        words = f"too few digits to decide: {shown}; give them as printed, such as 83.40 74.62"
        return PublishedPair("unknown", pooled * scale, words)
    if abs(pooled - dice_value) <= tolerance + 1e-12:
        words = (
            f"pooled, most likely: {shown}, which is the given Dice up to its last digit. (A mean over images that all "
            "have the same score would look the same.)"
        )
        return PublishedPair("pooled", pooled * scale, words)
    if dice_value > pooled:
        words = f"impossible: {shown}, and no mean over images can be above it; one of the two is something else"
        return PublishedPair("impossible", pooled * scale, words)
    if dice_value < overlap - sum(slack) / scale:
        words = "impossible: a Dice is never below its IoU; the two may be exchanged"
        return PublishedPair("impossible", pooled * scale, words)
    words = f"per image: {shown}, {gap:.2f} points above the given Dice; a pooled score could not differ"
    return PublishedPair("per image", pooled * scale, words)
