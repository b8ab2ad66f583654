"""Steps of the optimizer: the arithmetic of one step, its losses, and steps on batches that a loader reads."""

import contextlib
import math
import time
from typing import Protocol

import torch
from torch import Tensor, nn

from c2fvl.data.batches import Batch, EpochBatches, iterate_batches
from c2fvl.inference.precision import autocast
from c2fvl.training.setup import Run


class StepLosses:
    """The loss terms of the batches since the last reading, which stay on the device until then."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._rows: list[Tensor] = []
        self._ids: list[list[str]] = []

    def add(self, names: tuple[str, ...], row: Tensor, ids: list[str]) -> None:
        """Note the terms (T,) of a batch, their names and the cases in it."""
        self._names = names
        self._rows.append(row)
        self._ids.append(ids)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, epoch: int, last_batch: int) -> list[dict[str, float]]:
        """Return the terms of each batch and forget them; a GPU is waited for here and nowhere else.

        Raises `ValueError` for a loss that is not finite, with the images of the first such batch.
        """
        rows = torch.stack(self._rows).tolist()
        batches = [dict(zip(self._names, row, strict=True)) for row in rows]
        for number, (terms, ids) in enumerate(zip(batches, self._ids, strict=True), start=last_batch - len(rows) + 1):
            if not math.isfinite(terms["loss"]):
                raise ValueError(
                    f"the loss is {terms['loss']} in epoch {epoch}, batch {number}, with the images {', '.join(ids)}; "
                    "the state saved last is kept. Look at these images, lower optimizer.learning_rate, or set "
                    "optimizer.clip_norm=1"
                )
        self._rows, self._ids = [], []
        return batches


class Steps(Protocol):
    """Takes the steps of an epoch, wherever its batches come from."""

    losses: StepLosses

    def start_epoch(self) -> None:
        """Go to the position of the run in its current epoch."""

    def step(self, num_batches: int) -> None:
        """Take one step by the mean gradient of the next batches and note their losses."""


class StreamedSteps:
    """Steps on batches that are read while the network computes."""

    def __init__(self, run: Run) -> None:
        self.run, self.losses = run, StepLosses()

    def start_epoch(self) -> None:
        """Begin to read the current epoch, after the batches that are finished."""
        run, settings = self.run, self.run.config.train
        keys = EpochBatches(
            len(run.train_data), settings.batch_size, epoch=run.progress.epoch, seed=settings.seed,
            rank=run.rank, world=run.world, first=run.progress.batches,
        )  # fmt: skip
        on_gpu = run.device.type == "cuda"
        self._batches = iterate_batches(run.train_data, keys, workers=run.config.data.workers, pin_memory=on_gpu)

    def step(self, num_batches: int) -> None:
        """Take one step by the mean gradient of the next batches and note their losses."""
        self.run.optimizer.zero_grad()
        for number in range(num_batches):
            began = time.monotonic()
            batch = next(self._batches)
            self.run.progress.waiting += time.monotonic() - began
            terms = add_gradients(self.run, batch.to(self.run.device), num_batches, is_last=number + 1 == num_batches)
            self.losses.add(tuple(terms), row_of(terms), batch.ids)
        apply_gradients(self.run)
        update_ema(self.run)


def add_gradients(run: Run, batch: Batch, num_batches: int, *, is_last: bool) -> dict[str, Tensor]:
    """Add the gradients of one of the batches of a step; return its loss terms.

    Processes exchange gradients with the last batch only.
    """
    assert batch.mask is not None
    target = batch.mask if run.teachers is None else run.teachers.soften(batch)
    with contextlib.nullcontext() if is_last else run.accelerator.no_sync(run.model):
        with autocast(run.device, run.config.train.precision):
            output = run.model(batch.image, batch.text)
        terms = run.loss(output, target, batch.text, batch.findings)
        run.scaler.scale(terms["loss"] / num_batches).backward()
    return terms


def row_of(terms: dict[str, Tensor]) -> Tensor:
    """Return loss terms as one row (T,) without their history."""
    return torch.stack([term.detach().float() for term in terms.values()])


def apply_gradients(run: Run) -> None:
    """Take the optimizer's step by the gradients that were added."""
    if run.progress.epoch < run.config.optimizer.frozen_epochs:
        for parameter in run.frozen:
            parameter.grad = None  # without a gradient a parameter is neither stepped nor decayed
    if run.config.optimizer.clip_norm:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.network.parameters(), run.config.optimizer.clip_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()


def update_ema(run: Run) -> None:
    """Take the new weights into the EMA weights."""
    if run.ema is not None:
        run.ema.update(run.network)
