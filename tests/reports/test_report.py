"""Sentences, attributes and tables of reports: the grammar and its known faults, and every real caption."""

import csv
import io
import itertools
import random
import re
import subprocess
import sys
import zipfile
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2fvl.files import tables as spreadsheets
from c2fvl.reports.caption_tables import read_table, write_table
from c2fvl.reports.report import ATTRIBUTES, SIDES, Report, default_orientation, parse_report
from c2fvl.reports.zones import ORIENTATIONS, ZONES

REAL = Path(__file__).parents[3] / "shared" / "data"
LEFT, RIGHT = {"lupper", "lmiddle", "llower"}, {"rupper", "rmiddle", "rlower"}
ALL_ZONE_SETS = [frozenset(itertools.compress(ZONES, bits)) for bits in itertools.product((0, 1), repeat=6)]
CAPTION = "Bilateral pulmonary infection, two infected areas, upper left lung and upper right lung."


@st.composite
def reports(draw):
    """Any report with attributes."""
    report = Report(
        draw(st.sampled_from((None, *SIDES))),
        draw(st.none() | st.integers(0, 999_999_999)),
        draw(st.sampled_from(ALL_ZONE_SETS)),
        draw(st.sampled_from(ORIENTATIONS)),
    )
    return report if report.has_attributes else Report("none", 0)


# ---- sentences


@pytest.mark.parametrize(
    ("sentence", "side", "number", "zones"),
    [
        (CAPTION, "bilateral", 2, {"lupper", "rupper"}),
        (
            "Bilateral pulmonary infection, two infected areas, all left lung and middle lower right lung.",
            "bilateral", 2, LEFT | {"rmiddle", "rlower"},
        ),
        ("Unilateral pulmonary infection, one infected area, lower right lung.", "unilateral", 1, {"rlower"}),
        ("unilateral pulmonary infection, three infected areas, upper middle lower left lung.", "unilateral", 3, LEFT),
        ("No pulmonary infection, zero infected areas.", "none", 0, set()),
        ("No pulmonary infection.", "none", None, set()),
        ("Unilateral pulmonary infection", "unilateral", None, set()),
        ("Seven infected areas.", None, 7, set()),
        ("Upper, middle and lower left lung.", None, None, LEFT),
        ("middle and lower right lung", None, None, {"rmiddle", "rlower"}),
        ("lower lungs", None, None, set()),
    ],
)  # fmt: skip
def test_sentences_of_the_grammar(sentence, side, number, zones):
    report = parse_report(sentence)
    assert (report.side, report.number, set(report.zones)) == (side, number, zones)
    assert report.text == sentence


BOTH = "Bilateral pulmonary infection, two infected areas, "
ONE = "Unilateral pulmonary infection, one infected area, "


@pytest.mark.parametrize(
    ("faulty", "side", "number", "zones"),
    [
        ("Bilateral pulmonary infection,two infected areas,upper left lung and upper right lung.",
         "bilateral", 2, {"lupper", "rupper"}),
        ("Bilateral  pulmonary infection,  two infected  areas,   upper left lung  and upper right lung .",
         "bilateral", 2, {"lupper", "rupper"}),
        (BOTH + "midlle left lung and lower right lung.", "bilateral", 2, {"lmiddle", "rlower"}),
        (BOTH + "lowerl left lung and mmiddle right lung.", "bilateral", 2, {"llower", "rmiddle"}),
        (BOTH + "higher left lung and higher right lung.", "bilateral", 2, {"lupper", "rupper"}),
        (BOTH + "all left lung andall right lung.", "bilateral", 2, LEFT | RIGHT),
        (BOTH + "all left lungandall right lung.", "bilateral", 2, LEFT | RIGHT),
        (BOTH + "middle upper left lung and lower right lung.", "bilateral", 2, {"lmiddle", "lupper", "rlower"}),
        (BOTH + "all lower left lung and lower right lung.", "bilateral", 2, LEFT | {"rlower"}),
        (BOTH + "upper lung and middle lower right lung.", "bilateral", 2, {"lupper", "rmiddle", "rlower"}),
        (BOTH + "upper left lung and middle lower lung.", "bilateral", 2, {"lupper", "rmiddle", "rlower"}),
        (BOTH + "all lung and all right lung.", "bilateral", 2, LEFT | RIGHT),
        (BOTH + "all left lung and all right lung..", "bilateral", 2, LEFT | RIGHT),
        ("Unilateral pulmonary infection, one infected areas, middle left lung.", "unilateral", 1, {"lmiddle"}),
        ("Unilateral pulmonary infection, one infected areas, left lung and lower right lung.",
         "unilateral", 1, {"rlower"}),
        ("Unilateral pulmonary infection, two infected areas, left lung and all right lung..",
         "unilateral", 2, RIGHT),
        ("Unilateral pulmonary infection, one infected areas, upper left lung and right lung.",
         "unilateral", 1, {"lupper"}),
        ("UNILATERAL PULMONARY INFECTION, ONE INFECTED AREA, LOWER RIGHT LUNG.", "unilateral", 1, {"rlower"}),
        ("Bilateral pulmonary infection two infected areas upper left lung upper right lung",
         "bilateral", 2, {"lupper", "rupper"}),
        (ONE.replace("one", "1") + "lower right lung", "unilateral", 1, {"rlower"}),
        ("Bilateral pulmonary infection, and 17 infected areas", "bilateral", 17, set()),
        ("Bilateral pulmonary infection.Two infected areas.Lower left lung;upper right lung",
         "bilateral", 2, {"llower", "rupper"}),
        ("Biltaeral pulmonay infction, two infeccted aeras, lower left lung, upper right lung",
         "bilateral", 2, {"llower", "rupper"}),
    ],
)  # fmt: skip
def test_known_faults(faulty, side, number, zones):
    report = parse_report(faulty)
    assert (report.side, report.number, set(report.zones)) == (side, number, zones)
    assert report.unread == ()


def test_numbers_up_to_twenty_in_words_and_digits():
    words = [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
    ]  # fmt: skip
    for number, word in enumerate(words):
        for written in (word, word.upper(), str(number), f"{number:02}"):
            assert parse_report(f"Bilateral pulmonary infection, {written} infected areas.").number == number


@pytest.mark.parametrize(
    "sentence",
    [
        "The nuclei density in the upper right is high.",
        "The nuclei are sparsely distributed.",
        "The upper left lung is clear.",
        "No lesion in upper left lung and lower right lung.",
        "Effusion of the left lung, drain in place.",
        "Two of the infected areas",
        "Not bilateral pulmonary infection",
        "左肺",
        "and, and.",
        ONE + "drain in place.",
        BOTH + "no lesion in lower left lung and upper right lung",
        "No consolidation, lower left lung.",
        "Lower left lung, clear.",
        "Possible pneumonia, lower left lung.",
        "Bilateral pulmonary infection, resolved.",
        "Bilateral pulmonary infection. Resolved.",
        "Effusion, lower left lung.",
        "No pulmonary infection, patchy opacity in left lower lobe.",
        "Unlikely: bilateral pulmonary infection",
        "Bilateral pulmonary infection, resolved infected areas",
        "Upper left lung, lower right lung?",
    ],
)
def test_free_text_is_kept_and_not_guessed(sentence):
    report = parse_report(sentence)
    assert not report.has_attributes
    assert report == Report()
    assert str(report) == report.text == sentence
    assert report.unread
    with pytest.raises(ValueError, match="free text"):
        report.attributes()


@pytest.mark.parametrize(
    ("sentence", "known", "unread"),
    [
        ("Bilateral pulmonary infection, 2.5 infected areas", Report("bilateral"), ("2.5 infected areas",)),
        ("Bilateral pulmonary infection, 1,5 infected areas", Report("bilateral"), ("1,5 infected areas",)),
        ("Bilateral pulmonary infection, -3 infected areas", Report("bilateral"), ("-3 infected areas",)),
        ("Bilateral pulmonary infection, eighty infected areas", Report("bilateral"), ("eighty infected areas",)),
        ("Bilateral pulmonary infection, twenty one infected areas", Report("bilateral"),
         ("twenty one infected areas",)),
        ("Bilateral pulmonary infection, 99999999999 infected areas", Report("bilateral"),
         ("99999999999 infected areas",)),
        ("Bilateral pulmonary infection, left lung and lower right lung", Report("bilateral", zones={"rlower"}),
         ("left lung",)),
        ("Unilateral pulmonary infection, left lung", Report("unilateral"), ("left lung",)),
        ("Unilateral pulmonary infection, lower lung", Report("unilateral"), ("lower lung",)),
        ("Bilateral pulmonary infection, unilateral pulmonary infection, two infected areas", Report(number=2),
         ("Bilateral pulmonary infection", "unilateral pulmonary infection")),
        ("Two infected areas, three infected areas, lower left lung", Report(zones={"llower"}),
         ("Two infected areas", "three infected areas")),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(sentence, known, unread):
    report = parse_report(sentence)
    assert report == known
    assert report.unread == unread


def test_contradictions_are_kept_and_named():
    report = parse_report(ONE + "upper left lung and lower right lung.")
    assert (report.side, report.zones) == ("unilateral", {"lupper", "rlower"})
    assert report.contradictions() == ("unilateral, with zones of both lungs",)
    assert parse_report("Bilateral pulmonary infection, upper left lung.").contradictions() == (
        "bilateral, with zones of one lung",
    )
    assert Report("none", 2).contradictions() == ("no infection, with infected areas or zones",)
    assert Report("bilateral", 0).contradictions() == ("bilateral infection, with no infected area",)
    assert Report(None, 0, {"lupper"}).contradictions() == ("no infected area, with zones",)
    assert parse_report(CAPTION).contradictions() == Report("none", 0).contradictions() == ()


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        (Report("bilateral", 2, {"lupper", "rupper"}), CAPTION),
        (Report("unilateral", 1, {"rlower"}), "Unilateral pulmonary infection, one infected area, lower right lung."),
        (
            Report("bilateral", 20, LEFT | {"rlower", "rupper"}),
            "Bilateral pulmonary infection, twenty infected areas, all left lung and upper lower right lung.",
        ),
        (Report("none", 0), "No pulmonary infection, zero infected areas."),
        (Report(None, None, {"lmiddle", "lupper"}), "Upper middle left lung."),
        (Report(None, 21), "21 infected areas."),
    ],
)
def test_canonical_sentences(report, sentence):
    assert str(report) == sentence


def test_reading_undoes_writing_for_every_report():
    numbers = (None, 0, 1, 2, 9, 19, 20, 21, 100, 999_999_999)
    count = 0
    for side, number, zones, orientation in itertools.product((None, *SIDES), numbers, ALL_ZONE_SETS, ORIENTATIONS):
        report = Report(side, number, zones, orientation)
        if report.has_attributes:
            read = parse_report(str(report), orientation=orientation)
            assert read == report
            assert read.unread == ()
            count += 1
    assert count == 4 * 10 * 64 * 2 - 2


@given(reports(), st.data())
def test_case_spaces_and_commas_do_not_matter(report, data):
    noisy = []
    for character in str(report):
        if character == " ":
            character = data.draw(st.sampled_from([" ", "  ", "\t", "\n", "\u00a0"]))  # noqa: PLW2901
        elif character == ",":
            character = data.draw(st.sampled_from([",", " ,", ",,", ";", ", "]))  # noqa: PLW2901
        elif character == ".":
            character = data.draw(st.sampled_from([".", "", "..", " .", ".\n"]))  # noqa: PLW2901
        else:
            character = data.draw(st.sampled_from([character.lower(), character.upper()]))  # noqa: PLW2901
        noisy.append(character)
    read = parse_report("".join(noisy), orientation=report.orientation)
    assert read == report
    assert read.unread == ()


@given(st.text() | st.lists(st.sampled_from([*CAPTION.lower().split(), "no", "all", ",", "3", "x"])).map(" ".join))
def test_any_text_is_read_in_some_way(text):
    report = parse_report(text)
    assert report.text == text.strip()
    assert report.has_attributes or str(report) == text.strip()
    if report.has_attributes:
        assert parse_report(str(report)) == report


def test_a_long_text_takes_no_long_time():
    assert parse_report("all" * 20_000 + " " + "x, " * 20_000 + "and " * 20_000 + CAPTION) == Report()
    report = parse_report("bilateral pulmonary infection, " * 20_000 + CAPTION)
    assert (report.side, report.number, report.zones) == ("bilateral", 2, {"lupper", "rupper"})


# ---- attributes, orientations, mirrors


def test_attributes_by_hand():
    assert parse_report(CAPTION).attributes() == (1, 2, 1, 0, 0, 1, 0, 0)
    assert parse_report(ONE + "middle lower right lung").attributes() == (0, 1, 0, 0, 0, 0, 1, 1)
    assert Report("none", 0).attributes() == (0,) * 8
    assert all(type(value) is float for value in Report("none", 0).attributes())


def test_what_is_not_said_follows_or_is_the_least():
    assert Report(zones={"lupper", "rlower"}).attributes() == (1, 2, 1, 0, 0, 0, 0, 1)
    assert Report(zones={"lupper"}).attributes() == (0, 1, 1, 0, 0, 0, 0, 0)
    assert Report("bilateral").attributes() == (1, 2, 0, 0, 0, 0, 0, 0)
    assert Report("none").attributes() == (0,) * 8


@pytest.mark.parametrize("zones", ALL_ZONE_SETS)
def test_attributes_and_back(zones):
    for bilateral, number in itertools.product((0, 1), (0, 1, 7)):
        values = (bilateral, number, *(zone in zones for zone in ZONES))
        report = Report.from_attributes([float(value) for value in values], orientation="image")
        assert report.zones == zones
        assert report.attributes() == values
        side = "bilateral" if bilateral else "unilateral" if number or zones else "none"
        assert (report.side, report.number) == (side, number)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 2, 0, 0, 0, 0, 0), "7 attributes, expected 8: bilateral, number"),
        ((2, 2, 0, 0, 0, 0, 0, 0), "bilateral is 2, expected 0 or 1"),
        ((1, -1, 0, 0, 0, 0, 0, 0), "number is -1, expected a whole number"),
        ((1, 1.5, 0, 0, 0, 0, 0, 0), "number is 1.5"),
        ((1, 1, 0, 0, float("nan"), 0, 0, 0), "llower is nan"),
        ((1, float("inf"), 0, 0, 0, 0, 0, 0), "number is inf"),
        ((1, 10**400, 0, 0, 0, 0, 0, 0), "number is 1000"),
    ],
)
def test_wrong_attributes(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Report.from_attributes(values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": "both"}, "side must be one of .*, got 'both'"),
        ({"number": -1}, "number must be .*, got -1"),
        ({"number": 1.0}, "number must be .*, got 1.0"),
        ({"number": True}, "number must be .*, got True"),
        ({"number": 10**9}, "number must be .*, got 1000000000"),
        ({"zones": {"left"}}, "there is no zone 'left'; the zones are lupper"),
        ({"orientation": "doctor"}, "orientation must be 'image' .* or 'patient' .*, got 'doctor'"),
    ],
)
def test_no_report_can_be_made_of_other_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        Report(**arguments)


def test_a_number_counted_by_numpy():
    report = Report("bilateral", np.int32(2))
    assert type(report.number) is int
    assert report == Report("bilateral", 2)


@given(reports())
def test_mirroring_and_orientations(report):
    mirrored = report.mirrored()
    assert mirrored.mirrored() == report
    assert {zone[1:] for zone in mirrored.zones} == {zone[1:] for zone in report.zones}
    assert {zone[1:] for zone in mirrored.zones if zone[0] == "l"} == {z[1:] for z in report.zones if z[0] == "r"}
    assert (mirrored.side, mirrored.number, mirrored.orientation) == (report.side, report.number, report.orientation)
    for orientation in ORIENTATIONS:
        converted = report.in_orientation(orientation)
        assert converted.orientation == orientation
        assert converted.zones == (report.zones if orientation == report.orientation else mirrored.zones)
        assert converted.in_orientation(report.orientation) == report


def test_a_radiologist_s_left_is_the_right_of_the_image():
    report = parse_report(ONE + "lower left lung.", orientation="patient")
    assert report.zones == {"llower"}
    with pytest.raises(ValueError, match=r"patient orientation; convert it with in_orientation\('image'\)"):
        report.attributes()
    assert report.in_orientation("image").attributes() == (0, 1, 0, 0, 0, 0, 0, 1)
    assert report != parse_report(ONE + "lower left lung.")
    with pytest.raises(ValueError, match="got 'doctor'"):
        report.in_orientation("doctor")
    with pytest.raises(ValueError, match="got 'doctor'"):
        parse_report(CAPTION, orientation="doctor")


def test_captions_mean_the_image_s_left_and_free_text_the_patient_s():
    assert default_orientation(CAPTION) == default_orientation(parse_report(CAPTION)) == "image"
    assert default_orientation(Report("none", 0)) == default_orientation("") == "image"
    assert default_orientation("Left basal opacity.") == default_orientation("Lower left lung, clear.") == "patient"


def test_the_text_is_mirrored_too():
    report = parse_report("Upper LEFT lung, Left lower drain.").mirrored()
    assert report.text == "Upper RIGHT lung, Right lower drain."
    assert report.unread == ("Right lower drain",)
    free = parse_report("The nuclei density in the upper right is high.")
    assert str(free.mirrored()) == "The nuclei density in the upper left is high."
    assert free.mirrored().mirrored().text == free.text
    assert parse_report("The brightest part is leftover.").mirrored().text == "The brightest part is leftover."


def test_the_text_plays_no_part_in_being_equal():
    assert parse_report(CAPTION) == parse_report(CAPTION.upper())
    assert len({parse_report(CAPTION), parse_report(CAPTION.upper())}) == 1


# ---- tables

LVIT = ("Image", "Description")
C2FVL = ("Image", *ATTRIBUTES)


def make_table(path, rows):
    """Write a table without the code under test."""
    if path.suffix == ".csv":
        buffer = io.StringIO()
        csv.writer(buffer).writerows(rows)
        path.write_text(buffer.getvalue(), encoding="utf-8")
    else:
        workbook = openpyxl.Workbook()
        for row in rows:
            workbook.active.append(row)
        workbook.save(path)
    return path


@pytest.fixture(params=["xlsx", "csv"])
def table(request, tmp_path):
    def make(*rows):
        return make_table(tmp_path / f"Train_text.{request.param}", rows)

    return make


def test_a_table_of_sentences(table):
    rows = read_table(table(LVIT, ("a.png", CAPTION), ("b.png", None), ("c.png", "Cells."), ("d.png", "  ")))
    assert [(row.row, row.name) for row in rows] == [(2, "a.png"), (3, "b.png"), (4, "c.png"), (5, "d.png")]
    assert rows[0].report.attributes() == (1, 2, 1, 0, 0, 1, 0, 0)
    assert rows[1].report is None
    assert rows[2].report.text == "Cells."
    assert rows[3].report is None


def test_a_table_of_attributes(table):
    rows = read_table(table(C2FVL, ("a.png", 1, 2, 1, 0, 0, 1, 0, 0), ("b.png", *[None] * 8)))
    assert rows[0].report == parse_report(CAPTION)
    assert rows[1].report is None


def test_the_orientation_of_a_table(table):
    path = table(C2FVL, ("a.png", 0, 1, 1, 0, 0, 0, 0, 0))
    assert read_table(path, orientation="patient")[0].report.in_orientation("image").zones == {"rupper"}
    with pytest.raises(ValueError, match="got 'doctor'"):
        read_table(path, orientation="doctor")


def test_column_names_in_any_order_and_case_and_further_columns(table):
    rows = read_table(table(("", " description", "No", "IMAGE "), (7, CAPTION, 1, " a.png ")))
    assert [(row.name, row.report) for row in rows] == [("a.png", parse_report(CAPTION))]


def test_empty_rows_keep_the_count(table):
    assert [row.row for row in read_table(table(LVIT, ("a.png", CAPTION), (None, None), ("b.png", CAPTION)))] == [2, 4]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the table is empty"),
        ([LVIT], "has column names but no rows"),
        ([("Name", "Text"), ("a", "b")], r"row 1: expected the columns Image, Description or Image, bilateral, .*; "
                                         r"found 'Name', 'Text'"),
        ([C2FVL[:-1], ("a.png", 1, 2, 1, 0, 0, 1, 0)], "expected the columns Image, Description or"),
        ([(*LVIT, *ATTRIBUTES), ("a.png", CAPTION, 1, 2, 1, 0, 0, 1, 0, 0)], "found both forms at once"),
        ([("Image", "Description", "image"), ("a.png", CAPTION, "b.png")], "the column image is there twice"),
        ([LVIT, ("a.png", CAPTION), ("b.png", CAPTION), ("a.png", "Other.")],
         r"row 4, column Image: 'a\.png' is in row 2"),
        ([LVIT, ("a.png", CAPTION), ("a.png", CAPTION)], r"row 3, column Image: 'a\.png' is in row 2"),
        ([LVIT, ("a.png", CAPTION), (" ", CAPTION)], "row 3, column Image: the name is empty"),
        ([LVIT, ("../a.png", CAPTION)], r"row 2, column Image: '\.\./a\.png' points outside"),
        ([LVIT, ("b/../../a.png", CAPTION)], "points outside"),
        ([LVIT, ("..\\a.png", CAPTION)], "points outside"),
        ([LVIT, ("/etc/passwd", CAPTION)], "points outside"),
        ([LVIT, ("C:\\a.png", CAPTION)], "points outside"),
        ([C2FVL, ("a.png", 1, 2, 1, 0, 0, 1, 0, 0), ("b.png", 1, -2, 1, 0, 0, 1, 0, 0)],
         "row 3, column number: number is '?-2'?, expected a whole number of 0 or more"),
        ([C2FVL, ("a.png", 1, 1.5, 1, 0, 0, 1, 0, 0)], "row 2, column number: number is '?1.5'?"),
        ([C2FVL, ("a.png", 1, 1, 1, 0, 0, 1, 0, 2)], "row 2, column rlower: rlower is '?2'?, expected 0 or 1"),
        ([C2FVL, ("a.png", "yes", 1, 1, 0, 0, 1, 0, 1)], "row 2, column bilateral: bilateral is 'yes'"),
        ([C2FVL, ("a.png", 1, 1, 1, None, 0, 1, 0, 1)], "row 2, column lmiddle: lmiddle is None"),
        ([C2FVL, ("a.png", 1, 1, 1, True, 0, 1, 0, 1)], "row 2, column lmiddle: lmiddle is '?True'?"),
        ([C2FVL, ("a.png", 1, 1, date(2020, 1, 1), 1, 0, 1, 0, 1)], "row 2, column lupper: lupper is"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_said(table, rows, message):
    path = table(*rows)
    with pytest.raises(ValueError, match=message) as error:
        read_table(path)
    assert str(path) in str(error.value)


def test_numbers_as_text_and_as_floats(tmp_path):
    path = make_table(tmp_path / "a.xlsx", [C2FVL, ("a.png", "1", 2.0, "1.0", 0, 0, 1, " 0", 0), (12.0, *[0] * 8)])
    assert [row.name for row in read_table(path)] == ["a.png", "12"]
    assert read_table(path)[0].report.attributes() == (1, 2, 1, 0, 0, 1, 0, 0)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv_of_several_kinds(tmp_path, delimiter, start):
    path = tmp_path / "a.csv"
    lines = [delimiter.join(LVIT), delimiter.join(("a.png", f'"{CAPTION}"')), "", delimiter.join(("b.png", ""))]
    path.write_text(start + "\r\n".join(lines), encoding="utf-8", newline="")
    assert [(row.row, row.report) for row in read_table(path)] == [(2, parse_report(CAPTION)), (4, None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"Image,Description\na.png,{CAPTION}\n".encode(), "row 2: 4 cells, expected 2; put text that holds commas"),
        (b"Image,Description\na.png,\xff\n", "not a csv in UTF-8"),
        (b'Image,Description\na.png,"x\n', "not a readable csv"),
        (b"Image,Description\na.png," + b"x" * 200_000, "not a readable csv"),
        (b"", "the table is empty"),
        (b"\n\n\n", "the table is empty"),
        (b"Image,Description\na\x00.png,x\n", r"a\.csv.*(points outside|not a readable csv)"),
    ],
)
def test_wrong_csv(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"Image,Description\n", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 9],
)
def test_what_is_no_xlsx(tmp_path, content):
    path = tmp_path / "a.xlsx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.xlsx: not (an|a readable) xlsx"):
        read_table(path)


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.xlsx: the file does not exist"):
        read_table(tmp_path / "none.xlsx")
    (tmp_path / "a.ods").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"expected a table that ends in \.xlsx or \.csv, found \.ods"):
        read_table(tmp_path / "a.ods")


def rewritten(path, name, change):
    """Change one part of an xlsx."""
    with zipfile.ZipFile(path) as archive:
        parts = {member: archive.read(member) for member in archive.namelist()}
    changed = change(parts[name])
    assert changed != parts[name]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in {**parts, name: changed}.items():
            archive.writestr(member, data)
    return path


SHEET = "xl/worksheets/sheet1.xml"


@pytest.fixture
def xlsx(tmp_path):
    return make_table(tmp_path / "a.xlsx", [LVIT, ("a.png", CAPTION)])


def test_a_claimed_size_is_not_believed(xlsx):
    rewritten(xlsx, SHEET, lambda xml: re.sub(rb'ref="A1:B2"', b'ref="A1:XFD1048576"', xml))
    assert len(read_table(xlsx)) == 1
    rewritten(xlsx, SHEET, lambda xml: re.sub(rb'ref="A1:XFD1048576"', b'ref="A1:A1"', xml))
    assert len(read_table(xlsx)) == 1


def test_a_row_far_below_is_refused(xlsx, monkeypatch):
    monkeypatch.setattr(spreadsheets, "MAX_ROWS", 20_000)  # the reader passes over as many empty rows
    rewritten(xlsx, SHEET, lambda xml: xml.replace(b'r="2"', b'r="17000000000"'))
    with pytest.raises(ValueError, match="more than 20000 rows; split the table"):
        read_table(xlsx)


def test_a_cell_far_to_the_right_costs_nothing(xlsx):
    rewritten(
        xlsx, SHEET, lambda xml: xml.replace(b"</row></sheetData>", b'<c r="XFD2"><v>1</v></c></row></sheetData>')
    )
    assert len(read_table(xlsx)) == 1


def test_limits_are_checked_before_anything_is_parsed(xlsx, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the table was parsed")

    monkeypatch.setattr(openpyxl, "load_workbook", refuse)
    monkeypatch.setattr(spreadsheets, "MAX_UNPACKED_BYTES", 2000)
    with pytest.raises(ValueError, match=r"a\.xlsx: unpacks to \d+ bytes, the limit is 2000; split it"):
        read_table(xlsx)
    monkeypatch.setattr(spreadsheets, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"a\.xlsx: \d+ bytes, the limit of a table is 1000; split it"):
        read_table(xlsx)


def test_too_many_rows_of_a_csv(tmp_path, monkeypatch):
    monkeypatch.setattr(spreadsheets, "MAX_ROWS", 3)
    path = make_table(tmp_path / "a.csv", [LVIT, *((f"{number}.png", CAPTION) for number in range(3))])
    with pytest.raises(ValueError, match="more than 3 rows"):
        read_table(path)


def test_xml_that_defines_entities_is_refused(xlsx):
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
    rewritten(xlsx, SHEET, lambda xml: bomb + xml)
    with pytest.raises(ValueError, match=r"sheet1\.xml defines a document type"):
        read_table(xlsx)


@pytest.mark.parametrize("part", [SHEET, "xl/workbook.xml", "[Content_Types].xml"])
def test_a_damaged_part(xlsx, part):
    rewritten(xlsx, part, lambda xml: xml[: len(xml) // 2])
    with pytest.raises(ValueError, match=r"a\.xlsx: not a readable xlsx"):
        read_table(xlsx)


@pytest.mark.parametrize(
    "part", [None, SHEET, "xl/workbook.xml", "xl/styles.xml", "xl/_rels/workbook.xml.rels", "[Content_Types].xml"]
)
def test_no_damage_leads_to_another_kind_of_error(xlsx, part):
    """Bytes changed in the file, or inside of a part whose checksum is right again."""
    whole, refused = xlsx.read_bytes(), 0
    generator = random.Random(5)

    def damage(content):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(len(damaged))] ^= generator.randint(1, 255)
        return bytes(damaged) if damaged != content else damage(content)

    for _ in range(60):
        xlsx.write_bytes(damage(whole) if part is None else whole)
        if part is not None:
            rewritten(xlsx, part, damage)
        try:
            assert read_table(xlsx)
        except ValueError as error:
            assert str(xlsx) in str(error)
            refused += 1
    assert refused > 10


def test_formulas_are_text(xlsx):
    make_table(xlsx, [LVIT, ("a.png", "=1+1"), ("b.png", '=HYPERLINK("http://example.org")')])
    assert [row.report.text for row in read_table(xlsx)] == ["=1+1", '=HYPERLINK("http://example.org")']


# ---- writing tables

LIVE = ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", "''=1", "'quoted'", "plain"]


@pytest.mark.parametrize("ending", ["xlsx", "csv"])
def test_nothing_written_is_a_live_formula(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    write_table(path, [(f"{number}.png", Report(text=text)) for number, text in enumerate(LIVE)])
    assert [row.report.text for row in read_table(path)] == LIVE
    if ending == "xlsx":
        assert {cell.data_type for row in openpyxl.load_workbook(path).active for cell in row} == {"s"}
    else:
        cells = [cell for row in csv.reader(path.read_text().splitlines()) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


@pytest.mark.parametrize("ending", ["xlsx", "csv"])
@pytest.mark.parametrize("form", ["lvit", "c2fvl"])
@given(st.lists(reports().map(lambda report: report.in_orientation("image")) | st.none(), min_size=1, max_size=5))
def test_reading_undoes_writing_of_tables(tmp_path_factory, ending, form, reports):
    path = tmp_path_factory.mktemp("tables") / f"Train_text.{ending}"
    write_table(path, [(f"mask_{number}.png", report) for number, report in enumerate(reports)], form=form)
    read = [row.report for row in read_table(path)]
    if form == "c2fvl":
        assert [report and report.attributes() for report in read] == [r and r.attributes() for r in reports]
    else:
        assert read == reports


@pytest.mark.parametrize(
    ("rows", "form", "message"),
    [
        ([], "lvit", "there are no rows to write"),
        ([("a.png", Report("none"))], "excel", "there is no table form 'excel'"),
        (
            [("a.png", Report("none")), ("a.png", Report("none"))],
            "lvit",
            r"row 3, column Image: 'a\.png' is given twice",
        ),
        ([("../a.png", Report("none"))], "lvit", "points outside"),
        ([("a.png", Report(zones={"lupper"}, orientation="patient"))], "lvit", "is in patient orientation"),
        ([("a.png", Report(text="Cells."))], "c2fvl", r"row 2: 'Cells\.' is free text and has no attributes"),
        ([("a.png", Report(text="bell \x07"))], "lvit", "row 2: 'bell .*holds a control character"),
    ],
)
def test_what_is_not_written(tmp_path, rows, form, message):
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"the old one")
    with pytest.raises(ValueError, match=message):
        write_table(path, rows, form=form)
    assert path.read_bytes() == b"the old one"


def test_the_ending_decides_how_a_table_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"written as \.xlsx or \.csv, not as \.txt"):
        write_table(tmp_path / "a.txt", [("a.png", Report("none"))])
    assert list(tmp_path.iterdir()) == []


def test_reading_reports_loads_neither_torch_nor_opencv():
    code = "import sys, c2fvl.reports.report; sys.exit(bool({'torch', 'cv2', 'openpyxl', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- the real captions


def survey(path):
    """Return the number of rows that are read in full, and (row, sentence, reason) of the others."""
    unread = []
    rows = read_table(path)
    for row in rows:
        if row.report is None:
            unread.append((row.row, "", "the cell is empty"))
        elif not row.report.has_attributes:
            unread.append((row.row, row.report.text, "free text, outside of the grammar"))
        elif row.report.unread:
            unread.append((row.row, row.report.text, f"not read: {'; '.join(row.report.unread)}"))
    return len(rows) - len(unread), unread


EMPTY = [3568, 3569, 3746, 3747, 5480, 5481]
"""Rows of the revised train captions without text."""


def real(name):
    path = REAL / name
    if not path.is_file():
        pytest.skip("the real captions are not beside the checkout")
    return path


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "read", "unread"),
    [
        ("qata-cov19/Train_text.xlsx", 5716, []),
        ("qata-cov19/Val_text.xlsx", 1429, []),
        ("qata-cov19/Train_attributes.xlsx", 5716, []),
        ("qata-cov19/Val_attributes.xlsx", 1429, []),
        ("qata-cov19/Train_text_revised.xlsx", 5710, "EMPTY"),
        ("qata-cov19/Val_text_revised.xlsx", 1429, []),
        ("mosmeddata-plus/all_train_captions.xlsx", 2183, []),
        ("mosmeddata-plus/all_val_captions.xlsx", 273, []),
        ("lv-loss/LV_loss.xlsx", 14, []),
    ],
)
def test_every_real_row_is_accounted_for(name, read, unread):
    found = survey(real(name))
    if unread == "EMPTY":  # opened by hand: the cells are empty
        unread = [(row, "", "the cell is empty") for row in EMPTY]
    assert found == (read, unread)
    assert not [row for row in read_table(REAL / name) if row.report and row.report.contradictions()]


@pytest.mark.real
def test_the_captions_of_nuclei_are_free_text(tmp_path):
    rows = 0
    with zipfile.ZipFile(real("monuseg/monuseg-500px.zip")) as archive:
        for member in archive.namelist():
            if member.endswith(".xlsx"):
                path = tmp_path / Path(member).name
                path.write_bytes(archive.read(member))
                read, unread = survey(path)
                assert read == 0
                assert {reason for _, _, reason in unread} == {"free text, outside of the grammar"}
                rows += len(unread)
    assert rows == 44


@pytest.mark.real
@pytest.mark.parametrize("split", ["Train", "Val"])
def test_sentences_and_attributes_of_qata_agree(split):
    sentences = read_table(real(f"qata-cov19/{split}_text.xlsx"))
    attributes = {row.name: row.report for row in read_table(REAL / f"qata-cov19/{split}_attributes.xlsx")}
    assert len(sentences) == len(attributes)
    assert [row.name for row in sentences if row.report != attributes[row.name]] == []


@pytest.mark.real
def test_ungrammatical_revised_captions_mean_what_their_films_show():
    rows = {row.name: row.report for row in read_table(real("qata-cov19/Train_text_revised.xlsx"))}
    assert rows["mask_covid_3101.png"].zones == LEFT | RIGHT
    assert rows["mask_covid_372.png"].zones == LEFT | {"rlower"}  # its left lesion reaches from row 12 to 154 of 224


@pytest.mark.real
def test_the_empty_slot_of_the_ct_template():
    """Unilateral, "left lung" without a height: right only; found here with a plain search in the sentence."""
    zones = Counter()
    for name in ("all_train_captions.xlsx", "all_val_captions.xlsx"):
        for row in read_table(real(f"mosmeddata-plus/{name}")):
            if row.report.text.startswith("Unilateral") and ", left lung and" in row.report.text:
                zones[row.report.zones] += 1
                assert row.report.side == "unilateral"
    assert zones == {
        frozenset({"rmiddle"}): 336,
        frozenset({"rlower"}): 47,
        frozenset({"rupper"}): 34,
        frozenset(RIGHT): 3,
    }


@pytest.mark.parametrize("place", ["upper rihgt lung", "lowerright lung", "all rightt lung"])
def test_a_mirrored_report_says_so_in_its_words_too(place):
    report = parse_report(f"Unilateral pulmonary infection, one infected area, {place}.")
    mirrored = report.mirrored()
    assert report.zones
    assert mirrored.zones != report.zones
    assert parse_report(mirrored.text) == mirrored
    assert mirrored.mirrored() == report
