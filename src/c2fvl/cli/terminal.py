"""Progress on the terminal: bars if the error stream is a terminal, else lines only."""

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from c2fvl.cli.options import PROGRAM
from c2fvl.config import Config
from c2fvl.messages import printable
from c2fvl.training.callbacks import Observer


class TerminalObserver(Observer):
    """A bar with loss, best Dice, images per second and time left; a line at the end of each epoch."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.is_main = True
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(None),
            TextColumn(
                "loss {task.fields[loss]:.3f}, best Dice {task.fields[dice]}, {task.fields[rate]:.0f} images/s,"
            ),
            TimeElapsedColumn(),
            TextColumn("gone,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, epoch="", loss=0.0, dice="–", rate=0.0)
        self._epochs = 0
        self._best = "–"

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, run: Path, config: Config, num_train: int, num_val: int, resumed_at: int, *, is_main: bool) -> None:
        """Print where the run writes."""
        self.is_main, self._epochs = is_main, 0 if config.train.minutes else config.train.epochs
        if not is_main:
            self._bar.disable = True
            return
        begun = f"Resuming after epoch {resumed_at}" if resumed_at else "Training"
        self._say(
            f"{begun}: {config.preset}, {num_train} training images, {num_val} validation images; writing to {run}"
        )

    def step(self, epoch: int, batch: int, num_batches: int, loss: float, images_per_second: float) -> None:
        """Move the bar."""
        self._bar.update(
            self._task,
            total=num_batches * self._epochs or None,
            completed=num_batches * (epoch - 1) + batch,
            epoch=self._numbered(epoch),
            loss=loss,
            rate=images_per_second,
            dice=self._best,
        )

    def epoch(self, line: dict[str, Any], best: bool) -> None:
        """Print the epoch's line."""
        if best:
            self._best = f"{line['val_dice_per_image']:.4f}"
            self._bar.update(self._task, dice=self._best)  # after the last epoch there is no further step
        if self.is_main:
            scores = ""
            if "val_loss" in line:
                scores = (
                    f", validation loss {line['val_loss']:.4f}, Dice {line['val_dice_per_image']:.4f}, "
                    f"IoU {line['val_iou_per_image']:.4f} per image{' (best)' if best else ''}"
                )
            self._say(
                f"epoch {self._numbered(line['epoch'])}: loss {line['train_loss']:.4f}{scores}, "
                f"{line['images_per_second']:.1f} images/s"
            )

    def _numbered(self, epoch: int) -> str:
        return f"{epoch}/{self._epochs}" if self._epochs else str(epoch)

    def _say(self, text: str) -> None:
        self.console.print(printable(text), highlight=False, soft_wrap=True, markup=False)


class TerminalProgress:
    """A `Progress`: a bar with images per second on a terminal, and a line for each stage."""

    def __init__(self, title: str = "", *, quiet: bool = False) -> None:
        self.console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f}/s"), TimeRemainingColumn(),
            console=self.console, disable=quiet or not self.console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=None, rate=0.0)
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def stage(self, text: str) -> None:
        """Print the stage; the bar begins anew."""
        self.console.print(f"{PROGRAM}: {printable(text)}", highlight=False, soft_wrap=True, markup=False)
        self._bar.reset(self._task, total=None, description=printable(text))
        self._began = time.monotonic()

    def advance(self, done: int, total: int) -> None:
        """Move the bar, which is drawn from the first call on."""
        self._bar.start()
        rate = done / max(time.monotonic() - self._began, 1e-9)
        self._bar.update(self._task, completed=done, total=total, rate=rate)
