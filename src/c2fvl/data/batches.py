"""Batches of cases in the order of an epoch."""

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from c2fvl.data.dataset import CaseDataset, Item
from c2fvl.data.prefetch import prefetch

_ORDER_STREAM = 0  # a stream of random numbers apart from that of the cases
_AHEAD = 2  # batches read in advance


@dataclass(frozen=True)
class Batch:
    """Cases as tensors for a network."""

    ids: list[str]
    image: Tensor
    """(B, 3, S, S) float32 in [0, 1]."""
    mask: Tensor | None
    """(B, S, S) float32."""
    text: Tensor | None
    """(B, T, F) float32."""
    original_masks: list[np.ndarray | None]
    findings: Tensor | None = None
    """(B, 9) float32, the findings of the cases' reports before report noise."""

    def pin_memory(self) -> "Batch":
        """Return the batch in pinned memory, from which it is copied to a GPU while that computes."""
        return self._each(lambda values: values.pin_memory())

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device, images channels-last; from pinned memory without waiting."""
        image = self.image.to(device, memory_format=torch.channels_last, non_blocking=True)
        return replace(self._each(lambda values: values.to(device, non_blocking=True)), image=image)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with all its tensors changed."""
        mask, text, findings = (
            None if values is None else change(values) for values in (self.mask, self.text, self.findings)
        )
        return replace(self, image=change(self.image), mask=mask, text=text, findings=findings)


def collate(items: Sequence[Item]) -> Batch:
    """Return the items as one batch; `mask` is None unless every item has one."""
    masks = [item.mask for item in items if item.mask is not None]
    texts = [item.text for item in items if item.text is not None]
    findings = [item.findings for item in items if item.findings is not None]
    return Batch(
        ids=[item.id for item in items],
        image=torch.from_numpy(_images([item.image for item in items])),
        mask=torch.from_numpy(np.stack(masks)).float() if len(masks) == len(items) else None,
        text=torch.from_numpy(np.stack(texts)) if texts else None,
        original_masks=[item.original_mask for item in items],
        findings=torch.from_numpy(np.stack(findings)) if findings else None,
    )


def without_reports(batch: Batch) -> Batch:
    """Return the batch as the network is given it where no case has a report."""
    return batch if batch.text is None else replace(batch, text=torch.full_like(batch.text, math.nan))


def _images(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return the images as (B, 3, S, S), laid out channels-last as the networks compute; grey is repeated."""
    side = images[0].shape[0]
    stacked = np.empty((len(images), side, side, 3), np.float32)
    for row, image in zip(stacked, images, strict=True):
        if image.ndim == 2:
            cv2.cvtColor(image, cv2.COLOR_GRAY2RGB, dst=row)
        else:
            row[:] = image
    return stacked.transpose(0, 3, 1, 2)


class EpochBatches:
    """The batches of one epoch for one process, as lists of (epoch, index).

    With a seed, the order is a permutation by (seed, epoch); processes take batches in turn, and some get batches from
    the start again so that all take the same number of steps. Without one (scoring), every case is there exactly once,
    in the same batches for any number of processes.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        epoch: int = 0,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
        first: int = 0,
    ) -> None:
        order = list(range(length))
        if seed is not None:
            order = np.random.default_rng([seed, _ORDER_STREAM, epoch]).permutation(length).tolist()
        batches = [order[start : start + batch_size] for start in range(0, length, batch_size)]
        if seed is not None and len(batches) % world:
            batches += [batches[i % len(batches)] for i in range(-len(batches) % world)]
        self.batches = [[(epoch, index) for index in batch] for batch in batches[rank::world]][first:]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)


def iterate_batches(
    dataset: CaseDataset, batches: Iterable[list[tuple[int, int]]], *, workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """Yield the given batches, read while the caller computes, by a thread or by `workers` processes."""
    if workers == 0:
        yield from prefetch(lambda keys: _read_batch(dataset, keys, pin_memory=pin_memory), batches, maximum=_AHEAD)
        return
    keys = list(batches)
    cv2.setNumThreads(1)  # before workers fork: they would wait for OpenCV threads that a fork does not copy
    yield from DataLoader(
        dataset,
        batch_sampler=keys,
        collate_fn=collate,
        num_workers=min(workers, len(keys)),
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # else each new loader would draw from the generator of the dropout layers
    )


def _read_batch(dataset: CaseDataset, keys: list[tuple[int, int]], *, pin_memory: bool) -> Batch:
    batch = collate([dataset[key] for key in keys])
    return batch.pin_memory() if pin_memory else batch


def _ignore_signals(worker: int) -> None:
    """Ignore Ctrl-C, which reaches every process of a terminal: the loop handles it, and needs its workers to save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def num_batches(length: int, batch_size: int, world: int) -> int:
    """Return the number of batches of one process in an epoch of training."""
    return math.ceil(math.ceil(length / batch_size) / world)
