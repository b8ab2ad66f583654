"""Settings that train in seconds, and a run that is left half way."""

import shutil

from c2fvl.training.callbacks import Observer

TIMES = {"train_seconds", "val_seconds", "images_per_second", "waiting_fraction"}
"""What a run's log says of time, which no two runs share."""

TINY = (
    "data.image_size=32", "model.arguments.image_size=32", "model.arguments.base_width=8", "train.threads=1",
    "train.epochs=2", "train.batch_size=4", "train.device=cpu",
)  # fmt: skip
"""Overrides of the preset `debug` that make an epoch take about a second."""


class CopyAfterFirst(Observer):
    """Copies the run folder after its first epoch, to be resumed as if the training had ended there."""

    def __init__(self, target):
        self.target = target

    def start(self, run, *arguments, **keywords):
        self.run = run

    def epoch(self, line, best):
        if line["epoch"] == 1:
            shutil.copytree(self.run, self.target)
