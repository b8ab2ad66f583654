"""From the file to the patient's side: every turned and mirrored file names the same side, and none that it assumes."""

import dataclasses

import numpy as np
import pytest

from c2fvl.files.picture import Picture
from c2fvl.inference.outputs.result_info import ResultInfo, orientation_of_picture, patient_zones

pytest.importorskip("highdicom", reason="highdicom is not installed")

from support.clinical_files import dicom, validation_errors
from support.dicom import film

from c2fvl.files.dicom_film import read_film
from c2fvl.inference.outputs.secondary_capture import secondary_capture
from c2fvl.inference.outputs.seg import segmentation
from c2fvl.inference.outputs.sides import has_sides, orientation_of, remark_on_sides
from c2fvl.inference.outputs.structured_report import report

ABOUT = ResultInfo("filmfirst", "ab" * 32, zones=frozenset({"rlower"}))
FRONTAL = [(a, b) for a in "LR" for b in "FH"] + [(b, a) for a in "LR" for b in "FH"]


def made_film(orientation, shape=(60, 48), **values):
    grey = (np.random.default_rng(0).random(shape) * 4000).astype(np.uint16)
    return film(grey, bits=12, PatientOrientation=None if orientation is None else list(orientation), **values)


def regions_of(made):
    found = []
    for region in made.SegmentSequence[0].AnatomicRegionSequence:
        sides = [item.CodeMeaning for item in region.get("AnatomicRegionModifierSequence", [])]
        found.append((region.CodeMeaning, *sides))
    return found


@pytest.mark.parametrize("orientation", FRONTAL, ids="".join)
def test_a_lesion_of_the_patients_right_is_coded_right_in_every_file(orientation):
    source = made_film(orientation)
    picture = read_film(source)
    assert orientation_of_picture(picture) == orientation
    upright = np.zeros(picture.pixels.shape[:2], np.uint8)
    upright[-12:-5, 4:12] = 1  # the patient's right, at the left of an upright image
    zones = patient_zones(upright)
    mask = picture.to_file(upright)
    assert mask.shape == (source.Rows, source.Columns)
    made = segmentation(source, mask, dataclasses.replace(ABOUT, zones=zones))
    assert regions_of(made) == [("Lower zone of lung", "Right")]
    assert tuple(made.PatientOrientation) == orientation
    row, column = (int(place.mean()) for place in np.nonzero(mask))
    for direction, place, length in ((orientation[0], column, source.Columns), (orientation[1], row, source.Rows)):
        towards_start = place < length / 2
        assert direction in ({"L", "H"} if towards_start else {"R", "F"})  # away from the lesion, low on the right


def test_an_orientation_that_is_assumed_or_given_follows_the_picture():
    pixels = np.zeros((4, 6), np.float32)
    assert orientation_of_picture(Picture(pixels, "dicom")) is None
    given = Picture(pixels, "png", mirrored=True, orientation_source="given")
    assert orientation_of_picture(given) == ("R", "F")


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (["l", "f"], ("L", "F")),
        ([" R", "F "], ("R", "F")),
        (["LP", "FA"], ("LP", "FA")),
        (["A", "F"], ("A", "F")),
        (["X", "Y"], None),
        (["L"], None),
        (["L", "R"], None),
        (["L", "P"], None),
        ("", None),
        (None, None),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")
def test_only_orientations_of_a_radiograph_are_believed(stated, expected, tmp_path):
    source = dicom("dicomdirtests/77654033/CR1/6154")
    source.PatientOrientation = stated
    assert orientation_of(source) == expected
    mask = np.ones((source.Rows, source.Columns), np.uint8)
    made = segmentation(source, mask, ABOUT)
    assert tuple(made.PatientOrientation or ()) == (expected or ())
    assert (len(regions_of(made)[0]) == 2) == has_sides(expected)
    made.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    assert validation_errors(tmp_path / "seg.dcm") == []


def test_the_directions_of_an_animal_are_other_words():
    source = dicom("dicomdirtests/77654033/CR1/6154")
    source.AnatomicalOrientationType = "QUADRUPED"
    assert orientation_of(source) is None


def test_a_lateral_image_has_no_side_and_no_letters():
    source = made_film(("A", "F"), shape=(300, 300))
    assert "seen from the side" in remark_on_sides(orientation_of(source))
    made = segmentation(source, np.ones((300, 300), np.uint8), ABOUT)
    assert regions_of(made) == [("Lower zone of lung",)]
    assert "seen from the side" in made.SegmentSequence[0].SegmentDescription
    grey = np.full((300, 300, 3), 90, np.uint8)
    drawn = secondary_capture(source, grey, ABOUT).pixel_array
    assert (drawn[:240] == 90).all()
    texts = [element.value for element in report(source, "Lesion.", ABOUT).iterall() if element.keyword == "TextValue"]
    assert any("seen from the side" in text for text in texts)


@pytest.mark.parametrize("orientation", [("L", "R"), ("X", "F"), ("L",), ("l", "f"), ()])
def test_a_given_orientation_must_be_one(orientation):
    with pytest.raises(ValueError, match="expected where the rows and the columns run"):
        dataclasses.replace(ABOUT, orientation=orientation)
