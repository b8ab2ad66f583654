"""Steps on batches that are made on the device; on a GPU one step is one CUDA graph where it can be captured.

All batches of an epoch have one size, because a captured graph has fixed shapes: the order of the cases is filled up
from its beginning to whole steps.
"""

import logging

import numpy as np
import torch
from torch import Tensor

from c2fvl.data.batches import EpochBatches
from c2fvl.data.on_device import DeviceData
from c2fvl.training.cuda_graph import StepGraph, why_not_captured
from c2fvl.training.optimizers import make_capturable
from c2fvl.training.setup import Run
from c2fvl.training.steps import StepLosses, add_gradients, apply_gradients, row_of, update_ema

logger = logging.getLogger(__name__)


class DeviceSteps:
    """Steps on batches of a `DeviceData`."""

    def __init__(self, run: Run, data: DeviceData) -> None:
        self.run, self.data, self.losses = run, data, StepLosses()
        settings = run.config.train
        self._names: tuple[str, ...] = ()
        # The positions of the batches of one step in the epoch's order, (A, B); a captured graph reads them here.
        self._offsets = torch.arange(settings.accumulation * settings.batch_size, device=run.device)
        self._offsets = self._offsets.view(settings.accumulation, settings.batch_size)
        self._positions = self._offsets.clone()
        self._graph = self._new_graph()

    def start_epoch(self) -> None:
        """Put the draws of the current epoch onto the device, and begin to draw the next."""
        run, epoch = self.run, self.run.progress.epoch
        self._draws = self.data.draw_epoch(epoch, epoch_order(run, epoch))
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)  # no batch is made before its draws are there
        self.data.prepare_epoch(epoch + 1, epoch_order(run, epoch + 1))
        if self._graph is not None and run.frozen and epoch == run.config.optimizer.frozen_epochs:
            self._graph = self._new_graph()  # from here on other parameters are stepped

    def step(self, num_batches: int) -> None:
        """Take one step by the mean gradient of the next batches and note their losses."""
        run, size = self.run, self.run.config.train.batch_size
        start = run.progress.batches * size
        torch.add(self._offsets, start, out=self._positions)
        rows = self._compute() if self._graph is None else self._graph.step()
        if self._graph is not None and self._graph.failure:
            self._explain(self._graph.failure)
            self._graph = None
        for number in range(num_batches):
            positions = self._draws.order[start + number * size : start + (number + 1) * size]
            ids = [run.train_data.cases[index].id for index in positions]
            self.losses.add(self._names, rows[number], ids)
        update_ema(run)

    def _compute(self) -> Tensor:
        """Compute one step, the same with and without a graph; return the loss terms of its batches (A, T)."""
        run, rows, count = self.run, [], len(self._positions)
        run.optimizer.zero_grad(set_to_none=True)
        for number in range(count):
            batch = self.data.batch(self._draws, self._positions[number])
            terms = add_gradients(run, batch, count, is_last=number + 1 == count)
            self._names = tuple(terms)
            rows.append(row_of(terms))
        apply_gradients(run)
        return torch.stack(rows)

    def _new_graph(self) -> StepGraph | None:
        """Return what captures a step, or None where the settings or the device allow none."""
        run = self.run
        reason = why_not_captured(run)
        if reason:
            if run.config.train.graph == "yes":
                raise ValueError(f"train.graph=yes: {reason}; set train.graph=auto")
            return None
        make_capturable(run.optimizer, run.device)
        return StepGraph(self._compute, run.device)

    def _explain(self, failure: str) -> None:
        if self.run.config.train.graph == "yes":
            raise ValueError(
                f"train.graph=yes: a step of this network cannot be captured ({failure}); set train.graph=auto"
            )
        logger.warning("steps run without a CUDA graph, because one cannot be captured here: %s", failure)


def epoch_order(run: Run, epoch: int) -> list[int]:
    """Return the cases of this process in the order of an epoch, filled up from its beginning to whole steps."""
    settings, length = run.config.train, len(run.train_data)
    (everything,) = EpochBatches(length, length, epoch=epoch, seed=settings.seed)
    order = np.resize([index for _, index in everything], run.batches_per_epoch * settings.batch_size * run.world)
    return order.reshape(-1, run.world, settings.batch_size)[:, run.rank].ravel().tolist()
