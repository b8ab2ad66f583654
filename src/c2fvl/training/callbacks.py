"""Callbacks of a run. No torch."""

from pathlib import Path
from typing import Any

from c2fvl.config import Config


class Observer:
    """Follows a run; override what you need. The command line draws its progress bar with it."""

    def start(self, run: Path, config: Config, num_train: int, num_val: int, resumed_at: int, *, is_main: bool) -> None:
        """Called once, before the first epoch; of several processes one is the main process."""

    def step(self, epoch: int, batch: int, num_batches: int, loss: float, images_per_second: float) -> None:
        """Called after each batch, on a GPU when its loss is read."""

    def epoch(self, line: dict[str, Any], best: bool) -> None:
        """Called after each epoch with its line of the log; `best` tells whether the model was kept."""
