"""Deterministic perturbations of the reports of a data set, to test how a network uses its reports.

Each perturbation takes all cases and returns them in their order with other reports. If possible only words of the
sentence are exchanged (left and right, upper and lower), so that nothing else changes for a network that reads
sentences; new zones or counts are written as the canonical sentence. A report that does not contain what is to be
changed stays as it is.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from c2fvl.data.cases import Case
from c2fvl.reports.perturbations import (
    Generator,
    drop_zones,
    miscount,
    misread_orientation,
    mistype,
    paraphrase,
    shift_zone,
    turn_upside_down,
)
from c2fvl.reports.report import Report

OfReport = Callable[[Report, Generator], Report | None]


@dataclass(frozen=True)
class Perturbation:
    """One perturbation of reports."""

    name: str
    title: str
    """A few words for tables and charts."""
    is_wrong: bool
    """Whether most reports are wrong afterwards."""
    apply: Callable[[Sequence[Case], int], list[Case]]
    """(cases, seed) → the cases with other reports."""


def most_common_report(cases: Sequence[Case]) -> Report | None:
    """Return the most common report, the first by its words of equally common ones; None without reports.

    Free texts count as one report only if their words are the same.
    """
    reports = [case.report for case in cases if case.report is not None]
    counts = Counter((report, "" if report.has_attributes else report.text) for report in reports)
    return min(counts, key=lambda entry: (-counts[entry], str(entry[0])), default=(None, ""))[0]


def perturbations(constant: Report | None) -> tuple[Perturbation, ...]:
    """Return all perturbations in the order of the tables; `constant` is that of `most_common_report`."""
    return (
        Perturbation("right", "correct report", False, lambda cases, seed: list(cases)),
        Perturbation("none", "no report", False, lambda cases, seed: _with(cases, [None] * len(cases))),
        Perturbation("paraphrase", "in other words", False, _each(paraphrase)),
        Perturbation("typing_errors", "with typing errors", False, _each(mistype)),
        Perturbation("zones_dropped", "half of the zones left out", False, _each(drop_zones)),
        Perturbation("count_wrong", "another number of lesions", True, _each(miscount)),
        Perturbation("zone_off", "one zone off by one", True, _each(shift_zone)),
        Perturbation("upside_down", "upper and lower exchanged", True, _each(turn_upside_down)),
        Perturbation(
            "sides_exchanged", "left and right exchanged", True, _each(lambda report, draw: report.mirrored())
        ),
        Perturbation(
            "patient_orientation", "patient orientation read as image orientation", True, _each(misread_orientation)
        ),
        Perturbation(
            "constant", "the most common report", True, lambda cases, seed: _with(cases, [constant] * len(cases))
        ),
        Perturbation("shuffled", "that of another case", True, _shuffle),
    )


def perturb_reports(cases: Sequence[Case], name: str, *, seed: int = 0) -> list[Case]:
    """Return the cases with the reports of the perturbation `name`; "constant" is the most common report of `cases`.

    Raises `ValueError` for an unknown name, and for "shuffled" among fewer than two cases.
    """
    known = {perturbation.name: perturbation for perturbation in perturbations(most_common_report(cases))}
    if name not in known:
        raise ValueError(f"the report is {name!r}; expected one of {', '.join(known)}")
    return known[name].apply(cases, seed)


def _with(cases: Sequence[Case], reports: Sequence[Report | None]) -> list[Case]:
    return [dataclasses.replace(case, report=report) for case, report in zip(cases, reports, strict=True)]


def _each(change: OfReport) -> Callable[[Sequence[Case], int], list[Case]]:
    """Return the perturbation of all cases by that of a report; random numbers depend on seed and index alone."""

    def apply(cases: Sequence[Case], seed: int) -> list[Case]:
        return _with(
            cases,
            [
                None if case.report is None else change(case.report, np.random.default_rng([seed, index]))
                for index, case in enumerate(cases)
            ],
        )

    return apply


def _shuffle(cases: Sequence[Case], seed: int) -> list[Case]:
    """Pass the reports around one random circle of all cases, so that none keeps its own; words may still agree."""
    if len(cases) < 2:
        raise ValueError("reports can only be shuffled among two cases or more")
    order = np.random.default_rng(seed).permutation(len(cases))
    shuffled = list(cases)
    for index, source in zip(order, np.roll(order, 1), strict=True):
        shuffled[index] = dataclasses.replace(cases[index], report=cases[source].report)
    return shuffled


SEEDED = ("shuffled", "typing_errors", "paraphrase", "zones_dropped", "count_wrong", "zone_off")
"""Perturbations that depend on the seed."""


def text_given(text: str, encoder: str, num_reports: int, num_cases: int) -> str:
    """Return in words which reports the cases were given."""
    if encoder == "none":
        return "none, because the network reads none"
    if text == "none" or not num_reports:
        return "none" if text == "none" else "none, because no case has a readable one"
    title = {perturbation.name: perturbation.title for perturbation in perturbations(None)}[text]
    whose = "correct" if text == "right" else title if text in ("constant", "shuffled") else f"its own, {title}"
    return whose if num_reports == num_cases else f"{whose}, for the {num_reports} of {num_cases} cases that have one"
