"""A sentence made from zones that were set by hand is read back as exactly these zones."""

import itertools

from c2fvl.reports.free_text.reader import read_free_text
from c2fvl.reports.report import default_orientation, parse_report
from c2fvl.reports.zones import HANDS, HEIGHTS, zone_at
from c2fvl.serve.readings import sentence_from_zones

NAMES = {f"{hand}_{height}": zone_at(hand, height) for hand in HANDS for height in HEIGHTS}


def test_every_setting_of_the_zones_is_read_back():
    for states in itertools.product(("lesion", "clear", None), repeat=6):
        zones = {name: state for name, state in zip(NAMES, states, strict=True) if state}
        text = sentence_from_zones(zones)
        if not zones:
            assert text == ""
            continue
        report = parse_report(text)
        assert not report.has_attributes, "it is free text, in which left is the patient's"
        assert default_orientation(text) == "patient"
        parsed = read_free_text(text)
        assert parsed.zones == {NAMES[name] for name, state in zones.items() if state == "lesion"}, text
        assert parsed.free == {NAMES[name] for name, state in zones.items() if state == "clear"}, text
        assert not (parsed.refusal or parsed.uncertain or parsed.not_understood or parsed.contradictions), text
