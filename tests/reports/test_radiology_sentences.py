"""Sentences of radiologists: how many are read rightly, partly, not at all; none may be read wrongly."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from c2fvl.reports.findings import FINDINGS, TRUST, findings_of
from c2fvl.reports.report import SIDES, parse_report
from c2fvl.reports.zones import ZONES

ROWS = [
    line.split("\t")
    for line in (Path(__file__).parent / "radiology_sentences.tsv").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
CODES = {
    "-": (), "L": ZONES[:3], "R": ZONES[3:], "ALL": ZONES,
    **{hand.upper() + height.upper(): (zone,) for hand, height, zone in ((z[0], z[1], z) for z in ZONES)},
}  # fmt: skip


def outcome(row):
    """Return "right", "partly", "refused" or "wrong" for a row of the table."""
    _, sentence, named, free, side, number = row
    expected = {zone: 0.0 for code in free.split() for zone in CODES[code]}
    expected |= {zone: 1.0 for code in named.split() for zone in CODES[code]}
    if side != "-":
        expected["side"] = float(SIDES.index(side))
    if number != "-":
        expected["number"] = float(number)
    report = parse_report(sentence.replace("\\n", "\n"), orientation="patient")
    converted = findings_of(report.in_orientation("image"))
    found = findings_of(parse_report(report.text))
    swap = [*range(2), *range(5, 8), *range(2, 5), TRUST]
    assert np.array_equal(converted[swap], found, equal_nan=True), sentence
    read = {name: value for name, value in zip(FINDINGS[:TRUST], found.tolist(), strict=False) if not np.isnan(value)}
    if any(expected.get(name) != value for name, value in read.items()):
        return "wrong"
    return "right" if read == expected else "partly" if read else "refused"


@pytest.mark.parametrize("row", ROWS, ids=[row[1] for row in ROWS])
def test_no_sentence_is_read_wrongly(row):
    assert outcome(row) != "wrong"


def test_the_documentation_has_the_counts():
    counts = Counter(map(outcome, ROWS))
    line = (
        f"| {len(ROWS)} sentences | {counts['right']} | {counts['partly']} | {counts['refused']} | {counts['wrong']} |"
    )
    assert line in (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")
