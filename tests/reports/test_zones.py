"""Zones: their names, their mirror images, their words, and whose left is meant."""

import pytest

from c2fvl.reports.report import parse_report
from c2fvl.reports.zones import (
    HANDS,
    HEIGHTS,
    OTHER_HAND,
    ZONES,
    hand_in_words,
    hand_of,
    hands_of,
    height_of,
    in_words,
    mirrored,
    read_orientation,
    zone_at,
    zones_in_words,
    zones_of,
)


def test_a_zone_is_a_hand_and_a_height():
    assert [zone_at(hand, height) for hand in HANDS for height in HEIGHTS] == list(ZONES)
    assert [zone_at(hand_of(zone), height_of(zone)) for zone in ZONES] == list(ZONES)
    assert (*zones_of("left"), *zones_of("right")) == ZONES
    assert hands_of({"lupper", "llower"}) == {"left"} and hands_of(ZONES) == set(HANDS) and hands_of(()) == set()


def test_mirroring_exchanges_the_lungs_and_undoes_itself():
    assert mirrored("lupper") == "rupper" and mirrored("rlower") == "llower"
    for zone in ZONES:
        assert mirrored(mirrored(zone)) == zone
        assert (hand_of(mirrored(zone)), height_of(mirrored(zone))) == (OTHER_HAND[hand_of(zone)], height_of(zone))


def test_zones_in_words():
    assert in_words("rmiddle") == "right middle zone"
    assert zones_in_words({"rlower", "lupper", "lmiddle", "llower"}) == ["left lung", "right lower zone"]
    assert zones_in_words(()) == []


def test_a_hand_in_words_names_both_lefts():
    assert hand_in_words("left") == "image left (patient's right)"
    assert hand_in_words("left", "patient") == "patient's left (image right)"
    with pytest.raises(ValueError, match=r"must be 'image' .* or 'patient' .*, got 'viewer'"):
        hand_in_words("left", "viewer")


@pytest.mark.parametrize(
    ("cell", "orientation"),
    [("image", "image"), (" Viewer ", "image"), ("", "image"), ("PATIENT", "patient")],
)
def test_a_table_may_say_viewer(cell, orientation):
    assert read_orientation(cell) == orientation


def test_only_a_table_may_say_viewer():
    with pytest.raises(ValueError, match="got 'mirror'"):
        read_orientation("mirror")
    with pytest.raises(ValueError, match="got 'viewer'"):
        parse_report("Left lung.", orientation="viewer")
