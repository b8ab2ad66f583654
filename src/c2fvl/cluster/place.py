"""Where an actor works. No torch."""

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from c2fvl.extensions import import_extension


@dataclass(frozen=True)
class Place:
    """Device, threads and folder of an actor."""

    device: str
    threads: int
    folder: str = field(default_factory=lambda: str(Path.cwd()))
    """In which the command was called."""
    extensions: tuple[str, ...] = ()
    """Modules of the user that are imported first."""

    def enter(self) -> None:
        """Make relative paths mean the same as where the command was called, and import the extensions."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ValueError(
                f"the machine {self.machine()} of the cluster has no folder {self.folder}, in which the command was "
                "called; call it from a folder that all machines share"
            ) from error
        for module in self.extensions:
            import_extension(module)

    @staticmethod
    def machine() -> str:
        """Return the name of this machine."""
        return platform.node()
