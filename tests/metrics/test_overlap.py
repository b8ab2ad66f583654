import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, jaccard_score

from c2fvl.metrics.overlap import Overlap, dice, iou, overlap, pool, summarise

masks = arrays(np.uint8, (6, 5), elements=st.integers(0, 1))
EMPTY, FULL = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)


@given(masks, masks)
def test_equals_scikit_learn(prediction, target):
    counts = overlap(prediction, target)
    if prediction.any() or target.any():
        assert dice(counts) == pytest.approx(f1_score(target.ravel(), prediction.ravel(), zero_division=0))
        assert iou(counts) == pytest.approx(jaccard_score(target.ravel(), prediction.ravel(), zero_division=0))


@given(masks, masks)
def test_bounds_symmetry_and_their_relation(prediction, target):
    counts, swapped = overlap(prediction, target), overlap(target, prediction)
    assert 0 <= iou(counts) <= dice(counts) <= 1
    assert dice(counts) == dice(swapped)
    assert dice(counts) == pytest.approx(2 * iou(counts) / (1 + iou(counts)))
    assert (dice(counts) == 1) == bool((prediction == target).all())


@pytest.mark.parametrize(
    ("prediction", "target", "ours", "published"),
    [(EMPTY, EMPTY, 1.0, 0.0), (FULL, EMPTY, 0.0, 0.0), (EMPTY, FULL, 0.0, 0.0)],
    ids=["both empty", "false alarm", "missed lesion"],
)
def test_the_table_of_empty_masks(prediction, target, ours, published):
    counts = overlap(prediction, target)
    assert (dice(counts), iou(counts)) == (ours, ours)
    assert (dice(counts, protocol="published"), iou(counts, protocol="published")) == (published, published)


def test_published_protocol_by_hand():
    counts = Overlap(intersection=3, prediction=5, target=4)
    assert dice(counts, protocol="published") == 6 / (9 + 1e-5)
    assert iou(counts, protocol="published") == 3 / 6


def test_summary_by_hand():
    cases = [Overlap(2, 2, 2), Overlap(0, 3, 0), Overlap(0, 0, 4), Overlap(0, 0, 0), Overlap(1, 2, 2), Overlap(0, 1, 1)]
    found = summarise(cases)
    assert found["num_cases"] == 6
    assert found["dice_per_image"] == pytest.approx((1 + 0 + 0 + 1 + 0.5 + 0) / 6)
    assert found["iou_per_image"] == pytest.approx((1 + 0 + 0 + 1 + 1 / 3 + 0) / 6)
    assert found["dice_pooled"] == pytest.approx(2 * 3 / (8 + 9))
    assert found["iou_pooled"] == pytest.approx(3 / 14)
    assert (found["num_empty_masks"], found["num_false_positives"], found["num_missed_lesions"]) == (2, 1, 2)


@given(st.lists(st.tuples(masks, masks), min_size=1, max_size=5))
def test_pooled_is_one_big_case(pairs):
    together = overlap(np.concatenate([p for p, _ in pairs]), np.concatenate([t for _, t in pairs]))
    assert pool(overlap(p, t) for p, t in pairs) == together


@pytest.mark.parametrize("value", [1, 255, True])
def test_any_foreground_value_counts(value):
    assert overlap(np.full((2, 2), value), np.ones((2, 2), bool)) == Overlap(4, 4, 4)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"shape \(4, 4\).*\(2, 4\)"):
        overlap(EMPTY, EMPTY[:2])
    with pytest.raises(ValueError, match="threshold probabilities first"):
        overlap(EMPTY.astype(np.float32), EMPTY)
    with pytest.raises(ValueError, match="must be one of corrected, published"):
        dice(Overlap(1, 1, 1), protocol="theirs")
    with pytest.raises(ValueError, match="no cases"):
        summarise([])


def test_large_counts_do_not_overflow():
    many = Overlap(2**40, 2**41, 2**41)
    assert dice(pool([many] * 1000)) == 0.5
    assert math.isclose(iou(many), 2**40 / (2**42 - 2**40))
