"""What a run tells those who follow it. No torch."""

from pathlib import Path
from typing import Any

from c2fvl.config import Config


class Observer:
    """Follows a run; the command line draws a progress bar with it. Every method may be left as it is."""

    def start(self, run: Path, config: Config, num_train: int, num_val: int, resumed_at: int, *, is_main: bool) -> None:
        """Be told where the run writes and what it trains on; of several processes one is the main."""

    def step(self, epoch: int, batch: int, num_batches: int, loss: float, images_per_second: float) -> None:
        """Be told of a batch."""

    def epoch(self, line: dict[str, Any], best: bool) -> None:
        """Be told of an epoch."""
