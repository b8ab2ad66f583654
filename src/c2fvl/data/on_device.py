"""A data set whole in the memory of a device, from which batches are made without reading or waiting.

Images and masks are read once, at the network's size, and kept as 8-bit values. What is random about an epoch is drawn
on the processor for all of its cases at once, by the same numbers as `CaseDataset` draws, and the next epoch is drawn
by a thread while this one is trained. Every batch is then made by tensor operations on the device.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from c2fvl.data import transforms
from c2fvl.data.batch_transforms import BatchAugmentation, augment, stack
from c2fvl.data.batches import Batch
from c2fvl.data.dataset import CaseDataset, CaseDraw
from c2fvl.files.image_headers import read_header
from c2fvl.files.images import read_image_bytes

_MAX_THREADS = 32


@dataclass(frozen=True)
class EpochDraws:
    """What is random about the cases of one epoch, in the epoch's order; all tensors begin with the number of cases."""

    order: tuple[int, ...]
    """Indices of the cases in the data set."""
    index: Tensor
    """The same, (N,) int64."""
    augmentation: BatchAugmentation
    text: Tensor | None
    """(N, T, F) float32."""
    findings: Tensor | None
    """(N, 9) float32."""

    def to(self, device: torch.device) -> "EpochDraws":
        """Return the draws on a device."""

        def to_device(values: Tensor) -> Tensor:
            pinned = values.pin_memory() if device.type == "cuda" else values
            return pinned.to(device, non_blocking=True)

        return replace(
            self,
            index=to_device(self.index),
            augmentation=self.augmentation.each(to_device),
            text=None if self.text is None else to_device(self.text),
            findings=None if self.findings is None else to_device(self.findings),
        )

    def tensors(self) -> list[Tensor]:
        """Return all tensors in a fixed order."""
        augmentation = [getattr(self.augmentation, item.name) for item in fields(self.augmentation)]
        return [values for values in (self.index, self.text, self.findings, *augmentation) if values is not None]


def bytes_needed(dataset: CaseDataset) -> int:
    """Return the memory that `DeviceData` takes for a data set; the first image tells whether all are grey."""
    size, count = dataset.config.image_size, len(dataset)
    channels = 1 if read_header(read_image_bytes(dataset.cases[0].image)).channels < 3 else 3
    masks = any(case.mask is not None for case in dataset.cases)
    text = 0 if dataset.encoder is None else 2 * 4 * count * int(np.prod(dataset.encoder.shape))
    return count * size**2 * (channels + masks) + text


class DeviceData:
    """Images, masks and reports of a data set on one device.

    Masks must be there for all cases or for none. Raises as `CaseDataset` for files that cannot be read.
    """

    def __init__(self, dataset: CaseDataset, device: torch.device | str, *, threads: int | None = None) -> None:
        self.dataset, self.device = dataset, torch.device(device)
        self.size = dataset.config.image_size
        self.original_masks: list[np.ndarray | None] = []
        """(H, W) uint8 as in the files, on the processor."""
        self.images, self.masks = self._read(threads or min(_MAX_THREADS, os.cpu_count() or 1))
        exchange = dataset.exchange
        self.exchange = None if exchange is None else torch.from_numpy(exchange).to(self.device)
        self.blurs = dataset.draw is transforms.draw_strong
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="draws")
        self._next: tuple[int, tuple[int, ...], Future[EpochDraws]] | None = None
        self._current: EpochDraws | None = None
        self._plain: EpochDraws | None = None

    def _read(self, threads: int) -> tuple[Tensor, Tensor | None]:
        """Return images (N, S, S) or (N, S, S, 3) and masks (N, S, S), uint8, on the device."""
        count, size = len(self.dataset), self.size
        images = np.zeros((count, size, size), np.uint8)
        masks = np.zeros((count, size, size), np.uint8)
        coloured: dict[int, np.ndarray] = {}
        labelled = np.zeros(count, bool)

        def read(index: int) -> np.ndarray | None:
            stored = self.dataset.stored(index)
            image = np.rint(transforms.in_channel_order(stored.image, self.dataset.config) * 255).astype(np.uint8)
            if image.ndim == 3:
                coloured[index] = image
            else:
                images[index] = image
            if stored.mask is not None:
                masks[index], labelled[index] = stored.mask, True
            return stored.original_mask

        with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
            self.original_masks = list(pool.map(read, range(count)))
        if coloured:
            images = np.repeat(images[..., None], 3, axis=3)
            for index, image in coloured.items():
                images[index] = image
        if labelled.any() and not labelled.all():
            raise ValueError(
                f"{count - labelled.sum()} of {count} cases have no mask; add their masks, or leave them out"
            )
        on_device = torch.from_numpy(images).to(self.device)
        return on_device, torch.from_numpy(masks).to(self.device) if labelled.all() else None

    def __len__(self) -> int:
        return len(self.dataset)

    def draw_epoch(self, epoch: int, order: Sequence[int]) -> EpochDraws:
        """Return the draws of the cases `order` in an epoch, on the device.

        They overwrite those of the call before where these are as many, so that a captured CUDA graph that reads them
        sees the new ones; call it on the stream on which the batches are made.
        """
        wanted = (epoch, tuple(order))
        prepared, self._next = self._next, None
        is_wanted = prepared is not None and prepared[:2] == wanted
        found = (prepared[2].result() if prepared and is_wanted else self._draw(*wanted)).to(self.device)
        if self._current is None or self._current.index.shape != found.index.shape:
            self._current = found
            return found
        for old, new in zip(self._current.tensors(), found.tensors(), strict=True):
            old.copy_(new)
        self._current = replace(self._current, order=found.order)
        return self._current

    def prepare_epoch(self, epoch: int, order: Sequence[int]) -> None:
        """Begin to draw an epoch in a thread; `draw_epoch` with the same arguments takes what it drew."""
        wanted = (epoch, tuple(order))
        if self._next is None or self._next[:2] != wanted:
            self._next = (*wanted, self._drawing.submit(self._draw, *wanted))

    def _draw(self, epoch: int, order: tuple[int, ...]) -> EpochDraws:
        return self._stacked(order, [self.dataset.draw_case(epoch, index) for index in order])

    def _stacked(self, order: tuple[int, ...], drawn: Sequence[CaseDraw]) -> EpochDraws:
        text = [case.text for case in drawn if case.text is not None]
        findings = [case.findings for case in drawn if case.findings is not None]
        return EpochDraws(
            order=order,
            index=torch.tensor(order, dtype=torch.int64),
            augmentation=stack([case.augmentation for case in drawn], self.size),
            text=torch.from_numpy(np.stack(text)) if text else None,
            findings=torch.from_numpy(np.stack(findings)) if findings else None,
        )

    def batch(self, draws: EpochDraws, positions: Tensor) -> Batch:
        """Return the batch of the cases at `positions` (B,) int64 of the epoch's order, a tensor on the device.

        The processor does not wait for the device, so the batch names no cases: `draws.order` and the data set do.
        """
        index = draws.index.index_select(0, positions)
        augmentation = draws.augmentation.each(lambda values: values.index_select(0, positions))
        image, mask = augment(augmentation, self.images, self.masks, index, blurs=self.blurs)
        if self.exchange is not None and mask is not None:
            mask = torch.where(augmentation.mirror[:, None, None], self.exchange[mask.long()], mask)
        return Batch(
            ids=[],
            image=image,
            mask=None if mask is None else mask.float(),
            text=None if draws.text is None else draws.text.index_select(0, positions),
            original_masks=[],
            findings=None if draws.findings is None else draws.findings.index_select(0, positions),
        )

    def val_batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield all cases of this process's part in order, as they are, with their names and original masks."""
        cases = range(len(self))
        if self._plain is None:
            plain = [self.dataset.plain_case(index) for index in cases]
            self._plain = self._stacked(tuple(cases), plain).to(self.device)
        draws = self._plain
        for start in range(rank * batch_size, len(self), world * batch_size):
            indices = list(cases[start : start + batch_size])
            batch = self.batch(draws, torch.tensor(indices, device=self.device))
            yield replace(
                batch,
                ids=[self.dataset.cases[index].id for index in indices],
                original_masks=[self.original_masks[index] for index in indices],
            )
