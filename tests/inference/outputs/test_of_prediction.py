"""What clinical files say of a prediction with several classes: zones and sizes are those of the lesion."""

import numpy as np
import pytest

from c2fvl.files.picture import Picture
from c2fvl.inference.outputs.of_prediction import info_of, overlay_in_file, sentence_of
from c2fvl.inference.prediction import Given, PredictedBy, Prediction


def prediction_of(upright, classes, **lie):
    """Return a prediction whose upright mask is given, of a file that lies otherwise."""
    picture = Picture(np.full(upright.shape, 0.4, np.float32), "dicom", orientation_source="file", **lie)
    model = PredictedBy("mynet", "preset", "folder", "ab" * 32, 0.5, None, False, tuple(classes), False)
    mask = picture.to_file(upright.astype(np.uint8))
    return Prediction(mask, np.zeros((len(classes) + 1, *mask.shape), np.float32), picture, Given(), model)


def upright_mask():
    """Both lungs as class 1, and a lesion of class 2 low in the lung at the left of the upright image."""
    mask = np.zeros((90, 60))
    mask[5:85, 5:25] = mask[5:85, 35:55] = 1
    mask[70:80, 8:20] = 2
    return mask


@pytest.mark.parametrize("lie", [{}, {"mirrored": True}, {"transposed": True}, {"flipped": True, "mirrored": True}])
def test_zones_are_those_of_the_lesion_and_not_of_the_lungs(lie):
    prediction = prediction_of(upright_mask(), ["lung", "lesion"], **lie)
    about = info_of(prediction)
    assert about.zones == {"rlower"}  # of the patient
    expected = 100 * 120 / (90 * 60)
    sentence = f"Lesion segmented in the patient's right lower zone; {expected:.1f} % of the image."
    assert sentence_of(prediction, about) == sentence


def test_a_network_for_organs_finds_no_lesion_and_says_what_it_segments():
    prediction = prediction_of(upright_mask(), ["lung", "heart"])
    about = info_of(prediction)
    assert not about.zones
    assert sentence_of(prediction, about) == "Segmented: lung, heart. No lesion was looked for."


def test_an_empty_mask_says_so():
    prediction = prediction_of(np.zeros((90, 60)), ["lung", "lesion"])
    assert sentence_of(prediction, info_of(prediction)) == "No lesion was segmented."


@pytest.mark.parametrize("lie", [{}, {"mirrored": True}, {"transposed": True}])
def test_the_overlay_lies_as_the_file_does(lie):
    prediction = prediction_of(upright_mask(), ["lung", "lesion"], **lie)
    drawn = overlay_in_file(prediction)
    assert drawn.shape == (*prediction.mask.shape, 3)
    is_coloured = np.ptp(drawn.astype(int), axis=2) > 20
    assert (is_coloured == (prediction.mask > 0)).mean() > 0.97
