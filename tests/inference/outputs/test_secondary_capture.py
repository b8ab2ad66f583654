"""Overlays as secondary captures: what is drawn where, equal pixels after JPEG-LS, valid, without free text."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from support.clinical_files import dicom, validation_errors, with_secrets, written

from c2fvl.data.pictures import overlay
from c2fvl.inference.outputs.result_info import ResultInfo
from c2fvl.inference.outputs.secondary_capture import mark, secondary_capture

pytest.importorskip("highdicom", reason="highdicom is not installed")
ABOUT = ResultInfo("filmfirst", "ab" * 32, trust=0.5, zones=frozenset({"rlower"}))


def picture_of(source, value=90):
    return np.full((source.Rows, source.Columns, 3), value, np.uint8)


def letter_at(drawn, place):
    """Return the letter, R or L, whose shape stands at an edge of a picture of one grey; None if nothing does."""
    height, width = drawn.shape[:2]
    side = min(height, width) // 8
    middle_row, middle_column = (
        slice(height // 2 - side, height // 2 + side),
        slice(width // 2 - side, width // 2 + side),
    )
    area = {
        "left": drawn[middle_row, :side], "right": drawn[middle_row, -side:],
        "top": drawn[:side, middle_column], "bottom": drawn[-2 * side : -height // 14, middle_column],
    }[place]  # fmt: skip
    white = area.min(axis=2) > 170
    if not white.any():
        return None
    found = cropped(white)
    agreements = {}
    for letter in "RL":
        canvas = Image.new("L", (80, 80))
        ImageDraw.Draw(canvas).text((10, 10), letter, font=ImageFont.load_default(size=40), fill=255)
        shape = Image.fromarray(cropped(np.asarray(canvas) > 127)).resize(found.shape[::-1])
        agreements[letter] = (np.asarray(shape) == found).mean()
    assert max(agreements.values()) > 0.8, agreements
    return max(agreements, key=agreements.get)


def cropped(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (("L", "F"), {"left": "R", "right": "L"}),
        (("R", "F"), {"left": "L", "right": "R"}),
        (("L", "H"), {"left": "R", "right": "L"}),
        (("LP", "FA"), {"left": "R", "right": "L"}),
        (("F", "L"), {"top": "R", "bottom": "L"}),
        (("H", "R"), {"top": "L", "bottom": "R"}),
        (("P", "F"), {}),
        (None, {"left": "R", "right": "L"}),
    ],
)
@pytest.mark.parametrize("size", [(600, 500), (512, 512)])
def test_letters_are_where_the_patients_right_and_left_are(orientation, expected, size):
    drawn = mark(np.full((*size, 3), 90, np.uint8), orientation)
    assert {place: letter for place in ("left", "right", "top", "bottom")
            if (letter := letter_at(drawn, place)) is not None} == expected  # fmt: skip


@pytest.mark.parametrize(("name", "left"), [("RG1_UNCR.dcm", "R"), ("RG3_UNCR.dcm", "L"), ("CT_small.dcm", "R")])
def test_the_picture_is_read_back_equal_from_a_valid_file(name, left, tmp_path):
    source = dicom(name)
    picture = picture_of(source)
    picture[40:90, 20:60] = (0, 158, 115)
    made = written(secondary_capture(source, picture, ABOUT), tmp_path / "sc.dcm")
    orientation = {"RG1_UNCR.dcm": ["L", "F"], "RG3_UNCR.dcm": ["R", "F"], "CT_small.dcm": ["L", "P"]}[name]
    assert list(made.PatientOrientation) == orientation
    drawn = made.pixel_array
    assert (drawn == mark(picture, tuple(orientation))).all()
    assert (letter_at(drawn, "left"), letter_at(drawn, "right")) == (left, {"R": "L", "L": "R"}[left])
    factor = drawn.shape[0] // source.Rows
    assert tuple(drawn[60 * factor, 40 * factor]) == (0, 158, 115)
    assert made.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.80"
    assert made.BurnedInAnnotation == "YES"
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert "research use only" in made.DerivationDescription
    assert validation_errors(tmp_path / "sc.dcm") == []


def test_the_overlay_keeps_the_size_of_the_file_and_its_place():
    generator = np.random.default_rng(0)
    image = np.repeat(generator.random((1300, 900, 1), np.float32), 3, axis=2)
    mask = np.zeros((1300, 900), np.uint8)
    mask[400:700, 100:300] = 1
    drawn = overlay(image, mask, keep_size=True)
    assert drawn.shape == (1300, 900, 3)
    far = np.ones_like(mask, bool)
    far[395:705, 95:305] = False
    assert (drawn[far] == np.rint(image[far] * 255)).all()
    inside = drawn[410:690, 110:290].astype(int)
    assert (inside[..., 1] > inside[..., 0]).all()  # green
    with pytest.raises(ValueError, match="the prediction has the shape"):
        overlay(image, mask[1:], keep_size=True)


def words_at_the_lower_edge(drawn):
    """Return the rows of the lower edge of a grey picture that hold white letters, as a count of lines."""
    height = drawn.shape[0]
    rows = (drawn[-height // 5 :] == 255).all(axis=2).any(axis=1).astype(int)
    return int((np.diff(np.concatenate([[0], rows])) == 1).sum())


def test_the_warning_of_use_is_on_the_picture_and_an_assumed_orientation_too(tmp_path):
    source = dicom("RG1_UNCR.dcm")
    del source.PatientOrientation
    made = written(secondary_capture(source, picture_of(source), ABOUT), tmp_path / "sc.dcm")
    assert made.PatientOrientation in (None, "", [])
    assert words_at_the_lower_edge(made.pixel_array) == 2
    assert validation_errors(tmp_path / "sc.dcm") == []
    given = dataclasses.replace(ABOUT, orientation=("R", "F"))
    told = secondary_capture(source, picture_of(source), given)
    assert list(told.PatientOrientation) == ["R", "F"]
    assert words_at_the_lower_edge(mark(picture_of(source), ("R", "F"))) == 1


@pytest.mark.parametrize("shape", [(16, 16), (100, 900), (900, 100), (255, 256)])
def test_a_small_picture_is_magnified_until_its_words_fit(shape):
    drawn = mark(np.full((*shape, 3), 90, np.uint8), None)
    factor = drawn.shape[0] // shape[0]
    assert drawn.shape == (shape[0] * factor, shape[1] * factor, 3)
    assert 256 <= min(drawn.shape[:2]) < 256 + min(shape)
    white = (drawn == 255).all(axis=2)
    assert not white[:, -1].any()
    assert not white[-1].any()


def test_free_text_stays_behind_and_names_survive(tmp_path):
    source = with_secrets(dicom("chrJapMulti.dcm"))
    made = written(secondary_capture(source, picture_of(source), ABOUT), tmp_path / "sc.dcm")
    assert b"SECRET" not in (tmp_path / "sc.dcm").read_bytes()
    assert str(made.PatientName) == str(source.PatientName)
    assert not [element for element in made.iterall() if element.tag.is_private]


def test_a_deidentified_overlay_holds_no_identifier(tmp_path):
    source = dicom("RG1_UNCR.dcm")
    made = written(secondary_capture(source, picture_of(source), ABOUT, deidentified=True), tmp_path / "sc.dcm")
    data = (tmp_path / "sc.dcm").read_bytes()
    for value in ("CompressedSamples", "9RG1", "19400305", "20040826185059.5457"):
        assert value.encode() not in data
    assert made.PatientIdentityRemoved == "YES"
    assert validation_errors(tmp_path / "sc.dcm") == []


def test_the_same_call_gives_another_instance_with_the_same_pixels():
    source = dicom("CT_small.dcm")
    first, second = (secondary_capture(source, picture_of(source), ABOUT) for _ in range(2))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.PixelData == second.PixelData


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (np.zeros((128, 127, 3), np.uint8), "expected uint8 of the shape"),
        (np.zeros((128, 128), np.uint8), "expected uint8 of the shape"),
        (np.zeros((128, 128, 3), np.float32), "expected uint8 of the shape"),
    ],
)
def test_a_picture_that_does_not_fit_is_refused(picture, reason):
    with pytest.raises(ValueError, match=reason):
        secondary_capture(dicom("CT_small.dcm"), picture, ABOUT)


@pytest.mark.parametrize("name", ["693_UNCR.dcm", "J2K_pixelrep_mismatch.dcm"])
def test_slices_without_a_place_and_tilted_ones_have_an_overlay(name, tmp_path):
    source = dicom(name)
    made = written(secondary_capture(source, picture_of(source), ABOUT), tmp_path / "sc.dcm")
    assert letter_at(made.pixel_array, "left") == "R"
    assert validation_errors(tmp_path / "sc.dcm") == []


@pytest.mark.parametrize("photometric", ["RGB", "PALETTE COLOR"])
def test_a_source_in_colour_is_refused(photometric):
    source = dicom("SC_rgb_small_odd.dcm")
    source.PhotometricInterpretation = photometric
    with pytest.raises(ValueError, match="in colour"):
        secondary_capture(source, picture_of(source), ABOUT)
