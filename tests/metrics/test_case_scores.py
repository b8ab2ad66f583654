"""Every score of one case equals an independent computation of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial.distance import cdist
from sklearn.metrics import precision_score, recall_score

from c2fvl.metrics.case_scores import MATCHED_AT, TOLERANCES, score_case
from c2fvl.metrics.lesions import Lesions

masks = arrays(np.uint8, (7, 6), elements=st.integers(0, 1))
spacings = st.sampled_from([(1.0, 1.0), (0.7, 0.7), (2.0, 0.5)])
EMPTY, FULL = np.zeros((9, 12), np.uint8), np.ones((9, 12), np.uint8)
PIXEL, CORNER = EMPTY.copy(), EMPTY.copy()
PIXEL[4, 5] = CORNER[0, 0] = 1


def surface(mask, spacing):
    """Return the centres of the pixels that erosion by a cross takes away."""
    return np.argwhere(mask.astype(bool) & ~ndimage.binary_erosion(mask)) * np.array(spacing)


def distances(first, second, spacing):
    every = cdist(surface(first, spacing), surface(second, spacing))
    return every.min(axis=1), every.min(axis=0)


@given(masks, masks)
def test_pixels_equal_scikit_learn(prediction, target):
    found = score_case(prediction, target)
    empty = 1.0 if not prediction.any() and not target.any() else 0.0
    true, guessed = target.ravel(), prediction.ravel()
    assert found["precision"] == pytest.approx(precision_score(true, guessed, zero_division=empty))
    assert found["recall"] == pytest.approx(recall_score(true, guessed, zero_division=empty))
    assert found["specificity"] == pytest.approx(recall_score(true, guessed, pos_label=0, zero_division=1.0))


@settings(deadline=None)
@given(masks, masks, spacings)
def test_distances_equal_all_pairs(prediction, target, spacing):
    if not prediction.any() or not target.any():
        return
    found = score_case(prediction, target, spacing=spacing)
    there, back = distances(prediction, target, spacing)
    together = np.concatenate([there, back])
    assert found["hd"] == pytest.approx(together.max())
    assert found["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert found["assd"] == pytest.approx(together.mean())
    for tolerance in TOLERANCES:
        assert found[f"nsd_{tolerance:g}"] == pytest.approx((together <= tolerance).mean())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of MONAI, of itself
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 0.5)])
def test_distances_equal_monai(spacing):
    monai = pytest.importorskip("monai.metrics")
    import torch

    rng = np.random.default_rng(3)
    for _ in range(8):
        prediction, target = (ndimage.gaussian_filter(rng.random((40, 33)), 3) > 0.5 for _ in range(2))
        found = score_case(prediction, target, spacing=spacing)
        both = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, target)]
        options = {"include_background": True, "spacing": spacing}
        assert found["hd"] == pytest.approx(monai.compute_hausdorff_distance(*both, **options).item(), rel=1e-5)
        found_95 = monai.compute_hausdorff_distance(*both, percentile=95, **options).item()
        assert found["hd95"] == pytest.approx(found_95, rel=1e-5)
        assd = monai.compute_average_surface_distance(*both, symmetric=True, **options).item()
        assert found["assd"] == pytest.approx(assd, rel=1e-5)
        within = monai.compute_surface_dice(*both, class_thresholds=[TOLERANCES[1]], **options).item()
        assert found[f"nsd_{TOLERANCES[1]:g}"] == pytest.approx(within, rel=1e-5)


def test_distances_by_hand():
    moved = np.roll(PIXEL, (1, 3), axis=(0, 1))
    found = score_case(PIXEL, moved, spacing=(2.0, 0.5))
    apart = np.hypot(2.0, 1.5)
    assert (found["hd"], found["hd95"], found["assd"]) == (apart, apart, apart)
    assert (found["nsd_1"], found["nsd_3"]) == (0.0, 1.0)
    assert score_case(FULL, FULL)["hd"] == 0  # the surface of a full picture is its border
    assert score_case(CORNER, FULL)["hd"] == pytest.approx(np.hypot(8, 11))


@pytest.mark.parametrize(
    ("prediction", "target", "fraction", "distance"),
    [(EMPTY, EMPTY, 1.0, 0.0), (FULL, EMPTY, 0.0, 15.0), (EMPTY, FULL, 0.0, 15.0), (EMPTY, PIXEL, 0.0, 15.0)],
    ids=["both empty", "false alarm", "missed full", "missed pixel"],
)
def test_the_table_of_empty_masks(prediction, target, fraction, distance):
    found = score_case(prediction, target)
    fractions = ("dice", "iou", "precision", "recall", "nsd_1", "nsd_3")
    lesions = [f"lesion_{name}_{100 * minimum:.0f}" for name in ("precision", "recall", "f1") for minimum in MATCHED_AT]
    assert {name: found[name] for name in (*fractions, *lesions)} == dict.fromkeys((*fractions, *lesions), fraction)
    assert (found["hd"], found["hd95"], found["assd"]) == (distance, distance, distance)  # 9 × 12: a diagonal of 15
    assert score_case(EMPTY, FULL)["specificity"] == score_case(FULL, FULL)["specificity"] == 1.0
    assert score_case(FULL, EMPTY)["specificity"] == 0.0


def test_lesions_are_paired_one_to_one():
    target, prediction = np.zeros((10, 30), np.uint8), np.zeros((10, 30), np.uint8)
    target[1:5, 1:11] = target[6:9, 1:4] = target[1:9, 20:28] = 1  # 40, 9 and 64 pixels
    prediction[1:5, 1:5] = prediction[1:5, 7:11] = 1  # two halves of the first: 16 / 40 each
    prediction[1:9, 20:27] = prediction[0, 29] = 1  # 56 / 64 of the third; a pixel of nothing
    found = score_case(prediction, target)
    assert (found["lesions"], found["lesions_target"]) == (4, 3)
    assert found["lesion_recall_10"] == pytest.approx(2 / 3)
    assert found["lesion_precision_10"] == pytest.approx(2 / 4)
    assert found["lesion_f1_10"] == pytest.approx(2 * 2 / 7)
    assert found["lesion_recall_50"] == pytest.approx(1 / 3)
    assert found["lesion_precision_50"] == pytest.approx(1 / 4)
    sizes = {"small": (0, 0), "medium": (1, 1), "large": (2, 0)}  # 9 of 300 pixels is missed, 40 and 64 are not
    for name, (there, missed) in sizes.items():
        assert (found[f"lesions_target_{name}"], found[f"lesions_missed_{name}"]) == (there, missed)
    nothing = score_case(np.zeros_like(target), target)
    assert sum(nothing[f"lesions_missed_{name}"] for name in sizes) == 3


def test_as_many_lesions_are_paired_as_can_be():
    """The larger overlap of one pair must not take the only partner of another."""
    target, prediction = np.zeros((4, 20), np.uint8), np.zeros((4, 20), np.uint8)
    target[1, 0:8] = target[1, 9:17] = 1
    prediction[1, 5:14] = 1  # touches both
    prediction[3, 0:2] = 1
    assert score_case(prediction, target)["lesion_recall_10"] == 0.5
    prediction[1, 0:3] = 1  # a second area on the first lesion alone
    assert score_case(prediction, target)["lesion_recall_10"] == 1.0


def test_pairs_below_the_minimum_take_no_partner_away():
    """All pairs together overlap most across the diagonal, but one of these two pairs does not count."""
    found = Lesions(np.array([10, 10]), np.array([10, 10]), np.array([[0.5, 0.9], [0.2, 0.5]]))
    assert found.detected(0.5).tolist() == [True, True]
    assert found.detected(0.6).tolist() == [False, True]


@given(masks, spacings)
def test_areas_by_zone_add_up(mask, spacing):
    found = score_case(mask, mask, spacing=spacing)
    zones = [value for name, value in found.items() if name.startswith("area_target_")]
    assert len(zones) == 6
    assert sum(zones) == pytest.approx(found["area_target"]) == pytest.approx(mask.sum() * spacing[0] * spacing[1])
    assert found["area_difference"] == 0


@pytest.mark.parametrize(
    ("prediction", "target", "options", "message"),
    [
        (EMPTY, EMPTY[:5], {}, r"shape \(9, 12\) and the mask \(5, 12\)"),
        (EMPTY.astype(np.float32), EMPTY, {}, "threshold probabilities first"),
        (EMPTY, EMPTY * np.nan, {}, "threshold probabilities first"),
        (EMPTY[None], EMPTY[None], {}, r"expected \(H, W\)"),
        (EMPTY[:0], EMPTY[:0], {}, r"expected \(H, W\)"),
        (EMPTY, EMPTY, {"spacing": (0.0, 1.0)}, "the spacing is"),
        (EMPTY, EMPTY, {"spacing": 0.14}, "two numbers"),
        (EMPTY, EMPTY, {"spacing": (1.0, 1.0, 1.0)}, "two numbers"),
        (EMPTY, EMPTY, {"spacing": (np.nan, 1.0)}, "the spacing is"),
        (EMPTY, EMPTY, {"tolerances": (-1.0,)}, "the tolerances is"),
    ],
)
def test_what_is_no_pair_of_masks_is_refused(prediction, target, options, message):
    with pytest.raises(ValueError, match=message):
        score_case(prediction, target, **options)
