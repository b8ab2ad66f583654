"""How long-running work reports its progress. The command line draws it; the library alone prints nothing."""

from typing import Protocol


class Progress(Protocol):
    """Follows long work: its stages, and how much of the present stage is done."""

    def stage(self, text: str) -> None:
        """Begin a stage, named in a few words; what `advance` counts begins anew."""

    def advance(self, done: int, total: int) -> None:
        """Say that so many of all are done."""


class Silent:
    """A `Progress` that tells nothing."""

    def stage(self, text: str) -> None:
        """Do nothing."""

    def advance(self, done: int, total: int) -> None:
        """Do nothing."""


SILENT = Silent()
