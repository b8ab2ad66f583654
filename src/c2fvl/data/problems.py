"""Something wrong with a data set, as a value that can be counted, sorted and printed."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One problem: its kind, where it is, what was found and what to do.

    `severity` is "error" if the data cannot be used as it is, else "warning".
    """

    kind: str
    where: str
    what: str
    remedy: str
    severity: str = "error"

    def __str__(self) -> str:
        prefix = "" if self.what.startswith(self.where) else f"{self.where}: "
        return f"{prefix}{self.what}; {self.remedy}"

    @classmethod
    def from_error(cls, kind: str, where: Path | str, error: Exception) -> "Problem":
        """Return an error of this package, whose message is "where: what; what to do", as a problem."""
        what, _, remedy = str(error).removeprefix(f"{where}: ").rpartition("; ")
        return cls(kind, str(where), what or remedy, remedy if what else "correct it and check again")
