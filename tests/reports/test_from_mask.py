"""Reports made from masks: conventions by hand, and how often they agree with the real captions."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2fvl.reports.caption_tables import read_table
from c2fvl.reports.from_mask import report_from_mask, zone_areas
from c2fvl.reports.report import Report, parse_report
from c2fvl.reports.zones import ZONES

PROJECT = Path(__file__).parents[2]
REAL = PROJECT.parent / "shared" / "data"
LEFT, RIGHT = {"lupper", "lmiddle", "llower"}, {"rupper", "rmiddle", "rlower"}


def mask_of(*boxes, size=(300, 300)):
    """Boxes (top, bottom, left, right) in percent of a picture."""
    mask = np.zeros(size, np.uint8)
    for top, bottom, left, right in boxes:
        mask[top * size[0] // 100 : bottom * size[0] // 100, left * size[1] // 100 : right * size[1] // 100] = 1
    return mask


masks = st.builds(
    mask_of,
    st.tuples(st.integers(0, 40), st.integers(41, 100), st.integers(0, 45), st.integers(46, 100)),
    st.tuples(st.integers(0, 80), st.integers(81, 90), st.integers(0, 80), st.integers(81, 100)),
    size=st.tuples(st.integers(100, 200), st.integers(50, 150).map(lambda half: 2 * half)),
)


@pytest.mark.parametrize("modality", ["film", "ct"])
def test_an_empty_mask(modality):
    report = report_from_mask(np.zeros((64, 48), np.uint8), modality=modality)
    assert report == Report("none", 0)
    assert str(report) == "No pulmonary infection, zero infected areas."


@pytest.mark.parametrize(
    ("boxes", "sentence"),
    [
        ([(10, 70, 10, 40)], "Unilateral pulmonary infection, one infected area, all left lung."),
        ([(50, 70, 60, 80)], "Unilateral pulmonary infection, one infected area, lower right lung."),
        ([(5, 30, 60, 80)], "Unilateral pulmonary infection, one infected area, upper right lung."),
        ([(34, 40, 60, 80)], "Unilateral pulmonary infection, one infected area, middle right lung."),
        ([(29, 60, 10, 40)], "Unilateral pulmonary infection, one infected area, middle lower left lung."),
        (
            [(5, 15, 10, 40), (55, 70, 10, 40), (50, 70, 60, 80)],
            "Bilateral pulmonary infection, three infected areas, all left lung and lower right lung.",
        ),
    ],
)
def test_chest_films(boxes, sentence):
    assert str(report_from_mask(mask_of(*boxes), modality="film")) == sentence


@pytest.mark.parametrize(
    ("boxes", "sentence"),
    [
        ([(40, 60, 10, 40)], "Unilateral pulmonary infection, one infected area, middle left lung."),
        ([(20, 60, 60, 80)], "Unilateral pulmonary infection, one infected area, upper right lung."),
        ([(70, 80, 60, 80)], "Unilateral pulmonary infection, one infected area, lower right lung."),
        (
            [(10, 15, 10, 40), (40, 50, 10, 40), (70, 90, 10, 40), (50, 70, 60, 80)],
            "Bilateral pulmonary infection, four infected areas, all left lung and middle right lung.",
        ),
    ],
)
def test_ct(boxes, sentence):
    assert str(report_from_mask(mask_of(*boxes), modality="ct")) == sentence


def test_a_small_lesion_names_no_zone_on_ct_beside_a_larger_one():
    mask = mask_of((40, 60, 10, 40))
    mask[10:15, 60:66] = 1  # 30 pixels of 90 000
    report = report_from_mask(mask, modality="ct")
    assert (report.number, report.zones) == (2, {"lmiddle"})
    mask[40 * 3 : 60 * 3] = 0
    assert report_from_mask(mask, modality="ct") == Report("unilateral", 1, {"lupper"})


def test_areas_that_touch_at_a_corner_are_one():
    mask = mask_of((10, 20, 10, 20), (20, 30, 20, 30))
    assert report_from_mask(mask, modality="film").number == 1


def test_specks_do_not_count_unless_there_is_nothing_else():
    mask = mask_of((50, 70, 60, 80))
    mask[10, 10:14] = 1  # 4 pixels of 90 000
    assert report_from_mask(mask, modality="film") == Report("unilateral", 1, {"rlower"})
    mask[100:] = 0
    assert report_from_mask(mask, modality="film") == Report("unilateral", 1, {"lupper"})


def test_a_lesion_that_barely_crosses_the_middle_is_one_sided():
    assert report_from_mask(mask_of((50, 70, 20, 51)), modality="film").side == "unilateral"
    assert report_from_mask(mask_of((50, 70, 20, 60)), modality="film") == Report("bilateral", 1, {"llower", "rlower"})


@given(masks, st.sampled_from(["film", "ct"]))
def test_what_holds_for_every_mask(mask, modality):
    report = report_from_mask(mask, modality=modality)
    assert report.contradictions() == ()
    assert report.orientation == "image"
    assert parse_report(str(report)) == report
    assert report.side in ("unilateral", "bilateral")
    assert report.zones
    assert report_from_mask(mask[:, ::-1], modality=modality).number == report.number
    assert report_from_mask(mask.astype(bool), modality=modality) == report


@given(masks, st.sampled_from(["film", "ct"]))
def test_the_report_of_a_mirrored_mask_is_the_mirrored_report(mask, modality):
    areas = zone_areas(mask)
    left = sum(area for zone, area in areas.items() if zone[0] == "l")
    right = sum(area for zone, area in areas.items() if zone[0] == "r")
    if left != right or min(left, right) >= 0.004 * mask.size:
        assert (
            report_from_mask(mask[:, ::-1], modality=modality) == report_from_mask(mask, modality=modality).mirrored()
        )


@given(masks, st.integers(2, 3))
def test_the_size_of_the_image_does_not_matter(mask, factor):
    larger = mask.repeat(factor, axis=0).repeat(factor, axis=1)
    # 1/H is the height of a row: enlarging moves no edge as a fraction of the picture
    assert report_from_mask(larger, modality="film") == report_from_mask(mask, modality="film")


@pytest.mark.parametrize("modality", ["film", "ct"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 2), (3, 7)])
def test_tiny_images(modality, size):
    report = report_from_mask(np.ones(size, np.uint8), modality=modality)
    assert report.number == 1
    assert report.zones
    assert sum(zone_areas(np.ones(size, np.uint8)).values()) == size[0] * size[1]


@pytest.mark.parametrize(
    ("mask", "modality", "message"),
    [
        (np.zeros((4, 4, 3)), "film", r"the mask has the shape \(4, 4, 3\); expected \(H, W\)"),
        (np.zeros((0, 4)), "film", r"the mask has the shape \(0, 4\)"),
        (np.full((4, 4), 255), "film", "the mask holds values such as 255; expected 0 and 1"),
        (np.full((4, 4), 0.5), "film", "the mask holds values such as 0.5"),
        (np.full((4, 4), np.nan), "film", "the mask holds values such as nan"),
        (np.zeros((4, 4)), "mri", "there is no modality 'mri'; expected one of film, ct"),
    ],
)
def test_wrong_masks(mask, modality, message):
    with pytest.raises(ValueError, match=message):
        report_from_mask(mask, modality=modality)


def test_areas_by_zone():
    mask = mask_of((0, 50, 0, 60))  # rows 0–149, columns 0–179 of 300
    assert zone_areas(mask) == {
        "lupper": 100 * 150, "lmiddle": 50 * 150, "llower": 0, "rupper": 100 * 30, "rmiddle": 50 * 30, "rlower": 0,
    }  # fmt: skip
    assert tuple(zone_areas(mask)) == ZONES


# ---- the real captions


def agreement(folder, table, modality):
    """Return for each question in how many films of val the report read off the mask agrees, and how many there are."""
    if not (REAL / folder / "val.zip").is_file():
        pytest.skip("the real films and captions are not beside the checkout")
    agreed = dict.fromkeys(("count", "side", *ZONES, "whole"), 0)
    rows = read_table(REAL / folder / table)
    rows_of_val = 0
    with zipfile.ZipFile(REAL / folder / "val.zip") as archive:
        members = set(archive.namelist())
        for row in rows:
            member = f"Val_Folder/labelcol/{row.name}"
            if member in members:
                pixels = cv2.imdecode(np.frombuffer(archive.read(member), np.uint8), cv2.IMREAD_GRAYSCALE)
                made, said = report_from_mask(pixels > 0, modality=modality), row.report
                agreed["count"] += made.number == said.number
                agreed["side"] += made.side == said.side
                agreed["whole"] += made == said
                for zone in ZONES:
                    agreed[zone] += (zone in made.zones) == (zone in said.zones)
                rows_of_val += 1
    return agreed, rows_of_val


MEASURED = {
    ("qata-cov19", "Val_text.xlsx", "film"): {
        "rows": 1429,
        "count": 1429,
        "side": 1414,
        "lupper": 1304,
        "lmiddle": 1071,
        "llower": 1186,
        "rupper": 1342,
        "rmiddle": 1109,
        "rlower": 1153,
        "whole": 752,
    },
    ("qata-cov19", "Val_text_revised.xlsx", "film"): {
        "rows": 1429,
        "count": 1429,
        "side": 1426,
        "lupper": 1328,
        "lmiddle": 1132,
        "llower": 1286,
        "rupper": 1358,
        "rmiddle": 1162,
        "rlower": 1259,
        "whole": 855,
    },
    ("mosmeddata-plus", "all_val_captions.xlsx", "ct"): {
        "rows": 83,
        "count": 81,
        "side": 83,
        "lupper": 77,
        "lmiddle": 77,
        "llower": 83,
        "rupper": 83,
        "rmiddle": 83,
        "rlower": 83,
        "whole": 76,
    },
}
"""Films of val that agree, as docs/reports.md gives them in percent."""


@pytest.mark.real
@pytest.mark.parametrize(("folder", "table", "modality"), list(MEASURED))
def test_agreement_with_the_real_captions(folder, table, modality):
    measured = MEASURED[folder, table, modality]
    agreed, rows = agreement(folder, table, modality)
    assert rows == measured["rows"]
    for question, count in agreed.items():
        assert count >= measured[question], question
