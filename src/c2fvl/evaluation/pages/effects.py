"""Paired differences as the page marks them: what helps, what harms, what makes no clear difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from c2fvl.evaluation.summary import ReportChange
from c2fvl.metrics.intervals import Estimate

_SIGNS = {"helps": "▲", "harm": "▼", "unclear": "●"}


@dataclass(frozen=True)
class Effect:
    """One paired difference of Dice; its sign differs in form and in colour."""

    title: str
    tag: str
    estimate: Estimate

    @property
    def effect(self) -> Literal["helps", "harm", "unclear"]:
        """Return on which side of 0 the whole confidence interval lies."""
        if self.estimate.low is not None and self.estimate.low > 0:
            return "helps"
        return "harm" if self.estimate.high is not None and self.estimate.high < 0 else "unclear"

    @property
    def sign(self) -> str:
        """Return the mark."""
        return _SIGNS[self.effect]

    @classmethod
    def of_reports(cls, changes: Sequence[ReportChange]) -> list["Effect"]:
        """Return the differences of all reports to no report, the most useful first."""
        found = [
            cls(row.title, "wrong" if row.is_wrong else "", row.difference_to_none)
            for row in changes
            if row.difference_to_none is not None
        ]
        return sorted(found, key=lambda effect: -effect.estimate.value)
