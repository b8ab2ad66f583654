"""From probabilities to masks, by hand."""

import numpy as np
import pytest

from c2fvl.inference.masks import to_labels, to_original


@pytest.mark.parametrize("threshold", [0.5, 0.25])
def test_a_pixel_at_the_threshold_is_lesion(threshold):
    below, above = np.nextafter(np.float32(threshold), np.float32([0, 1]))
    found = to_labels(np.array([[below, threshold, above]], np.float32), threshold)
    assert found.tolist() == [[0, 1, 1]]
    assert found.dtype == np.uint8


def test_of_several_classes_the_most_probable_is_taken():
    probability = np.array([[[0.5, 0.2]], [[0.3, 0.3]], [[0.2, 0.5]]], np.float32)  # (classes, 1, 2)
    assert to_labels(probability).tolist() == [[0, 2]]


def test_a_map_is_brought_to_height_and_width_of_its_image():
    probability = np.zeros((4, 4), np.float32)
    probability[0, 3] = 1  # above, on the right
    found = to_original(probability, (8, 16))
    assert found.shape == (8, 16)
    assert found[0, 15] == 1
    assert found[4:].max() == found[:, :8].max() == 0
    assert to_original(np.stack([probability, probability]), (8, 16)).shape == (2, 8, 16)
    assert to_original(probability, (4, 4)) is probability
