"""Count faults of captions that show in their words, by kind: the faults that the published tables have.

A caption with a fault is read all the same, as far as possible (`caption_grammar.py`). The counts tell how far to trust
a table.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from c2fvl.reports.report import Report

MAX_EXAMPLES = 3
CAPPED = "counts that end at a limit"

_MIN_CAP, _MIN_CAPPED = 5, 10  # a lower highest count, or a rarer one, proves nothing
_EMPTY_SLOT = re.compile(r"(?:(?<!upper)(?<!middle)(?<!lower)[,.;]|(?<!upper )(?<!middle )(?<!lower )\band)\s+"
                         r"(?:left|right)\s+lungs?\b", re.IGNORECASE)  # fmt: skip
_NO_HAND = re.compile(r"\b(?:all|upper|middle|lower)\s+lungs?\b", re.IGNORECASE)
_ALL_AND_HEIGHT = re.compile(r"\ball\s+(?:upper|middle|lower)\b", re.IGNORECASE)
_ONE_AREAS = re.compile(r"\bone\s+infected\s+areas\b", re.IGNORECASE)


def has_empty_slot(report: Report) -> bool:
    """Tell whether the sentence names a lung without a zone, such as "left lung and lower right lung"."""
    return bool(_EMPTY_SLOT.search(report.text))


_KINDS: Mapping[str, Callable[[Report], bool]] = MappingProxyType(
    {
        "empty slot, a lung without a zone": has_empty_slot,
        "one infected areas": lambda report: bool(_ONE_AREAS.search(report.text)),
        "doubled full stop": lambda report: ".." in report.text,
        "zone without left or right": lambda report: bool(_NO_HAND.search(report.text)),
        "all beside a single height": lambda report: bool(_ALL_AND_HEIGHT.search(report.text)),
        "bilateral with one area": lambda report: report.side == "bilateral" and report.number == 1,
        "contradicts itself": lambda report: bool(report.contradictions()),
        "read in part": lambda report: bool(report.unread),
    }
)


@dataclass(frozen=True)
class Fault:
    """One kind of fault: the number of captions that have it, and the first of them as "name: caption"."""

    kind: str
    count: int
    examples: tuple[str, ...]


def find_faults(captions: Sequence[tuple[str, Report | None]]) -> tuple[Fault, ...]:
    """Return the faults of captions, given as (name, report), in a fixed order; kinds that do not occur are left out.

    A report of None is an empty cell. Free text counts as a fault only if most of the captions are in the grammar.
    """
    reports = [(name, report) for name, report in captions if report is not None]
    read = [(name, report) for name, report in reports if report.has_attributes]
    faults = [_fault("empty cell", [(name, None) for name, report in captions if report is None])]
    if len(read) > len(reports) / 2:
        faults.append(_fault("not read at all", [entry for entry in reports if not entry[1].has_attributes]))
    faults += [_fault(kind, [entry for entry in read if has_fault(entry[1])]) for kind, has_fault in _KINDS.items()]
    faults.append(_fault(CAPPED, _capped(read)))
    return tuple(fault for fault in faults if fault.count)


def _fault(kind: str, entries: Sequence[tuple[str, Report | None]]) -> Fault:
    shown = [f"{name}: {(report.text or str(report)) if report else ''}" for name, report in entries[:MAX_EXAMPLES]]
    return Fault(kind, len(entries), tuple(text.removesuffix(": ") for text in shown))


def _capped(read: Sequence[tuple[str, Report]]) -> list[tuple[str, Report]]:
    """Return the captions with the highest count, if more captions have it than have the next lower count.

    Higher counts are rarer, so many captions at the highest one mean that counting stopped there.
    """
    counts = Counter(report.number for _, report in read if report.number is not None)
    highest = max(counts, default=0)
    if highest < _MIN_CAP or counts[highest] < _MIN_CAPPED or counts[highest] <= counts[highest - 1]:
        return []
    return [entry for entry in read if entry[1].number == highest]
