"""Free radiology sentences: what is read, what stays open, orientations, and texts made to break the reader."""

import contextlib
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2fvl.reports.encoders import FindingsEncoder
from c2fvl.reports.findings import FINDINGS, FIRST_ZONE, explain, findings_of, has_findings
from c2fvl.reports.free_text.reader import MAX_CHARACTERS, read_free_text
from c2fvl.reports.free_text.terms import TERMS
from c2fvl.reports.report import Report, parse_report
from c2fvl.reports.zones import ZONES

LEFT, RIGHT = "lupper lmiddle llower", "rupper rmiddle rlower"
ALL = f"{LEFT} {RIGHT}"

READ = [
    # sentence, zones named, zones free, side, number
    ("Patchy opacity in the left lower lobe.", "llower", "", None, None),
    ("Consolidation at the right base", "rlower", "", None, None),
    ("Ground-glass opacities in both upper zones.", "lupper rupper", "", "bilateral", None),
    ("Bibasal infiltrates.", "llower rlower", "", "bilateral", None),
    ("Bibasilar infiltrates are present", "llower rlower", "", "bilateral", None),
    ("The right lung is clear.", "", RIGHT, None, None),
    ("No focal consolidation.", "", ALL, "none", None),
    ("Left upper and middle zone opacities; right lung unremarkable.", "lupper lmiddle", RIGHT, "unilateral", None),
    ("Multifocal bilateral opacities", "", "", "bilateral", None),
    ("Right middle lobe pneumonia", "rmiddle", "", None, None),
    ("Consolidation in the lingula.", "lmiddle", "", None, None),
    ("Lingular opacification", "lmiddle", "", None, None),
    ("Left apical opacity", "lupper", "", None, None),
    ("Shadowing at the apex of the right lung", "rupper", "", None, None),
    ("Right perihilar haziness", "rmiddle", "", None, None),
    ("Hazy opacification of the left mid zone", "lmiddle", "", None, None),
    ("Both lungs are clear.", "", ALL, "none", None),
    ("The lungs are clear bilaterally.", "", ALL, "none", None),
    ("Lungs are clear", "", ALL, "none", None),
    ("No infection", "", ALL, "none", None),
    ("No evidence of pneumonia.", "", ALL, "none", None),
    ("Consolidation of the whole left lung", LEFT, "", None, None),
    ("Opacities throughout both lungs", ALL, "", "bilateral", None),
    ("LLL pneumonia", "llower", "", None, None),
    ("RUL consolidation. RML and RLL clear.", "rupper", "rmiddle rlower", None, None),
    ("L lower zone consolidation", "llower", "", None, None),
    ("Rt base and Lt apex infiltrates", "rlower lupper", "", "bilateral", None),
    ("left-lower-lobe consolidation", "llower", "", None, None),
    ("AIRSPACE DISEASE IN THE RIGHT UPPER LOBE", "rupper", "", None, None),
    ("Air-space opacities in the upper and lower lobes bilaterally", "lupper llower rupper rlower", "", "bilateral",
     None),
    ("Left and right lower lobe consolidation", "llower rlower", "", "bilateral", None),
    ("Right upper and left lower lobe opacities", "rupper llower", "", "bilateral", None),
    ("Consolidation in the left lower lobe, right upper lobe and lingula.", "llower rupper lmiddle", "", "bilateral",
     None),
    ("In the left lower zone, there is consolidation.", "llower", "", None, None),
    ("Left lung: consolidation in the lower zone. Right lung: clear.", "llower", RIGHT, "unilateral", None),
    ("Left lower lobe consolidation and the right lung is clear", "llower", RIGHT, "unilateral", None),
    ("Left lower lobe consolidation with clear right lung", "llower", RIGHT, "unilateral", None),
    ("Left lower lobe consolidation. Lungs are otherwise clear.", "llower",
     "lupper lmiddle rupper rmiddle rlower", "unilateral", None),
    ("The lungs are clear except for a right basal infiltrate.", "rlower",
     "lupper lmiddle llower rupper rmiddle", "unilateral", None),
    ("Unilateral infiltrate in the left mid zone", "lmiddle", RIGHT, "unilateral", None),
    ("Two opacities in the left lower lobe", "llower", "", None, 2),
    ("3 areas of ground-glass opacity in the right upper zone", "rupper", "", None, 3),
    ("Single consolidation in the right lower lobe; left lung clear", "rlower", LEFT, "unilateral", 1),
    ("A 2 cm opacity in the left upper lobe", "lupper", "", None, None),
    ("At least two opacities in the left upper lobe", "lupper", "", None, None),
    ("Two opacities in the left base and one in the right apex", "llower rupper", "", "bilateral", None),
    ("Two opacities in the left base. Consolidation of the right apex.", "llower rupper", "", "bilateral", None),
    ("No consolidation, effusion or pneumothorax.", "", ALL, "none", None),
    ("No pneumothorax, effusion or consolidation is seen in the right lung.", "", RIGHT, None, None),
    ("No opacity in the left upper, middle or lower zones", "", LEFT, None, None),
    ("Right lung free of infection", "", RIGHT, None, None),
    ("Right lung without infiltrates", "", RIGHT, None, None),
    ("Infiltrates are not seen in the right lung.", "", RIGHT, None, None),
    ("Bilateral opacities sparing the apices", "", "lupper rupper", "bilateral", None),
    ("Opacities throughout both lungs with sparing of the right upper zone", f"{LEFT} rmiddle rlower", "rupper",
     "bilateral", None),
    ("No focal consolidation. Diffuse ground-glass opacities in both lower zones.", "llower rlower", "", "bilateral",
     None),
    ("Heart and lungs are normal.", "", ALL, "none", None),
    ("Heart size is normal and lungs are clear.", "", ALL, "none", None),
    ("Normal chest radiograph.", "", ALL, "none", None),
    ("No acute cardiopulmonary abnormality.", "", ALL, "none", None),
    ("LLL consolidation obscuring the right heart border", "llower", "", None, None),
    ("Consolidation in the left lower lobe, small right pleural effusion.", "llower", "", None, None),
    ("Bibasal opacities, left greater than right", "llower rlower", "", "bilateral", None),
    ("Airspace opacities bilaterally, predominantly in the lower zones, worse on the left.", "llower rlower", "",
     "bilateral", None),
    ("No effusion. There is patchy opacity in the left\nlower lobe.", "llower", "", None, None),
    ("Consolidation in the left lower lobe, possible small effusion.", "llower", "", None, None),
    ("INDICATION: cough, ?pneumonia. FINDINGS: left lower zone consolidation. The right lung is clear.", "llower",
     RIGHT, "unilateral", None),
    ("Left basal consolidation in keeping with pneumonia", "llower", "", None, None),
    ("No lung lesion", "", ALL, "none", None),
    ("Neither lung shows consolidation", "", ALL, "none", None),
    ("COVID-19 pneumonia involving both lungs", "", "", "bilateral", None),
    ("Day 3 opacity in the left base", "llower", "", None, None),
    ("Opacities in all zones of the left lung", LEFT, "", None, None),
    ("Hazy left lower zone, larger than the right", "llower", "", None, None),
    ("Infiltrates in the left lung more than the right lung", "", "", "bilateral", None),
    ("Consolidation of the left upper lobe and the lingula with sparing of the left lower lobe", "lupper lmiddle",
     "llower", None, None),
    ("Infection of the left arm, the right lung is clear", "", RIGHT, None, None),
    ("No evidence of any consolidation, collapse, or effusion in either lung field.", "", ALL, "none", None),
    ("No consolidation or effusion on the left", "", LEFT, None, None),
    ("Except for LLL consolidation, the lungs are clear.", "llower", "lupper lmiddle rupper rmiddle rlower",
     "unilateral", None),
    ("Infection in the left lung, middle and lower", "lmiddle llower", "", None, None),
    ("Compared to prior, left lower lobe opacity has increased", "llower", "", None, None),
    ("Neither consolidation nor effusion in the right lung.", "", RIGHT, None, None),
    # open or contradicted in part
    ("Left lower lobe consolidation. Possible right basal opacity.", "llower", "", None, None),
    ("The lungs are clear. Possible LLL infiltrate.", "", "lupper lmiddle rupper rmiddle rlower", None, None),
    ("The lungs are clear. Opacity in the left lower lobe.", "", RIGHT, None, None),
    ("No consolidation in the left lung and opacity in the right base", "", LEFT, None, None),
    ("Unilateral opacity in the left lower zone and right upper zone", "llower rupper", "", None, None),
    ("Left lower lobe opacity. No pneumonia in the left lower lobe. Right lung clear.", "", RIGHT, None, None),
    ("The left lower lobe is consolidated, the left lung is clear", "", "", None, None),
    ("Right lung: upper zone clear, mid and lower zones consolidated.", "", "", None, None),
]  # fmt: skip

NOT_READ = [
    # nothing is known; the field in which the sentence is found
    ("Possible left lower lobe pneumonia", "uncertain"),
    ("Cannot exclude right basal consolidation", "uncertain"),
    ("Opacity in the left base may represent atelectasis", "uncertain"),
    ("Opacity in the left base, which may represent atelectasis", "uncertain"),
    ("?LLL consolidation", "uncertain"),
    ("LLL consolidation?", "uncertain"),
    ("Findings suggestive of right upper lobe pneumonia", "uncertain"),
    ("Pneumonia of the left lung is not excluded", "uncertain"),
    ("Previously seen left lower lobe opacity has resolved", "uncertain"),
    ("Left lower lobe opacity, previously seen, has resolved", "uncertain"),
    ("Left basal opacity is no longer seen", "uncertain"),
    ("No new consolidation", "uncertain"),
    ("No effusion, left lower lobe consolidation", "uncertain"),
    ("Opacity in the left lower or middle zone", "uncertain"),
    ("Opacities throughout both lungs except the right apex", "uncertain"),
    ("No bilateral consolidation", "uncertain"),
    ("Compared to prior, left lower lobe opacity is less dense", "uncertain"),
    ("No whiteout", "uncertain"),
    ("Opacity above the left base", "uncertain"),
    ("Bilateral lower zone opacities; the left one is the nipple", "uncertain"),
    ("Left lower zone opacity = nipple", "uncertain"),
    ("Consolidation in either base", "uncertain"),
    ("Consolidation in the base on the left of the image", "uncertain"),
    ("Consolidation in image-left base", "uncertain"),
    ("Left upper and middle lobe consolidation", "uncertain"),
    ("Consolidation in the middle lobe of the left lung", "uncertain"),
    ("Left lower lobe consolidation. Addendum: should read right lower lobe", "uncertain"),
    ("The left basal opacity wibbled", "uncertain"),
    ("One of the lungs is clear", "not_understood"),
    ("Small left pleural effusion", "not_understood"),
    ("Right apical pneumothorax", "not_understood"),
    ("Cardiomegaly", "not_understood"),
    ("Fracture of the left lower ribs", "not_understood"),
    ("Pacemaker in the left upper chest", "not_understood"),
    ("Right lower lobe atelectasis", "not_understood"),
    ("Costophrenic angles are clear", "not_understood"),
    ("The heart is normal", "not_understood"),
    ("Consolidation in the lower lobe", "not_understood"),
    ("Patchy opacities are seen", "not_understood"),
    ("Consolidation in the lower lobe of the liver and lungs", "not_understood"),
    ("Clear.", "not_understood"),
    ("The nuclei density in the upper right is high.", "not_understood"),
    ("Keine Infiltrate bilateral", "not_understood"),
    ("Sem pneumonia bilateral", "not_understood"),
    ("Pas de foyer de consolidation du lobe inférieur gauche", "not_understood"),
    ("左肺に浸潤影", "not_understood"),
]


def zones(names):
    return frozenset(names.split())


def swapped(names):
    return frozenset(("r" if name[0] == "l" else "l") + name[1:] for name in names)


@pytest.mark.parametrize(("sentence", "named", "free", "side", "number"), READ, ids=[row[0] for row in READ])
def test_what_is_read(sentence, named, free, side, number):
    found = read_free_text(sentence)
    assert (found.zones, found.free, found.side, found.number) == (zones(named), zones(free), side, number)
    is_nothing = not (named or free or side or number)
    assert bool(found.refusal) == is_nothing
    assert is_nothing or found.understood


@pytest.mark.parametrize(("sentence", "where"), NOT_READ, ids=[row[0] for row in NOT_READ])
def test_what_is_not_read_is_listed(sentence, where):
    found = read_free_text(sentence)
    assert (found.zones, found.free, found.side, found.number) == (frozenset(), frozenset(), None, None)
    assert found.refusal.startswith("no side and no zone could be read") or "another organ" in found.refusal
    assert getattr(found, where)
    assert not found.understood


@pytest.mark.parametrize("sentence", [row[0] for row in READ])
def test_the_orientation_exchanges_the_lungs(sentence):
    here, there = read_free_text(sentence), read_free_text(sentence, "patient")
    assert (there.zones, there.free) == (swapped(here.zones), swapped(here.free))
    assert (there.side, there.number, there.understood) == (here.side, here.number, here.understood)
    report = Report(text=sentence)
    mirrored = read_free_text(report.mirrored().text)
    assert (mirrored.zones, mirrored.free, mirrored.side) == (there.zones, there.free, here.side)
    converted = dataclasses.replace(report, orientation="patient").in_orientation("image")
    assert np.array_equal(FindingsEncoder().encode(converted)[0], findings_of(report.mirrored()), equal_nan=True)


def test_words_for_lungs_are_exchanged_and_others_are_not():
    text = "LLL, rul, Lt, L lung, left-sided, Lingula; 2 L oxygen, L2, l'image, cleft, Lift"
    assert Report(text=text).mirrored().text == (
        "RLL, lul, Rt, R lung, right-sided, Right middle lobe; 2 L oxygen, L2, l'image, cleft, Lift"
    )


def test_contradictions_are_named():
    found = read_free_text("Unilateral opacity in the left lung and right lung")
    assert found.contradictions == ("unilateral, with both lungs named",)
    assert "contradicts itself" in found.refusal
    found = read_free_text("The right lung is clear. Opacity in the right lower lobe.")
    assert found.contradictions == ("'Opacity in the right lower lobe' and 'The right lung is clear'",)
    assert not found.zones
    assert not found.free


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", "the text is empty"),
        (" \n\t", "the text is empty"),
        ("MRI of the brain: left upper abnormality", "another organ (brain)"),
        ("Infection of the left knee.", "another organ (knee)"),
        ("Opacity in the right lobe of the liver. No infection.", "another organ (liver)"),
        ("left lower lobe consolidation " * 1000, "30000 characters, more than 20000"),
        ("Opacity in the left base. " * 300, "300 statements, more than 200"),
    ],
)
def test_refusals(text, refusal):
    assert refusal in read_free_text(text).refusal


def test_a_long_report_is_read_where_it_speaks_of_the_lungs():
    page = "The patient was seen in the ward and was given water. The left leg hurts. Blood pressure is normal. "
    found = read_free_text(page * 150 + "There is consolidation in the left lower lobe. The right lung is clear.")
    assert (found.zones, found.free, found.side) == ({"llower"}, zones(RIGHT), "unilateral")
    assert found.understood == ("There is consolidation in the left lower lobe", "The right lung is clear")


HOSTILE = [
    "a", "left ", "left and ", "no ", "no opacity or ", "or ", "opacity ", "opacity or ", "opacity. ", "no ggo. ggo. ",
    "and left upper ", "left, ", "upper and ", "left upper zone and ", "1 ", "one small small ", "\n", "\n\n", "((((",
    "-", " - ", "? ", "?", "l.", "L", "no evidence of ", "no evidence ", "ground ", "L/R/", "clear ", "lung clear, ",
    "possible opacity left. ", "left lung clear. possible left base opacity. ", "\x00", "\u0301", "’", "lung: ",
]  # fmt: skip


_SECONDS = {"((((", "?"}
"""These take longest; the others ask the same."""


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(piece, marks=pytest.mark.slow(like="test_hostile_texts_return")) if piece in _SECONDS else piece
        for piece in HOSTILE
    ],
)
def test_hostile_texts_return(piece):
    text = (piece * MAX_CHARACTERS)[: MAX_CHARACTERS - 5] + "x"
    found = read_free_text(text, "patient")
    assert not found.zones & found.free
    assert "more than 20000" in read_free_text(text * 2).refusal
    assert not has_findings(Report(text=text * 2))


VOCABULARY = sorted(" ".join(key) for key in TERMS)


@settings(max_examples=400)
@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from([*VOCABULARY, ",", ".", ";", "?", "\n", ":", "L", "R", "2", "x"]), max_size=14).map(
        " ".join
    )
)
def test_any_text_is_read_in_some_consistent_way(text):
    found = read_free_text(text)
    assert not found.zones & found.free
    assert bool(found.refusal) == (not (found.zones or found.free) and found.side is None and found.number is None)
    hands = {zone[0] for zone in found.zones}
    assert not (found.side == "unilateral" and len(hands) == 2)
    assert not (found.side == "none" and (found.zones or found.free != frozenset(ZONES)))
    there = read_free_text(Report(text=text).mirrored().text)
    assert (there.zones, there.free, there.side) == (swapped(found.zones), swapped(found.free), found.side)
    assert explain(Report(text=text))


# ---- findings


def row(side=None, number=None, named="", free=""):
    found = np.full(len(FINDINGS), np.nan, np.float32)
    found[0], found[1] = (np.nan if value is None else value for value in (side, number))
    for place, zone in enumerate(ZONES, start=FIRST_ZONE):
        found[place] = 1 if zone in named.split() else 0 if zone in free.split() else np.nan
    return found


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (None, row()),
        (parse_report("Left lower lobe consolidation; right lung clear."), row(1, None, "llower", RIGHT)),
        (parse_report("The lungs are clear."), row(0, None, "", ALL)),
        (parse_report("Possible left lower lobe pneumonia."), row()),
        (parse_report("Bilateral pulmonary infection, two infected areas, lower left lung and lower right lung."),
         row(2, 2, "llower rlower", "lupper lmiddle rupper rmiddle")),
        (Report("bilateral", 2, {"llower"}), row(2, 2, "llower", "lupper lmiddle")),
        (Report("unilateral", 2, {"llower", "rlower"}),
         row(None, 2, "llower rlower", "lupper lmiddle rupper rmiddle")),
        (Report("none", None, {"llower"}), row()),
        (Report("none", 2), row()),
        (Report("none", 0), row(0, 0, "", ALL)),
        (Report(None, 0, {"llower"}), row()),
        (Report("unilateral", 0, {"llower"}), row()),
        (Report("bilateral", 0), row()),
    ],
)  # fmt: skip
def test_findings_of_captions_and_free_text(report, expected):
    assert np.array_equal(findings_of(report), expected, equal_nan=True)
    assert FindingsEncoder().reads(report) == has_findings(report) == (not np.isnan(expected).all())


def test_free_text_in_patient_orientation_is_converted_first():
    report = parse_report("LLL pneumonia, the right lung is clear", orientation="patient")
    with pytest.raises(ValueError, match="in_orientation"):
        findings_of(report)
    assert np.array_equal(findings_of(report.in_orientation("image")), row(1, None, "rlower", LEFT), equal_nan=True)


def test_explanations():
    text = "LLL consolidation. The right lung is clear. Small effusion. Possible RUL scarring, possible LUL opacity."
    assert explain(parse_report(text, orientation="patient")) == (
        "orientation: left is the patient's left (image right)",
        "named: left lower zone",
        "free: right middle zone, right lower zone",
        "not known: side, number, left upper zone, left middle zone, right upper zone",
        "uncertain: 'Possible RUL scarring, possible LUL opacity'",
        "not read: 'Small effusion'",
    )
    assert explain(parse_report("Unilateral pulmonary infection, two infected areas, lower left lung, drain.")) == (
        "orientation: left is the image left (patient's right)",
        "named: left lower zone",
        "free: right lung",
        "side: unilateral",
        "number: 2",
        "not known: left upper zone, left middle zone",
        "not read: 'drain'",
    )
    assert explain(Report("unilateral", None, {"llower", "rlower"}))[-1] == (
        "contradiction: unilateral, with zones of both lungs"
    )
    assert explain(None) == explain(Report()) == ("no report",)
    assert explain(Report(text="Cardiomegaly"))[-2:] == (
        "not read: 'Cardiomegaly'",
        "refused: no side and no zone could be read",
    )
    assert len(explain(Report(text="Small effusion. Fracture. " * 40))) == 4


def test_the_examples_of_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")
    (block,) = (code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "explain" in code)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(block, "reports.md", "exec"), {})
    assert said.getvalue().splitlines() == re.findall(r"^# (.*)$", block, re.M)
