"""Cases → batches of tensors, in an order and with random draws that depend on nothing but (seed, epoch, case).

No generator is carried from film to film, so the n-th film of an epoch is the same with any number of reading
processes, and a run that stops within an epoch goes on where it was.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from c2fvl.config import DataConfig
from c2fvl.data import transforms
from c2fvl.data.cases import Case
from c2fvl.data.classes import check_classes, check_mirroring, mirrored_classes_table
from c2fvl.data.image_cache import ImageCache, StoredImage, as_grey
from c2fvl.files import storage
from c2fvl.files.images import decode_image, decode_mask, read_image_bytes
from c2fvl.messages import listed
from c2fvl.reports.encoders import build_text_encoder
from c2fvl.reports.findings import FINDINGS, TRUST, findings_of
from c2fvl.reports.perturbations import wrong_report
from c2fvl.reports.report import Report

_CASE_STREAM = 1  # of random numbers, apart from that of the order
_TRUSTS = (0.05, 0.95)
"""Trusts drawn for reports that are doubted."""
_FRACTIONS_CUT = (0.2, 0.9)
"""Shares of the findings left out of reports that are cut."""


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
class CaseDraw:
    """What is random about one case in one epoch."""

    augmentation: transforms.Augmentation
    text: np.ndarray | None
    """(T, F) float32 as in `Item`, and `findings` too."""
    findings: np.ndarray | None


class CaseDataset(Dataset[Item]):
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
            check_mirroring(config)
        self.draw = transforms.AUGMENTATIONS[config.augmentation if augment else "none"]
        self.report_dropout = config.report_dropout if augment else 0.0
        self.report_noise = config.report_noise if augment else 0.0
        self.partial_reports = config.partial_reports if augment else 0.0
        self.exchange = mirrored_classes_table(config, num_classes)
        self.encoder = build_text_encoder(config)
        self.tells_findings = config.text == "findings"
        self.reports = [case.report for case in self.cases]
        self._mirrored: dict[int, Report] = {}
        if (self.report_noise or self.partial_reports) and not self.tells_findings:
            raise ValueError(
                "data.report_noise and data.partial_reports need a network that reads findings (data.text=findings); "
                "set both to 0"
            )
        self.cache = _cache(config)
        unlabelled = [case.id for case in self.cases if case.mask is None]
        if masks and unlabelled:
            raise ValueError(
                f"{len(unlabelled)} of {len(self.cases)} films have no mask: {listed(unlabelled, 5)}; "
                "add their masks, or leave these films out"
            )
        if self.encoder is None:
            return
        if config.missing_reports == "error":
            untold = [case.id for case in self.cases if not self.encoder.reads(case.report)]
            if untold:
                kind = "report with attributes" if config.text == "attributes" else "report"
                raise ValueError(
                    f"{len(untold)} of {len(self.cases)} films have no {kind}: {listed(untold, 5)}; "
                    "give them one in the caption table, or set data.missing_reports=allow, "
                    "or data.text=none to use none"
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
        stored, draw = self.stored(index), self.draw_case(epoch, index)
        sample = transforms.apply(draw.augmentation, transforms.Sample(stored.image, stored.mask, None))
        if self.exchange is not None and draw.augmentation.mirror and sample.mask is not None:
            sample = replace(sample, mask=self.exchange[sample.mask])
        return Item(
            id=self.cases[index].id,
            image=transforms.in_channel_order(sample.image, self.config),
            mask=sample.mask,
            text=draw.text,
            original_mask=stored.original_mask,
            findings=draw.findings,
        )

    def draw_case(self, epoch: int, index: int) -> CaseDraw:
        """Return all that is random about one case in one epoch, and what its report then says; no image is read."""
        generator = np.random.default_rng([self.seed, _CASE_STREAM, epoch, index])
        augmentation = self.draw(generator)
        told = own = self._moved_report(index, augmentation)
        if (self.draw is not transforms.draw_none or self.report_dropout) and generator.random() < self.report_dropout:
            told = None
        text = None if self.encoder is None else self.encoder.encode(told)
        if text is not None and told is not None and (self.report_noise or self.partial_reports):
            text = self._doubted(told, text, generator)
        return CaseDraw(augmentation, text, self._findings(own))

    def plain_case(self, index: int) -> CaseDraw:
        """Return a case with nothing done to it and its report as it is."""
        report = self.reports[index]
        text = None if self.encoder is None else self.encoder.encode(report)
        return CaseDraw(transforms.Augmentation(), text, self._findings(report))

    def _findings(self, report: Report | None) -> np.ndarray | None:
        if not self.tells_findings:
            return None
        return findings_of(report)

    def _moved_report(self, index: int, augmentation: transforms.Augmentation) -> Report | None:
        """Return a case's report as it stands after the augmentation; mirroring takes long, so it is done once."""
        report = self.reports[index]
        if report is None or not (augmentation.mirror and augmentation.mirror_report):
            return report
        if index not in self._mirrored:
            self._mirrored[index] = report.mirrored()
        return self._mirrored[index]

    def _doubted(self, report: Report, text: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return the findings (1, 9) with a trust, wrong as often as it says, and cut, as the settings have it."""
        assert self.encoder is not None
        trust = 1.0
        if generator.random() < self.report_noise:
            trust = float(generator.uniform(*_TRUSTS))
            if generator.random() >= trust:
                text = self.encoder.encode(wrong_report(report, self.reports, generator))
        if generator.random() < self.partial_reports:
            hidden = generator.random(len(FINDINGS)) < generator.uniform(*_FRACTIONS_CUT)
            text = np.where(hidden, np.float32(np.nan), text)
        text[0, TRUST] = trust
        return text

    def stored(self, index: int) -> StoredImage:
        """Return image and mask of a case at the network's size, from the cache if they are there."""
        case = self.cases[index]
        if self.cache is None:
            mask = None if case.mask is None else read_image_bytes(case.mask)
            return self._unpack(case, read_image_bytes(case.image), mask)
        stored = self.cache.get(case.image, case.mask, functools.partial(self._unpack, case))
        if case.mask is not None and stored.original_mask is not None:
            self._check_labels(stored.original_mask, case.mask)
        return stored

    def _unpack(self, case: Case, image_file: bytes, mask_file: bytes | None) -> StoredImage:
        image, original = decode_image(image_file, case.image), None
        if mask_file is not None and case.mask is not None:
            original = decode_mask(mask_file, case.mask, self.config.mask)
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
        return StoredImage(as_grey(sample.image), sample.mask, original)

    def _check_labels(self, mask: np.ndarray, path: Path) -> None:
        known = max(self.num_classes, 2)  # one logit tells lesion from background, which are two
        highest = int(mask.max())
        if self.config.mask == "labels" and highest >= known:
            lesion_only = "; a mask of one lesion with 0 and 255 is read by data.mask=lesion" if highest == 255 else ""
            raise ValueError(
                f"{path}: the mask holds the class {highest}, but the network knows {known} (0 … {known - 1}); set "
                f"model.arguments.num_classes={highest + 1}, or correct the mask{lesion_only}"
            )


def _cache(config: DataConfig) -> ImageCache | None:
    if config.image_cache == "none":
        return None
    settings = f"{config.image_size} {config.resize} {config.mask}"
    return ImageCache(storage.cache_folder(config.image_cache, "images"), settings)
