"""Cases → arrays for a network, with random draws that depend on (seed, epoch, case) alone.

No random generator is carried from case to case, so the n-th case of an epoch is the same with any number of worker
processes, and a run that stops within an epoch resumes where it was.
"""

import functools
import logging
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
from c2fvl.files.images import (
    decode_mask,
    decode_pixels,
    read_image_bytes,
    remarks_on_header,
    remarks_on_range,
    unit_rgb,
    warn_once,
)
from c2fvl.messages import listed
from c2fvl.reports.encoders import build_text_encoder
from c2fvl.reports.findings import FINDINGS, TRUST, findings_of
from c2fvl.reports.perturbations import wrong_report
from c2fvl.reports.report import Report

logger = logging.getLogger(__name__)

_CASE_STREAM = 1  # a stream of random numbers apart from that of the order
_TRUSTS = (0.05, 0.95)
"""Range of the trusts that are drawn for report noise."""
_FRACTIONS_HIDDEN = (0.2, 0.9)
"""Range of the fraction of findings that a partial report leaves out."""


@dataclass(frozen=True)
class Item:
    """One case as arrays for a network."""

    id: str
    image: np.ndarray
    """(S, S, 3) in the network's channel order, or grey (S, S); float32 in [0, 1]."""
    mask: np.ndarray | None
    """(S, S) uint8, the class of each pixel."""
    text: np.ndarray | None
    """(T, F) float32, NaN without a report; None for a network without text."""
    original_mask: np.ndarray | None
    """(H, W) uint8 as in the file."""
    findings: np.ndarray | None = None
    """(9,) findings of the case's report before report noise, for a network that reads findings."""


@dataclass(frozen=True)
class CaseDraw:
    """The random draws of one case in one epoch."""

    augmentation: transforms.Augmentation
    text: np.ndarray | None
    """(T, F) float32; this and `findings` as in `Item`."""
    findings: np.ndarray | None


class CaseDataset(Dataset[Item]):
    """Cases by (epoch, index): read, resized, augmented and encoded.

    Raises `ValueError`, which names the cases without a mask, or without a report if the settings forbid it.
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
        self.reads_findings = config.text == "findings"
        self.reports = [case.report for case in self.cases]
        self._mirrored: dict[int, Report] = {}
        if (self.report_noise or self.partial_reports) and not self.reads_findings:
            raise ValueError(
                "data.report_noise and data.partial_reports need a network that reads findings (data.text=findings); "
                "set both to 0"
            )
        self.cache = _cache(config)
        unlabelled = [case.id for case in self.cases if case.mask is None]
        if masks and unlabelled:
            raise ValueError(
                f"{len(unlabelled)} of {len(self.cases)} cases have no mask: {listed(unlabelled, 5)}; "
                "add their masks, or leave these cases out"
            )
        if self.encoder is None:
            return
        if config.missing_reports == "error":
            unreadable = [case.id for case in self.cases if not self.encoder.reads(case.report)]
            if unreadable:
                kind = "report with attributes" if config.text == "attributes" else "report"
                raise ValueError(
                    f"{len(unreadable)} of {len(self.cases)} cases have no {kind}: {listed(unreadable, 5)}; "
                    "add one to the caption table, or set data.missing_reports=allow or data.text=none"
                )
        self.encoder.prepare(self.reports)
        if augment and config.augmentation in transforms.MIRRORS_REPORTS:
            self.encoder.prepare(report.mirrored() for report in self.reports if report is not None)

    @property
    def num_readable(self) -> int:
        """The number of cases with a report that the network can read."""
        return 0 if self.encoder is None else sum(self.encoder.reads(case.report) for case in self.cases)

    def warn_of_unread_reports(self, what: str) -> None:
        """Log how many reports the network cannot read, with the cases of three; `what` names the data."""
        given = [case for case in self.cases if case.report is not None and str(case.report).strip()]
        unread = [case.id for case in given if self.encoder is not None and not self.encoder.reads(case.report)]
        if unread:
            logger.warning(
                "%s: %d of %d reports cannot be read and are not used: those of %s",
                what, len(unread), len(given), listed(unread, 3),
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        stored, draw = self.stored(index), self.draw_case(epoch, index)
        sample = transforms.apply(draw.augmentation, transforms.Sample(stored.image, stored.mask))
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
        """Return the random draws of one case in one epoch, its report included; no image is read."""
        generator = np.random.default_rng([self.seed, _CASE_STREAM, epoch, index])
        augmentation = self.draw(generator)
        given = report = self._moved_report(index, augmentation)
        if (self.draw is not transforms.draw_none or self.report_dropout) and generator.random() < self.report_dropout:
            given = None
        text = None if self.encoder is None else self.encoder.encode(given)
        if text is not None and given is not None and (self.report_noise or self.partial_reports):
            text = self._perturbed(given, text, generator)
        return CaseDraw(augmentation, text, self._findings(report))

    def plain_case(self, index: int) -> CaseDraw:
        """Return a case without augmentation, and with its report unchanged."""
        report = self.reports[index]
        text = None if self.encoder is None else self.encoder.encode(report)
        return CaseDraw(transforms.Augmentation(), text, self._findings(report))

    def _findings(self, report: Report | None) -> np.ndarray | None:
        return findings_of(report) if self.reads_findings else None

    def _moved_report(self, index: int, augmentation: transforms.Augmentation) -> Report | None:
        """Return a case's report, mirrored with the image; mirroring is slow, so each report is mirrored once."""
        report = self.reports[index]
        if report is None or not (augmentation.mirror and augmentation.mirror_report):
            return report
        if index not in self._mirrored:
            self._mirrored[index] = report.mirrored()
        return self._mirrored[index]

    def _perturbed(self, report: Report, text: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return the findings (1, 9) with report noise and as a partial report, as often as the settings say.

        A report with the trust t is replaced by a wrong one with probability 1 − t.
        """
        assert self.encoder is not None
        trust = 1.0
        if generator.random() < self.report_noise:
            trust = float(generator.uniform(*_TRUSTS))
            if generator.random() >= trust:
                text = self.encoder.encode(wrong_report(report, self.reports, generator))
        if generator.random() < self.partial_reports:
            hidden = generator.random(len(FINDINGS)) < generator.uniform(*_FRACTIONS_HIDDEN)
            text = np.where(hidden, np.float32(np.nan), text)
        text[0, TRUST] = trust
        return text

    def stored(self, index: int) -> StoredImage:
        """Return the image and mask of a case at the network's size, from the cache if possible."""
        case = self.cases[index]
        if self.cache is None:
            mask = None if case.mask is None else read_image_bytes(case.mask)
            return self._decode(case, read_image_bytes(case.image), mask)
        stored = self.cache.get(case.image, case.mask, functools.partial(self._decode, case))
        warn_once(case.image, stored.remarks)  # also where another call decoded the files
        warn_once(case.mask or "", stored.mask_remarks)
        if case.mask is not None and stored.original_mask is not None:
            self._check_labels(stored.original_mask, case.mask)
        return stored

    def _decode(self, case: Case, image_file: bytes, mask_file: bytes | None) -> StoredImage:
        pixels, _, remarks = decode_pixels(image_file, case.image)
        remarks += remarks_on_range(pixels)
        warn_once(case.image, remarks)
        # Grey is resized as one channel, here as where an image is predicted: three would differ in the last bit.
        image, original = as_grey(unit_rgb(pixels)), None
        mask_remarks: tuple[str, ...] = ()
        if mask_file is not None and case.mask is not None:
            original = decode_mask(mask_file, case.mask, self.config.mask)
            mask_remarks = remarks_on_header(mask_file)
            self._check_labels(original, case.mask)
            if original.shape != image.shape[:2]:
                raise ValueError(
                    f"{case.image} is {image.shape[0]}×{image.shape[1]} and its mask {case.mask} "
                    f"{original.shape[0]}×{original.shape[1]} (height × width); they must have the same size"
                )
        try:
            sample = transforms.resize(
                transforms.Sample(image, original),
                self.config.image_size,
                rule=self.config.resize,
                labels=self.config.mask == "labels",
            )
        except ValueError as error:
            raise ValueError(f"{case.image}: {error}") from error
        return StoredImage(sample.image, sample.mask, original, remarks, mask_remarks)

    def _check_labels(self, mask: np.ndarray, path: Path) -> None:
        known = max(self.num_classes, 2)  # one logit stands for two classes, lesion and background
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
