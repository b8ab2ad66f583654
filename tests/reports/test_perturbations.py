"""What each perturbation does to reports, on hand-made ones and on all combinations of zones."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2fvl.data.cases import Case
from c2fvl.data.perturbations import most_common_report, perturb_reports, perturbations
from c2fvl.reports.caption_tables import read_table
from c2fvl.reports.report import SIDES, Report, parse_report
from c2fvl.reports.zones import ZONES

BOTH = "Bilateral pulmonary infection, two infected areas, upper left lung and middle lower right lung."
ONE = "Unilateral pulmonary infection, one infected area, upper middle left lung."
NONE = "No pulmonary infection, zero infected areas."
FREE = "Pneumonia of the lower lobe, follow up in two weeks"
NEIGHBOURS = {
    "lupper": {"lmiddle", "rupper"}, "lmiddle": {"lupper", "llower", "rmiddle"}, "llower": {"lmiddle", "rlower"},
    "rupper": {"rmiddle", "lupper"}, "rmiddle": {"rupper", "rlower", "lmiddle"}, "rlower": {"rmiddle", "llower"},
}  # fmt: skip
NAMES = tuple(change.name for change in perturbations(None))


def cases_of(*reports):
    return [
        Case(f"f{place}", Path(f"f{place}.png"), None, report, None)
        for place, report in enumerate(
            parse_report(report) if isinstance(report, str) else report for report in reports
        )
    ]


def changed(name, *reports, seed=0):
    return [case.report for case in perturb_reports(cases_of(*reports), name, seed=seed)]


@st.composite
def reports(draw):
    """Every report that can be made, contradictory ones too, with and without the sentence."""
    report = Report(
        draw(st.sampled_from([None, *SIDES])),
        draw(st.one_of(st.none(), st.integers(0, 25))),
        frozenset(draw(st.sets(st.sampled_from(ZONES)))),
        draw(st.sampled_from(["image", "image", "patient"])),
    )
    return dataclasses.replace(report, text=str(report)) if draw(st.booleans()) else report


def test_every_change_has_a_title_and_says_whether_it_is_wrong():  # tests/test_docs.py: the commands know them all
    assert all(change.title for change in perturbations(None))
    harmless = {change.name for change in perturbations(None) if not change.is_wrong}
    assert harmless == {"right", "none", "paraphrase", "typing_errors", "zones_dropped"}


@given(st.lists(reports(), min_size=2, max_size=4), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_changes_depend_on_the_seed_alone_and_keep_cases_in_order(given_reports, seed):
    cases = cases_of(*given_reports)
    for name in NAMES:
        first, again = (perturb_reports(cases, name, seed=seed) for _ in range(2))
        assert first == again
        assert [case.report and case.report.text for case in first] == [
            case.report and case.report.text for case in again
        ]
        bare = [dataclasses.replace(case, report=None) for case in cases]
        assert [dataclasses.replace(case, report=None) for case in first] == bare
        assert all(case.report is None or case.report.orientation in ("image", "patient") for case in first)
    assert perturb_reports(cases, "right", seed=seed) == cases


@given(reports())
@settings(max_examples=100, deadline=None)
def test_sides_exchanged_twice_is_the_report_again(report):
    (once,) = changed("sides_exchanged", report)
    (twice,) = changed("sides_exchanged", once)
    assert once.zones == {("r" if zone[0] == "l" else "l") + zone[1:] for zone in report.zones}
    assert (once.side, once.number, once.orientation) == (report.side, report.number, report.orientation)
    assert twice == report
    assert twice.text == report.text


@given(reports())
@settings(max_examples=100, deadline=None)
def test_upside_down_exchanges_upper_and_lower_in_both_lungs(report):
    (found,) = changed("upside_down", report)
    turned = {"upper": "lower", "middle": "middle", "lower": "upper"}
    assert found.zones == {zone[0] + turned[zone[1:]] for zone in report.zones}
    assert (found.side, found.number) == (report.side, report.number)
    assert changed("upside_down", found) == [report]
    if found.text:
        assert parse_report(found.text, orientation=found.orientation) == found


def test_words_are_exchanged_and_nothing_else_of_the_sentence():
    sentence = "Unilateral pulmonary infection,one infected area, Upper left lung. UPPER LEFT lung"
    (turned,) = changed("upside_down", sentence)
    assert turned.text == "Unilateral pulmonary infection,one infected area, Lower left lung. LOWER LEFT lung"
    (mirrored,) = changed("sides_exchanged", sentence)
    assert mirrored.text == "Unilateral pulmonary infection,one infected area, Upper right lung. UPPER RIGHT lung"


@pytest.mark.parametrize("name", ["sides_exchanged", "upside_down"])
@pytest.mark.parametrize(
    "sentence",
    ["Unilateral infection, one infected area, upper rihgt lung.", "Unilateral infection, higher left lung.",
     "Bilateral infection, uppper left lung and loewr right lung.", "Unilateral infection, lowerright lung."],
)  # fmt: skip
def test_a_sentence_with_slips_still_says_what_was_exchanged(name, sentence):
    """Whoever reads the words must find the same change as who reads the zones."""
    (found,) = changed(name, sentence)
    assert found != parse_report(sentence)
    assert parse_report(found.text) == found


@given(reports(), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_one_zone_moves_to_a_neighbour(report, seed):
    (found,) = changed("zone_off", report, seed=seed)
    gone, new = report.zones - found.zones, found.zones - report.zones
    if not report.zones or len(report.zones) == len(ZONES):
        assert found == report
        return
    assert (len(gone), len(new)) == (1, 1)
    assert new <= NEIGHBOURS[next(iter(gone))]
    assert found.number == report.number
    if report.side in ("unilateral", "bilateral"):
        assert found.side == ("bilateral" if len({zone[0] for zone in found.zones}) == 2 else "unilateral")
    else:
        assert found.side == report.side
    assert parse_report(found.text, orientation=found.orientation) == found


def test_every_move_of_a_zone_is_made_for_some_seed():
    found = {
        next(iter(changed("zone_off", Report("unilateral", 1, {"lmiddle"}), seed=seed)[0].zones)) for seed in range(60)
    }
    assert found == NEIGHBOURS["lmiddle"]


@given(reports(), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_the_count_is_never_the_true_one(report, seed):
    (found,) = changed("count_wrong", report, seed=seed)
    if not report.number or report.number > 23:
        assert found == report
        return
    assert found.number != report.number
    assert 1 <= found.number <= 20
    assert abs(found.number - report.number) <= 3
    assert (found.side, found.zones, found.orientation) == (report.side, report.zones, report.orientation)
    assert parse_report(found.text, orientation=found.orientation) == found


@given(reports(), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_half_of_the_zones_are_left_out(report, seed):
    (found,) = changed("zones_dropped", report, seed=seed)
    assert found.zones <= report.zones
    assert len(found.zones) == -(-len(report.zones) // 2)
    assert (found.side, found.number, found.orientation) == (report.side, report.number, report.orientation)
    if len(report.zones) > 1:
        assert parse_report(found.text, orientation=found.orientation) == found


@given(reports(), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_a_paraphrase_says_the_same_in_other_words(report, seed):
    (found,) = changed("paraphrase", report, seed=seed)
    assert found == report
    assert not found.unread
    if report.has_attributes:
        assert parse_report(found.text, orientation=found.orientation) == report
        if report.zones or report.number is not None or report.side != "none":
            assert found.text != str(report) or report.side is None


@pytest.mark.parametrize("sentence", [BOTH, ONE, NONE])
def test_typing_errors_change_letters_and_are_read_the_same(sentence):
    texts = set()
    for seed in range(30):
        (found,) = changed("typing_errors", sentence, seed=seed)
        assert found == parse_report(sentence)
        assert not found.unread
        texts.add(found.text)
        words, others = sentence.split(), found.text.split()
        assert len(words) == len(others)
        slips = [(word, other) for word, other in zip(words, others, strict=True) if word != other]
        assert len(slips) <= 2
        for word, other in slips:
            assert len(word.rstrip(".,")) >= 6
            assert word[0] == other[0]
            assert abs(len(word) - len(other)) <= 1
    assert len(texts) > 20
    assert len(texts - {sentence}) >= len(texts) - 1


@pytest.mark.real
def test_the_published_captions_are_read_the_same_with_slips_and_in_other_words(real_data):
    tables = sorted(real_data.rglob("*_text*.xlsx"))
    assert tables
    for table in tables:
        found = list({row.report.text: row.report for row in read_table(table) if row.report is not None}.values())
        for name in ("paraphrase", "typing_errors"):
            wrong = [
                (old.text, new.text)
                for old, new in zip(found, changed(name, *found, seed=3), strict=True)
                if new != old
            ]
            assert len(wrong) <= 0.01 * len(found), (table, wrong[:5])
        for name in ("upside_down", "sides_exchanged", "zone_off", "count_wrong", "zones_dropped"):
            for new in changed(name, *found, seed=3):
                assert not new.has_attributes or parse_report(new.text) == new, (table, name, new.text)


@given(reports())
@settings(max_examples=100, deadline=None)
def test_the_other_orientation_equals_mirrored_findings(report):
    report = dataclasses.replace(report, orientation="image")
    (found,) = changed("patient_orientation", report)
    assert found == report.mirrored()
    assert found.orientation == "image"


def test_no_case_keeps_its_own_report_when_shuffled():
    numbered = cases_of(*(Report(number=place) for place in range(9)))
    for seed in range(20):
        given_numbers = [case.report.number for case in perturb_reports(numbered, "shuffled", seed=seed)]
        assert sorted(given_numbers) == list(range(9))
        assert all(number != place for place, number in enumerate(given_numbers))
    assert changed("shuffled", BOTH, None) == [None, parse_report(BOTH)]
    for few in ([], [BOTH]):
        with pytest.raises(ValueError, match="two cases or more"):
            changed("shuffled", *few)


def test_the_most_common_report_is_given_to_all():
    assert changed("constant", ONE, BOTH, None, BOTH) == [parse_report(BOTH)] * 4
    assert most_common_report(cases_of(ONE, BOTH)) == most_common_report(cases_of(BOTH, ONE)) == parse_report(BOTH)
    assert most_common_report(cases_of(None, None)) is None
    assert most_common_report([]) is None
    assert changed("constant", None, None) == [None, None]


def test_free_texts_of_other_words_do_not_count_together():
    """All free texts are equal as reports, for none has attributes; as the most common one they must not add up."""
    cases = cases_of("Cough", "Fever", "Follow up", ONE, ONE, BOTH)
    assert most_common_report(cases).text == ONE
    assert most_common_report(cases_of("Cough", "Fever", "Fever")).text == "Fever"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "sentence", [FREE, "", "  ", "äöü ☃ <script>", "?" * 200, "Verschattung rechts basal\nund links"]
)
def test_nothing_is_made_up_of_free_text(name, sentence):
    first, second, third = changed(name, sentence, Report(), None)
    for found in (first, second, third):
        assert found is None or not found.has_attributes
    if name not in ("none", "constant", "shuffled"):
        assert third is None
        assert first is not None
    if name in ("right", "paraphrase", "zones_dropped", "count_wrong", "zone_off"):
        assert first.text == sentence.strip()


@pytest.mark.parametrize("name", ["paraphrase", "typing_errors", "zones_dropped", "count_wrong", "zone_off",
                                  "upside_down", "sides_exchanged", "patient_orientation"])  # fmt: skip
def test_no_infection_stays_no_infection(name):
    for report in (parse_report(NONE), Report("none"), Report("none", 0), Report(number=0)):
        assert changed(name, report) == [report]


def test_random_numbers_of_a_case_do_not_depend_on_its_neighbours():
    many = changed("zone_off", *[BOTH] * 12, seed=4)
    assert changed("zone_off", *[BOTH] * 5, seed=4) == many[:5]
    assert len({report.zones for report in many}) > 1


def test_what_is_no_change_is_named():
    with pytest.raises(ValueError, match=r"the report is 'wrong'; expected one of right, none, paraphrase"):
        perturb_reports(cases_of(BOTH), "wrong")
    assert not np.any([change.name == "from_own_mask" for change in perturbations(None)])
