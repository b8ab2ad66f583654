"""Scores of one prediction against one mask, and the one place where empty masks are decided.

| case | ours | published |
|---|---|---|
| both empty | Dice, IoU, precision, recall, lesions, surface within a tolerance 1; distances 0 | Dice, IoU 0 |
| false alarm on an empty mask | all of these 0; distances are the picture's diagonal | 0 |
| missed lesion, nothing predicted | all of these 0; distances are the picture's diagonal | 0 |

Specificity is 1 where the mask covers the whole picture: nothing outside it can be marked wrongly. Nothing is dropped
from a mean. "published" repeats the test script of C2FVL, LViT and UCTransNet: Dice = 2I/(P + M + 1e-5), IoU = I/U and
0 where U = 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from c2fvl.describe import zone_areas
from c2fvl.lesions import Lesions, lesions
from c2fvl.surfaces import PERCENTILE, surface_distances

TOLERANCES = (1.0, 3.0)
"""Of the normalised surface distance, in the unit of the spacing."""
MATCHED_AT = (0.1, 0.5)
"""IoU from which a lesion counts as found."""
LESION_SIZES = {"small": 0.0, "medium": 0.01, "large": 0.05}
"""Size of a lesion: the share of the picture from which it counts so."""
PUBLISHED_SMOOTHING = 1e-5
RULES = ("ours", "published")


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
    def is_false_alarm(self) -> bool:
        """Tell whether something was predicted where nothing is."""
        return self.target == 0 and self.prediction > 0

    @property
    def is_miss(self) -> bool:
        """Tell whether a lesion is there and nothing of it was found."""
        return self.target > 0 and self.intersection == 0


def score_case(
    prediction: np.ndarray,
    target: np.ndarray,
    *,
    spacing: tuple[float, float] = (1.0, 1.0),
    tolerances: Sequence[float] = TOLERANCES,
) -> dict[str, float]:
    """Return every score of one prediction (H, W) against its mask (H, W), by the table above.

    `spacing` is the distance of rows and of columns, in mm or, as it is by default, in pixels; distances and tolerances
    are in its unit, areas in its square. Keys:

    - dice, iou, precision, recall, specificity: of pixels;
    - hd, hd95, assd: Hausdorff distance, the larger 95th percentile of both directions, average symmetric surface
      distance; nsd_T: share of both surfaces within the tolerance T;
    - area, area_target, area_difference (the first less the second), and area_ZONE, area_target_ZONE for each lung zone
      as `zone_areas` cuts them, in the viewer's frame;
    - lesions, lesions_target: how many; lesion_precision_U, lesion_recall_U, lesion_f1_U: of lesions paired one to one
      at IoU ≥ U percent;
    - lesions_target_SIZE, lesions_missed_SIZE: how many lesions of each of `LESION_SIZES` there are, and how many of
      them are not found at the least of these IoU.

    Raises `ValueError` as `overlap`, and for masks that are not (H, W) or a spacing or tolerance that is not positive.
    """
    counts = overlap(prediction, target)
    found, true = np.asarray(prediction) != 0, np.asarray(target) != 0
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"the masks have the shape {found.shape}; expected is (H, W)")
    if len(np.shape(spacing)) != 1 or len(spacing) != 2:
        raise ValueError(f"the spacing is {spacing!r}; expected are two numbers, of rows and of columns: (0.14, 0.14)")
    for name, numbers in (("spacing", spacing), ("tolerances", tolerances)):
        if not all(np.isfinite(number) and number > 0 for number in numbers):
            raise ValueError(f"the {name} is {tuple(numbers)}; expected are numbers above 0")
    background = found.size - counts.target
    wrong = counts.prediction - counts.intersection
    scores = {
        "dice": dice(counts),
        "iou": iou(counts),
        "precision": _share(counts.intersection, counts.prediction, empty=counts.union == 0),
        "recall": _share(counts.intersection, counts.target, empty=counts.union == 0),
        "specificity": (background - wrong) / background if background else 1.0,
    }
    diagonal = float(np.hypot(found.shape[0] * spacing[0], found.shape[1] * spacing[1]))
    surfaces = surface_distances(found, true, spacing)
    scores["hd"] = diagonal if surfaces is None else surfaces.hausdorff()
    scores[f"hd{PERCENTILE}"] = diagonal if surfaces is None else surfaces.hausdorff_95()
    scores["assd"] = diagonal if surfaces is None else surfaces.mean()
    for tolerance in tolerances:
        scores[f"nsd_{tolerance:g}"] = 0.0 if surfaces is None else surfaces.within(tolerance)
    pixel = spacing[0] * spacing[1]
    scores["area"], scores["area_target"] = counts.prediction * pixel, counts.target * pixel
    scores["area_difference"] = (counts.prediction - counts.target) * pixel
    for name, mask in (("area", found), ("area_target", true)):
        scores |= {f"{name}_{zone}": pixels * pixel for zone, pixels in zone_areas(mask).items()}
    return scores | _score_lesions(lesions(found, true), num_pixels=found.size)


def _score_lesions(pairs: Lesions, *, num_pixels: int) -> dict[str, float]:
    everything = len(pairs.predicted) + len(pairs.true)
    scores = {"lesions": float(len(pairs.predicted)), "lesions_target": float(len(pairs.true))}
    for least in MATCHED_AT:
        hits, key = int(pairs.found(least).sum()), f"{100 * least:.0f}"
        scores[f"lesion_precision_{key}"] = _share(hits, len(pairs.predicted), empty=not everything)
        scores[f"lesion_recall_{key}"] = _share(hits, len(pairs.true), empty=not everything)
        scores[f"lesion_f1_{key}"] = _share(2 * hits, everything, empty=not everything)
    missed = ~pairs.found(MATCHED_AT[0])
    size = np.searchsorted(list(LESION_SIZES.values()), pairs.true / num_pixels, side="right") - 1
    for number, name in enumerate(LESION_SIZES):
        scores[f"lesions_target_{name}"] = float(np.count_nonzero(size == number))
        scores[f"lesions_missed_{name}"] = float(np.count_nonzero(missed & (size == number)))
    return scores


def _share(part: int, whole: int, *, empty: bool) -> float:
    """Return part / whole; by the table where the whole is nothing."""
    if whole:
        return part / whole
    return 1.0 if empty else 0.0


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


def dice(counts: Overlap, *, rule: str = "ours") -> float:
    """Return 2I/(P + M) by the rule of the table above."""
    size = counts.prediction + counts.target
    if _checked(rule) == "published":
        return 2 * counts.intersection / (size + PUBLISHED_SMOOTHING)
    return 2 * counts.intersection / size if size else 1.0


def iou(counts: Overlap, *, rule: str = "ours") -> float:
    """Return I/U by the rule of the table above."""
    if counts.union == 0:
        return 0.0 if _checked(rule) == "published" else 1.0
    return counts.intersection / counts.union


def summarise(cases: Sequence[Overlap], *, rule: str = "ours") -> dict[str, float | int]:
    """Return Dice and IoU per image (mean over cases) and pooled (one count of all pixels), and the awkward cases.

    Raises `ValueError` for no cases: there is no score of nothing.
    """
    if not cases:
        raise ValueError("there are no cases to score")
    pooled = pool(cases)
    return {
        "num_cases": len(cases),
        "dice_per_image": float(np.mean([dice(case, rule=rule) for case in cases])),
        "iou_per_image": float(np.mean([iou(case, rule=rule) for case in cases])),
        "dice_pooled": dice(pooled, rule=rule),
        "iou_pooled": iou(pooled, rule=rule),
        "num_empty_masks": sum(case.target == 0 for case in cases),
        "num_false_alarms": sum(case.is_false_alarm for case in cases),
        "num_misses": sum(case.is_miss for case in cases),
    }


def summarise_classes(cases: Sequence[Sequence[Overlap]], *, rule: str = "ours") -> dict[str, Any]:
    """Return the summary of cases that each hold one overlap per class, background excluded.

    For one class it is that of `summarise`. For several, scores are the means over the classes; films count as empty
    where none of the classes is there, as a false alarm or a miss where any of them is; "classes" holds the summary of
    each.
    """
    if not cases:
        raise ValueError("there are no cases to score")
    each = [summarise(of_class, rule=rule) for of_class in zip(*cases, strict=True)]
    if len(each) == 1:
        return each[0]
    scores = [name for name in each[0] if name.startswith(("dice", "iou"))]
    return {
        "num_cases": len(cases),
        **{name: float(np.mean([summary[name] for summary in each])) for name in scores},
        "num_empty_masks": sum(all(own.target == 0 for own in case) for case in cases),
        "num_false_alarms": sum(any(own.is_false_alarm for own in case) for case in cases),
        "num_misses": sum(any(own.is_miss for own in case) for case in cases),
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


def _checked(rule: str) -> str:
    if rule not in RULES:
        raise ValueError(f"the rule is {rule!r}; known are {', '.join(RULES)}")
    return rule
