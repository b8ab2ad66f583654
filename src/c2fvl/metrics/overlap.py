"""Scores of one prediction against one mask, and the one place where empty masks are decided.

| case | corrected | published |
|---|---|---|
| both empty | Dice, IoU, precision, recall, lesions, surface within a tolerance 1; distances 0 | Dice, IoU 0 |
| false positive on an empty mask | all of these 0; distances are the picture's diagonal | 0 |
| missed lesion, nothing predicted | all of these 0; distances are the picture's diagonal | 0 |

Specificity is 1 where the mask covers the whole picture: nothing outside it can be marked wrongly. Nothing is dropped
from a mean. "published" repeats the test script of C2FVL, LViT and UCTransNet: Dice = 2I/(P + M + 1e-5), IoU = I/U and
0 where U = 0.
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
        """Return the number of pixels in either mask."""
        return self.prediction + self.target - self.intersection

    @property
    def is_false_positive(self) -> bool:
        """Tell whether something was predicted where nothing is."""
        return self.target == 0 and self.prediction > 0

    @property
    def is_missed(self) -> bool:
        """Tell whether a lesion is there and nothing of it was found."""
        return self.target > 0 and self.intersection == 0


def overlap(prediction: np.ndarray, target: np.ndarray) -> Overlap:
    """Count the pixels of two masks of one shape, of which everything but 0 is foreground.

    Raises `ValueError` where the shapes differ or an array is neither boolean nor whole-numbered: a probability map
    must be cut at its threshold first.
    """
    prediction, target = np.asarray(prediction), np.asarray(target)
    if prediction.shape != target.shape:
        raise ValueError(f"the prediction has the shape {prediction.shape} and the mask {target.shape}")
    for name, mask in (("prediction", prediction), ("mask", target)):
        if mask.dtype.kind not in "bui":
            raise ValueError(f"the {name} holds {mask.dtype}; expected is a mask of 0 and 1 (cut probabilities first)")
    found, true = prediction != 0, target != 0
    return Overlap(
        intersection=int(np.count_nonzero(found & true)),
        prediction=int(np.count_nonzero(found)),
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
    """Return Dice and IoU per image (mean over cases) and pooled (one count of all pixels), and the awkward cases.

    Raises `ValueError` for no cases: there is no score of nothing.
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
    """Return the summary of cases that each hold one overlap per class, background excluded.

    For one class it is that of `summarise`. For several, scores are averaged over the classes; an image counts as empty
    where no class is there, and as a false positive or as missed where any class is; "classes" holds the summary of
    each.
    """
    if not cases:
        raise ValueError("there are no cases to score")
    each = [summarise(of_class, protocol=protocol) for of_class in zip(*cases, strict=True)]
    if len(each) == 1:
        return each[0]
    scores = [name for name in each[0] if name.startswith(("dice", "iou"))]
    return {
        "num_cases": len(cases),
        **{name: float(np.mean([summary[name] for summary in each])) for name in scores},
        "num_empty_masks": sum(all(own.target == 0 for own in case) for case in cases),
        "num_false_positives": sum(any(own.is_false_positive for own in case) for case in cases),
        "num_missed_lesions": sum(any(own.is_missed for own in case) for case in cases),
        "classes": each,
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
