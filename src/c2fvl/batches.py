"""Cases → batches of tensors, in an order and with random draws that depend on nothing but (seed, epoch, case).

No generator is carried from film to film, so the n-th film of an epoch is the same with any number of reading
processes, and a run that stops within an epoch goes on where it was.
"""

import functools
import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from c2fvl import storage, transforms
from c2fvl.battery import wrong_report
from c2fvl.catalogue import class_names
from c2fvl.config import DataConfig
from c2fvl.datasets import Case
from c2fvl.film_cache import FilmCache, StoredFilm, as_grey
from c2fvl.findings import FINDINGS, TRUST, findings_of
from c2fvl.images import decode_image, decode_mask_as, read_file
from c2fvl.overlap import ahead
from c2fvl.report import Report
from c2fvl.text_encoders import build_text_encoder

_ORDER, _FILM = 0, 1  # separate streams of random numbers
_TRUSTS = (0.05, 0.95)
"""Trusts drawn for reports that are doubted."""
_SHARES_CUT = (0.2, 0.9)
"""Shares of the findings left out of reports that are cut."""
_AHEAD = 2  # batches read while one is computed


@dataclass(frozen=True)
class Item:
    """One film as the network takes it."""

    id: str
    image: np.ndarray
    """(S, S, 3) in the network's channel order, or grey (S, S); float32 in [0, 1]."""
    mask: np.ndarray | None
    """(S, S) uint8, the class of each pixel."""
    text: np.ndarray | None
    """(T, F) float32, NaN where the film has no report; None for a network without text."""
    original_mask: np.ndarray | None
    """(H, W) uint8 as in the file."""
    findings: np.ndarray | None = None
    """(9,) what the film's own report says, for a network that is told findings, which may be changed ones."""


@dataclass(frozen=True)
class Batch:
    """Films as the network takes them."""

    ids: list[str]
    image: Tensor
    """(B, 3, S, S) float32 in [0, 1]."""
    mask: Tensor | None
    """(B, S, S) float32."""
    text: Tensor | None
    """(B, T, F) float32."""
    original_masks: list[np.ndarray | None]
    findings: Tensor | None = None
    """(B, 9) float32, what the films' own reports say."""

    def pin_memory(self) -> "Batch":
        """Return the batch in memory from which a GPU fetches it while it computes."""
        return self._each(lambda values: values.pin_memory())

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device, images channels-last; from pinned memory without waiting for it."""
        image = self.image.to(device, memory_format=torch.channels_last, non_blocking=True)
        return replace(self._each(lambda values: values.to(device, non_blocking=True)), image=image)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with all its tensors changed."""
        mask, text, findings = (
            None if values is None else change(values) for values in (self.mask, self.text, self.findings)
        )
        return replace(self, image=change(self.image), mask=mask, text=text, findings=findings)


class FilmDataset(Dataset[Item]):
    """Films by (epoch, index), read, resized, augmented and encoded.

    Raises `ValueError` that names the films without a mask, or without a report where the settings forbid it.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        config: DataConfig,
        *,
        num_classes: int = 1,
        augment: bool = False,
        seed: int = 0,
        masks: bool = True,
    ) -> None:
        self.cases, self.config, self.seed, self.num_classes = list(cases), config, seed, num_classes
        check_classes(config, num_classes)
        if augment:
            _check_mirroring(config)
        self.draw = transforms.AUGMENTATIONS[config.augmentation if augment else "none"]
        self.text_dropout = config.text_dropout if augment else 0.0
        self.text_doubt, self.text_cut = (config.text_doubt, config.text_cut) if augment else (0.0, 0.0)
        self.exchange = _exchange(config, num_classes)
        self.encoder = build_text_encoder(config)
        self.tells_findings = config.text == "findings"
        self.reports = [case.report for case in self.cases]
        if (self.text_doubt or self.text_cut) and not self.tells_findings:
            raise ValueError(
                "data.text_doubt and data.text_cut are for networks that are told findings; set both to 0 for this one"
            )
        self.cache = _cache(config)
        unlabelled = [case.id for case in self.cases if case.mask is None]
        if masks and unlabelled:
            raise ValueError(
                f"{len(unlabelled)} of {len(self.cases)} films have no mask: {_few(unlabelled)}; add their masks, or "
                "leave these films out"
            )
        if self.encoder is None:
            return
        if config.missing_text == "error":
            untold = [case.id for case in self.cases if not self.encoder.reads(case.report)]
            if untold:
                kind = "report with attributes" if config.text == "attributes" else "report"
                raise ValueError(
                    f"{len(untold)} of {len(self.cases)} films have no {kind}: {_few(untold)}; give them one in the "
                    "caption table, or set data.missing_text=allow, or data.text=none to use none"
                )
        self.encoder.prepare(self.reports)
        if augment and config.augmentation in transforms.MIRRORS_REPORTS:
            self.encoder.prepare(report.mirrored() for report in self.reports if report is not None)

    @property
    def num_readable(self) -> int:
        """Return how many films have a report that the network can read."""
        return 0 if self.encoder is None else sum(self.encoder.reads(case.report) for case in self.cases)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        case = self.cases[index]
        stored = self._stored(case)
        sample = transforms.Sample(stored.image, stored.mask, case.report)
        generator = np.random.default_rng([self.seed, _FILM, epoch, index])
        told = own = sample.report
        if self.draw is not transforms.draw_none or self.text_dropout:
            sample, own = self._drawn(sample, generator)
            told = sample.report
        text = None if self.encoder is None else self.encoder.encode(told)
        if text is not None and told is not None and (self.text_doubt or self.text_cut):
            text = self._doubted(told, text, generator)
        return Item(
            id=case.id,
            image=transforms.in_channel_order(sample.image, self.config),
            mask=sample.mask,
            text=text,
            original_mask=stored.original_mask,
            findings=findings_of(None if own is None else own.in_frame("viewer")) if self.tells_findings else None,
        )

    def _drawn(
        self, sample: transforms.Sample, generator: np.random.Generator
    ) -> tuple[transforms.Sample, Report | None]:
        """Return the augmented film with the report that it is given, and its own, moved alike."""
        augmentation = self.draw(generator)
        sample = transforms.apply(augmentation, sample)
        if self.exchange is not None and augmentation.mirror and sample.mask is not None:
            sample = replace(sample, mask=self.exchange[sample.mask])
        own = sample.report
        if generator.random() < self.text_dropout:
            sample = replace(sample, report=None)
        return sample, own

    def _doubted(self, report: Report, text: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return the findings (1, 9) with a trust, wrong as often as it says, and cut, as the settings have it."""
        assert self.encoder is not None
        trust = 1.0
        if generator.random() < self.text_doubt:
            trust = float(generator.uniform(*_TRUSTS))
            if generator.random() >= trust:
                text = self.encoder.encode(wrong_report(report, self.reports, generator))
        if generator.random() < self.text_cut:
            hidden = generator.random(len(FINDINGS)) < generator.uniform(*_SHARES_CUT)
            text = np.where(hidden, np.float32(np.nan), text)
        text[0, TRUST] = trust
        return text

    def _stored(self, case: Case) -> StoredFilm:
        """Return film and mask at the network's size, from the cache if they are there."""
        if self.cache is None:
            mask = None if case.mask is None else read_file(case.mask)
            return self._unpack(case, read_file(case.image), mask)
        stored = self.cache.film(case.image, case.mask, functools.partial(self._unpack, case))
        if case.mask is not None and stored.original_mask is not None:
            self._check_labels(stored.original_mask, case.mask)
        return stored

    def _unpack(self, case: Case, image_file: bytes, mask_file: bytes | None) -> StoredFilm:
        image, original = decode_image(image_file, case.image), None
        if mask_file is not None and case.mask is not None:
            original = decode_mask_as(mask_file, case.mask, self.config.mask)
            self._check_labels(original, case.mask)
            if original.shape != image.shape[:2]:
                raise ValueError(
                    f"{case.image} is {image.shape[0]}×{image.shape[1]} and its mask {case.mask} "
                    f"{original.shape[0]}×{original.shape[1]} (height × width); they must be of one size"
                )
        try:
            sample = transforms.resize(
                transforms.Sample(image, original, None), self.config.image_size, rule=self.config.resize,
                labels=self.config.mask == "labels",
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"{case.image}: {error}") from error
        return StoredFilm(as_grey(sample.image), sample.mask, original)

    def _check_labels(self, mask: np.ndarray, path: Path) -> None:
        known = max(self.num_classes, 2)  # one logit tells lesion from background, which are two
        highest = int(mask.max())
        if self.config.mask == "labels" and highest >= known:
            lesion_only = "; a mask of one lesion with 0 and 255 is read by data.mask=lesion" if highest == 255 else ""
            raise ValueError(
                f"{path}: the mask holds the class {highest}, but the network knows {known} (0 … {known - 1}); set "
                f"model.arguments.num_classes={highest + 1}, or correct the mask{lesion_only}"
            )


def _cache(config: DataConfig) -> FilmCache | None:
    if config.film_cache == "none":
        return None
    settings = f"{config.image_size} {config.resize} {config.mask}"
    return FilmCache(storage.cache_folder(config.film_cache, "films"), settings)


def check_classes(config: DataConfig, num_classes: int) -> None:
    """Raise `ValueError` where the settings of data do not fit a network of so many classes."""
    if num_classes > 2 and config.mask != "labels":
        raise ValueError(
            f"the network has {num_classes} classes, but data.mask={config.mask} knows lesion and background only; set "
            "data.mask=labels, or model.arguments.num_classes=1"
        )
    expected = max(num_classes, 2) - 1
    if config.class_names and len(config.class_names) != expected:
        raise ValueError(
            f"data.class_names has {len(config.class_names)} names; expected are {expected}, without the background"
        )


def _check_mirroring(config: DataConfig) -> None:
    """Raise `ValueError` where training would mirror classes that tell left from right."""
    words = {word for name in config.class_names for word in name.lower().split()}
    if {"left", "right"} <= words and config.augmentation != "none" and not config.mirrored_classes:
        raise ValueError(
            f"data.augmentation={config.augmentation} mirrors films, and the classes {', '.join(config.class_names)} "
            "tell left from right; name the pairs that a mirror exchanges, such as data.mirrored_classes="
            '["left lung", "right lung"], or set data.augmentation=none'
        )


def _exchange(config: DataConfig, num_classes: int) -> np.ndarray | None:
    """Return the class that each class becomes where a film is mirrored, or None where none changes."""
    if not config.mirrored_classes:
        return None
    names = class_names(config, num_classes)
    unknown = [name for name in config.mirrored_classes if name not in names]
    if unknown or len(config.mirrored_classes) % 2 or len(set(config.mirrored_classes)) < len(config.mirrored_classes):
        raise ValueError(
            f"data.mirrored_classes is {list(config.mirrored_classes)}; expected are pairs of names from "
            f"{', '.join(names)}, each once"
        )
    table = np.arange(256, dtype=np.uint8)
    for left, right in zip(config.mirrored_classes[::2], config.mirrored_classes[1::2], strict=True):
        places = names.index(left) + 1, names.index(right) + 1
        table[places[0]], table[places[1]] = places[1], places[0]
    return table


def collate(items: Sequence[Item]) -> Batch:
    """Return the items as one batch; the mask is None unless every film has one."""
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


def _images(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return the images as (B, 3, S, S), laid out channels-last as the networks compute; grey is repeated."""
    side = images[0].shape[0]
    together = np.empty((len(images), side, side, 3), np.float32)
    for row, image in zip(together, images, strict=True):
        if image.ndim == 2:
            cv2.cvtColor(image, cv2.COLOR_GRAY2RGB, dst=row)
        else:
            row[:] = image
    return together.transpose(0, 3, 1, 2)


class EpochBatches:
    """The batches of one epoch for one process, as lists of (epoch, index).

    Shuffled, the order is a permutation by (seed, epoch); batches go to the processes in turn, filled up from the
    start so that each process takes the same number of steps. Unshuffled (scoring), nothing is filled up: every film
    is there exactly once, in the same batches however many processes share them.
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
            order = np.random.default_rng([seed, _ORDER, epoch]).permutation(length).tolist()
        batches = [order[start : start + batch_size] for start in range(0, length, batch_size)]
        if seed is not None and len(batches) % world:
            batches += [batches[i % len(batches)] for i in range(-len(batches) % world)]
        self.batches = [[(epoch, index) for index in batch] for batch in batches[rank::world]][first:]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)


def read(
    dataset: FilmDataset, batches: Iterable[list[tuple[int, int]]], *, workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """Yield the given batches, read while the caller computes: by a thread, or by `workers` processes."""
    if workers == 0:
        yield from ahead(lambda keys: _read_batch(dataset, keys, pin_memory=pin_memory), batches, most=_AHEAD)
        return
    keys = list(batches)
    cv2.setNumThreads(1)  # before the readers begin: they would wait for threads of OpenCV that a fork leaves behind
    yield from DataLoader(
        dataset,
        batch_sampler=keys,
        collate_fn=collate,
        num_workers=min(workers, len(keys)),
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_loop,
        generator=torch.Generator(),  # else each new loader would draw from the generator of the dropouts
    )


def _read_batch(dataset: FilmDataset, keys: list[tuple[int, int]], *, pin_memory: bool) -> Batch:
    batch = collate([dataset[key] for key in keys])
    return batch.pin_memory() if pin_memory else batch


def _leave_signals_to_the_loop(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; a reader that died of it would keep the loop from saving."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def num_batches(length: int, batch_size: int, world: int) -> int:
    """Return how many batches one process sees in an epoch of training."""
    return math.ceil(math.ceil(length / batch_size) / world)


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
