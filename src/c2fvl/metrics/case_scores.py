"""Every score of one case."""

from collections.abc import Sequence

import numpy as np

from c2fvl.metrics.lesions import Lesions, lesions
from c2fvl.metrics.overlap import dice, iou, overlap
from c2fvl.metrics.surfaces import PERCENTILE, surface_distances
from c2fvl.reports.from_mask import zone_areas
from c2fvl.reports.zones import third_key

TOLERANCES = (1.0, 3.0)
"""Tolerances of the normalised surface distance, in the unit of the spacing."""
MATCHED_AT = (0.1, 0.5)
"""Minimum IoU at which a lesion counts as detected."""
LESION_SIZES = {"small": 0.0, "medium": 0.01, "large": 0.05}
"""Size of a lesion and the fraction of the image at which it begins."""


def score_case(
    prediction: np.ndarray,
    target: np.ndarray,
    *,
    spacing: tuple[float, float] = (1.0, 1.0),
    tolerances: Sequence[float] = TOLERANCES,
) -> dict[str, float]:
    """Return every score of one prediction (H, W) against its mask (H, W); empty masks as in the table of `overlap`.

    `spacing` is the distance of rows and of columns, in mm or, by default, in pixels; distances and tolerances are in
    its unit, areas in its square. Keys:

    - dice, iou, precision, recall, specificity: of pixels;
    - hd, hd95, assd: Hausdorff distance, the larger 95th percentile of both directions, average symmetric surface
      distance; nsd_T: fraction of both surfaces within the tolerance T;
    - area, area_target, area_difference (prediction minus target), and area_THIRD, area_target_THIRD for each third of
      the height of each half, such as area_image_left_upper_third;
    - lesions, lesions_target: counts; lesion_precision_U, lesion_recall_U, lesion_f1_U: of lesions matched one to one
      at IoU ≥ U percent;
    - lesions_target_SIZE, lesions_missed_SIZE: the number of lesions of each of `LESION_SIZES`, and of those that are
      not detected at the lowest of these IoU.

    Raises `ValueError` as `overlap`, for masks that are not (H, W), and for a spacing or tolerance of 0 or less.
    """
    counts = overlap(prediction, target)
    predicted, true = np.asarray(prediction) != 0, np.asarray(target) != 0
    if predicted.ndim != 2 or 0 in predicted.shape:
        raise ValueError(f"the masks have the shape {predicted.shape}; expected (H, W)")
    if len(np.shape(spacing)) != 1 or len(spacing) != 2:
        raise ValueError(f"the spacing is {spacing!r}; expected two numbers, of rows and of columns: (0.14, 0.14)")
    for name, numbers in (("spacing", spacing), ("tolerances", tolerances)):
        if not all(np.isfinite(number) and number > 0 for number in numbers):
            raise ValueError(f"the {name} is {tuple(numbers)}; expected numbers above 0")
    background = predicted.size - counts.target
    false_positives = counts.prediction - counts.intersection
    scores = {
        "dice": dice(counts),
        "iou": iou(counts),
        "precision": _fraction(counts.intersection, counts.prediction, empty=counts.union == 0),
        "recall": _fraction(counts.intersection, counts.target, empty=counts.union == 0),
        "specificity": (background - false_positives) / background if background else 1.0,
    }
    diagonal = float(np.hypot(predicted.shape[0] * spacing[0], predicted.shape[1] * spacing[1]))
    surfaces = surface_distances(predicted, true, spacing)
    scores["hd"] = diagonal if surfaces is None else surfaces.hausdorff()
    scores[f"hd{PERCENTILE}"] = diagonal if surfaces is None else surfaces.hausdorff_95()
    scores["assd"] = diagonal if surfaces is None else surfaces.mean()
    for tolerance in tolerances:
        scores[f"nsd_{tolerance:g}"] = 0.0 if surfaces is None else surfaces.within(tolerance)
    pixel = spacing[0] * spacing[1]
    scores["area"], scores["area_target"] = counts.prediction * pixel, counts.target * pixel
    scores["area_difference"] = (counts.prediction - counts.target) * pixel
    for name, mask in (("area", predicted), ("area_target", true)):
        zones = zone_areas(mask).items()
        scores |= {f"{name}_{third_key(zone)}": pixels * pixel for zone, pixels in zones}
    return scores | _score_lesions(lesions(predicted, true), num_pixels=predicted.size)


def _score_lesions(pairs: Lesions, *, num_pixels: int) -> dict[str, float]:
    total = len(pairs.predicted) + len(pairs.true)
    scores = {"lesions": float(len(pairs.predicted)), "lesions_target": float(len(pairs.true))}
    for minimum in MATCHED_AT:
        hits, key = int(pairs.detected(minimum).sum()), f"{100 * minimum:.0f}"
        scores[f"lesion_precision_{key}"] = _fraction(hits, len(pairs.predicted), empty=not total)
        scores[f"lesion_recall_{key}"] = _fraction(hits, len(pairs.true), empty=not total)
        scores[f"lesion_f1_{key}"] = _fraction(2 * hits, total, empty=not total)
    missed = ~pairs.detected(MATCHED_AT[0])
    size = np.searchsorted(list(LESION_SIZES.values()), pairs.true / num_pixels, side="right") - 1
    for number, name in enumerate(LESION_SIZES):
        scores[f"lesions_target_{name}"] = float(np.count_nonzero(size == number))
        scores[f"lesions_missed_{name}"] = float(np.count_nonzero(missed & (size == number)))
    return scores


def _fraction(part: int, whole: int, *, empty: bool) -> float:
    """Return part / whole; for a whole of 0, the value of the table of empty masks."""
    if whole:
        return part / whole
    return 1.0 if empty else 0.0
