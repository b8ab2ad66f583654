"""Dice and IoU of one prediction and its mask; the one place that decides the scores of empty masks.

| case | corrected | published |
|---|---|---|
| both empty | Dice, IoU, precision, recall, lesions, surface within a tolerance 1; distances 0 | Dice, IoU 0 |
| false positive on an empty mask | all of these 0; distances are the diagonal of the image | 0 |
| missed lesion, nothing predicted | all of these 0; distances are the diagonal of the image | 0 |

Specificity is 1 if the mask covers the whole image: no pixel outside it can be a false positive. No case is left out of
a mean. "published" repeats the test script of C2FVL, LViT and UCTransNet: Dice = 2I/(P + M + 1e-5), IoU = I/U and 0 if
U = 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PUBLISHED_SMOOTHING = 1e-5
PROTOCOLS = ("corrected", "published")


@dataclass(frozen=True)
class Overlap:
    """Pixel counts of one case."""

    intersection: int
    prediction: int
    target: int

    @property
    def union(self) -> int:
        """The number of pixels in either mask."""
        return self.prediction + self.target - self.intersection

    @property
    def is_false_positive(self) -> bool:
        """Whether pixels are predicted, but the mask is empty."""
        return self.target == 0 and self.prediction > 0

    @property
    def is_missed(self) -> bool:
        """Whether the mask has a lesion, but no pixel of it is predicted."""
        return self.target > 0 and self.intersection == 0


def overlap(prediction: np.ndarray, target: np.ndarray) -> Overlap:
    """Count the pixels of two masks of one shape; every value but 0 is foreground.

    Raises `ValueError` if the shapes differ, or if an array is neither boolean nor integer: threshold a probability map
    first.
    """
    prediction, target = np.asarray(prediction), np.asarray(target)
    if prediction.shape != target.shape:
        raise ValueError(f"the prediction has the shape {prediction.shape} and the mask {target.shape}")
    for name, mask in (("prediction", prediction), ("mask", target)):
        if mask.dtype.kind not in "bui":
            raise ValueError(
                f"the {name} holds {mask.dtype}; expected a mask of 0 and 1 (threshold probabilities first)"
            )
    predicted, true = prediction != 0, target != 0
    return Overlap(
        intersection=int(np.count_nonzero(predicted & true)),
        prediction=int(np.count_nonzero(predicted)),
        target=int(np.count_nonzero(true)),
    )


def dice(counts: Overlap, *, protocol: str = "corrected") -> float:
    """Return 2I/(P + M) by the table above."""
    size = counts.prediction + counts.target
    if _checked(protocol) == "published":
        return 2 * counts.intersection / (size + PUBLISHED_SMOOTHING)
    return 2 * counts.intersection / size if size else 1.0


def iou(counts: Overlap, *, protocol: str = "corrected") -> float:
    """Return I/U by the table above."""
    if counts.union == 0:
        return 0.0 if _checked(protocol) == "published" else 1.0
    return counts.intersection / counts.union


def summarise(cases: Sequence[Overlap], *, protocol: str = "corrected") -> dict[str, float | int]:
    """Return Dice and IoU per image (mean over cases) and pooled (over all pixels), and counts of special cases.

    Raises `ValueError` for no cases.
    """
    if not cases:
        raise ValueError("there are no cases to score")
    pooled = pool(cases)
    return {
        "num_cases": len(cases),
        "dice_per_image": float(np.mean([dice(case, protocol=protocol) for case in cases])),
        "iou_per_image": float(np.mean([iou(case, protocol=protocol) for case in cases])),
        "dice_pooled": dice(pooled, protocol=protocol),
        "iou_pooled": iou(pooled, protocol=protocol),
        "num_empty_masks": sum(case.target == 0 for case in cases),
        "num_false_positives": sum(case.is_false_positive for case in cases),
        "num_missed_lesions": sum(case.is_missed for case in cases),
    }


def summarise_classes(cases: Sequence[Sequence[Overlap]], *, protocol: str = "corrected") -> dict[str, Any]:
    """Return the summary of cases with one overlap per class each, without background.

    For one class it is that of `summarise`. For several, scores are means over the classes; a case counts as empty if
    no class is present, and as false positive or missed if any class is; "classes" holds the summary of each.
    """
    if not cases:
        raise ValueError("there are no cases to score")
    summaries = [summarise(of_class, protocol=protocol) for of_class in zip(*cases, strict=True)]
    if len(summaries) == 1:
        return summaries[0]
    scores = [name for name in summaries[0] if name.startswith(("dice", "iou"))]
    return {
        "num_cases": len(cases),
        **{name: float(np.mean([summary[name] for summary in summaries])) for name in scores},
        "num_empty_masks": sum(all(counts.target == 0 for counts in case) for case in cases),
        "num_false_positives": sum(any(counts.is_false_positive for counts in case) for case in cases),
        "num_missed_lesions": sum(any(counts.is_missed for counts in case) for case in cases),
        "classes": summaries,
    }


def pool(cases: Iterable[Overlap]) -> Overlap:
    """Return the counts of all cases together."""
    cases = list(cases)
    return Overlap(
        intersection=sum(case.intersection for case in cases),
        prediction=sum(case.prediction for case in cases),
        target=sum(case.target for case in cases),
    )


def _checked(protocol: str) -> str:
    if protocol not in PROTOCOLS:
        raise ValueError(f"the scoring protocol is {protocol!r}; it must be one of {', '.join(PROTOCOLS)}")
    return protocol
