"""The part of a data set that a trained network is run on, with the report that each case is given. No torch."""

from dataclasses import dataclass, replace
from pathlib import Path

from c2fvl.data.cases import Case
from c2fvl.data.perturbations import perturb_reports
from c2fvl.data.scan import scan


@dataclass(frozen=True)
class Part:
    """One split of a data set, and which report each of its cases is given."""

    root: Path | str
    """Folder or csv, as in `scan`."""
    split: str = "val"
    table: str | None = None
    """Caption table; None takes the one that the network was trained with."""
    text: str = "right"
    """The correct report, that of the case ("right"), none, or another change of `perturbations.perturbations`."""
    seed: int = 0
    """Of the changes of reports that are drawn at random."""
    ids: frozenset[str] | None = None
    """The ids of the cases to take; None takes all."""

    def with_text(self, text: str) -> "Part":
        """Return the same cases with other reports."""
        return replace(self, text=text)

    def captions(self, default: str = "") -> str | None:
        """Return the caption table that is read, where `default` is that of a network's settings; None for no other."""
        return self.table or default or None

    def cases(self, default_table: str = "") -> list[Case]:
        """Return the cases with the reports that they are given. Raises as `scan` and `perturb_reports`."""
        cases = scan(self.root, self.split, table=self.captions(default_table))
        if self.ids is not None:
            cases = [case for case in cases if case.id in self.ids]
        return perturb_reports(cases, self.text, seed=self.seed)
