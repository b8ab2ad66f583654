"""The battery: deterministic changes of the reports of a data set, to find out what a network makes of its text.

Each change takes all cases and returns them in their order with other reports. Words of a sentence are exchanged where
that is enough (left and right, upper and lower), so that a network that reads sentences sees nothing else change; where
zones or a count are new, the sentence is the canonical one. A report without what is to be changed stays as it is.
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
    """One change of reports."""

    name: str
    title: str
    """In words, for tables and charts."""
    is_wrong: bool
    """Whether the report then says of most films what is not so."""
    apply: Callable[[Sequence[Case], int], list[Case]]
    """(cases, seed) → the cases with other reports."""


def most_common_report(cases: Sequence[Case]) -> Report | None:
    """Return the most common report, of equally common ones the first by its words; None where there is none.

    Free texts count as one report only where their words are the same.
    """
    reports = [case.report for case in cases if case.report is not None]
    said = [(report, "" if report.has_attributes else report.text) for report in reports]
    counts = Counter(said)
    return min(counts, key=lambda entry: (-counts[entry], str(entry[0])), default=(None, ""))[0]


def perturbations(constant: Report | None) -> tuple[Perturbation, ...]:
    """Return every change but the second pass, in the order of the tables; `constant` is that of `constant_report`."""
    return (
        Perturbation("right", "its own report", False, lambda cases, seed: list(cases)),
        Perturbation("none", "no report", False, lambda cases, seed: _with(cases, [None] * len(cases))),
        Perturbation("paraphrase", "in other words", False, _each(paraphrase)),
        Perturbation("typing_errors", "with typing errors", False, _each(mistype)),
        Perturbation("zones_dropped", "half of the zones left out", False, _each(drop_zones)),
        Perturbation("count_wrong", "another number of areas", True, _each(miscount)),
        Perturbation("zone_off", "one zone off by one", True, _each(shift_zone)),
        Perturbation("upside_down", "upper and lower exchanged", True, _each(turn_upside_down)),
        Perturbation(
            "sides_exchanged", "left and right exchanged", True, _each(lambda report, draw: report.mirrored())
        ),
        Perturbation(
            "patient_orientation", "told in the patient's frame, read in the viewer's", True, _each(misread_orientation)
        ),
        Perturbation(
            "constant", "the most common report", True, lambda cases, seed: _with(cases, [constant] * len(cases))
        ),
        Perturbation("shuffled", "that of another film", True, _shuffle),
    )


def perturb_reports(cases: Sequence[Case], name: str, *, seed: int = 0) -> list[Case]:
    """Return the cases with the reports of one change of `perturbations`, "constant" made from these cases themselves.

    Raises `ValueError` for a change that is not known, and for "shuffled" among fewer than two films.
    """
    changes = {change.name: change for change in perturbations(most_common_report(cases))}
    if name not in changes:
        raise ValueError(f"the text is {name!r}; expected is one of {', '.join(changes)}")
    return changes[name].apply(cases, seed)


def _with(cases: Sequence[Case], reports: Sequence[Report | None]) -> list[Case]:
    return [dataclasses.replace(case, report=report) for case, report in zip(cases, reports, strict=True)]


def _each(change: OfReport) -> Callable[[Sequence[Case], int], list[Case]]:
    """Return the change of all cases by one of a report, with random numbers that depend on seed and place alone."""

    def apply(cases: Sequence[Case], seed: int) -> list[Case]:
        return _with(
            cases,
            [
                None if case.report is None else change(case.report, np.random.default_rng([seed, place]))
                for place, case in enumerate(cases)
            ],
        )

    return apply


def _shuffle(cases: Sequence[Case], seed: int) -> list[Case]:
    """Send the reports around one random circle of all films, so that none keeps its own; words may still agree."""
    if len(cases) < 2:
        raise ValueError("reports can only be shuffled among two films or more")
    order = np.random.default_rng(seed).permutation(len(cases))
    changed = list(cases)
    for place, source in zip(order, np.roll(order, 1), strict=True):
        changed[place] = dataclasses.replace(cases[place], report=cases[source].report)
    return changed


SEEDED = ("shuffled", "typing_errors", "paraphrase", "zones_dropped", "count_wrong", "zone_off")
"""Changes of the text that depend on the seed."""


def text_given(text: str, encoder: str, num_reports: int, num_cases: int) -> str:
    """Return in words which reports the films were given."""
    if encoder == "none":
        return "none, for the network reads none"
    if text == "none" or not num_reports:
        return "none" if text == "none" else "none, for no film has one that can be read"
    title = {change.name: change.title for change in perturbations(None)}[text]
    whose = "its own" if text == "right" else title if text in ("constant", "shuffled") else f"its own, {title}"
    return whose if num_reports == num_cases else f"{whose}, for the {num_reports} of {num_cases} films that have one"
