"""Segment a CT volume slice by slice. No torch.

The networks were trained on single slices with captions of single slices. A report on a whole volume is therefore used
for its side only, and for "no infection": an "upper lobe" of the chest is not the upper third of a slice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from c2fvl.files.picture import Picture
from c2fvl.files.read_volume import read_volume
from c2fvl.files.volume import Volume
from c2fvl.inference.ct_window import window_for_volume
from c2fvl.inference.masks import check_probability, to_labels, to_original
from c2fvl.inference.prediction import Given, PredictedBy
from c2fvl.inference.predictor import Predictor
from c2fvl.progress import SILENT, Progress
from c2fvl.reports.findings import FIRST_ZONE, TRUST, findings_of
from c2fvl.reports.report import SIDES, Report
from c2fvl.reports.zones import HANDS, OTHER_HAND, ZONES, zones_of

_BODY_HU, _BODY_GREY = -400.0, 0.4
"""What is brighter belongs to the body or the table."""
_MIDLINE_SLICES, _MIDLINE_STEP = 16, 2


@dataclass(frozen=True)
class VolumePrediction:
    """What a network predicts for a CT volume."""

    mask: np.ndarray
    """(slices, rows, columns) uint8 in {0, 1}, or the class of each voxel, lying as `Volume`."""
    volume: Volume
    given: Given
    used: Report | None
    """What was used of the report, in image orientation; None for nothing."""
    model: PredictedBy
    window: tuple[float, float]
    """Center and width in HU."""
    window_source: str
    """"model", "given", or "file" for a volume to which a window was applied before."""
    midline: int
    """The first column of the patient's left half."""
    num_unlike: int | None = None
    """The number of slices that the out-of-distribution check flags; None for a model without one."""

    @property
    def mask_in_file(self) -> np.ndarray:
        """Return the mask as the array of the NIfTI file, or as the stack of the DICOM slices in `volume.headers`."""
        return self.volume.to_file(self.mask)

    @property
    def voxels_per_side(self) -> dict[str, np.ndarray]:
        """Return the voxels of lesion in each slice, (slices,), on the patient's "left" and "right"."""
        halves = {"left": self.mask[..., self.midline :], "right": self.mask[..., : self.midline]}
        return {side: np.count_nonzero(half, axis=(1, 2)) for side, half in halves.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the record of the prediction, as `c2fvl predict` writes it: plain values for JSON."""
        from c2fvl.inference.volume_record import record_of_volume

        return record_of_volume(self)


def predict_volume(
    predictor: Predictor,
    volume: Volume | Path | str | Sequence[Path | str],
    report: str | Report | None = None,
    *,
    orientation: str | None = None,
    window: tuple[float, float] | None = None,
    progress: Progress = SILENT,
) -> VolumePrediction:
    """Return the prediction for a volume, or for what `read_volume` reads as one.

    A sentence means the patient's left unless `orientation` is "image". `window`, center and width in HU, replaces that
    of the model, and lets a model be used that is not known to be for CT. Raises `ValueError` for such a model without
    a window, and for a volume or a report that cannot be read.
    """
    used_window, source = window_for_volume(predictor.engine.config, window)
    volume = volume if isinstance(volume, Volume) else read_volume(volume)
    default = "patient" if isinstance(report, str) else None
    given = predictor.understand_or_refuse(report, orientation=orientation, default=default)
    used = report_on_slices(given.report, reads_images=predictor.reads_images)
    mask = np.zeros(volume.values.shape, np.uint8)
    unlike: list[bool] = []
    for start in range(0, len(mask), predictor.batch_size):
        numbers = range(start, min(start + predictor.batch_size, len(mask)))
        prepared = [
            predictor.prepare(Picture(volume.shown(number, used_window), volume.kind), used) for number in numbers
        ]
        for number, found in zip(numbers, predictor.run(prepared), strict=True):
            check_probability(found.probability)
            mask[number] = to_labels(to_original(found.probability, mask.shape[1:]), predictor.threshold)
        unlike += [bool(one.ood.reasons) for one in prepared if one.ood is not None]
        progress.advance(numbers[-1] + 1, len(mask))
    return VolumePrediction(
        mask, volume, given, used, predictor.model, used_window, "file" if volume.is_windowed else source,
        midline_of(volume), sum(unlike) if unlike else None,
    )  # fmt: skip


def report_on_slices(report: Report | None, *, reads_images: bool) -> Report | None:
    """Return what a report on a whole volume, in image orientation, says of each slice; None for nothing.

    That is "no infection", "bilateral", "unilateral", and, for a network that takes each finding alone, that one lung
    is free. Zones and number are left out.
    """
    if report is None:
        return None
    row = findings_of(report)
    zones = dict(zip(ZONES, row[FIRST_ZONE:TRUST], strict=True))
    free = [hand for hand in HANDS if all(zones[zone] == 0 for zone in zones_of(hand))]
    if row[0] == SIDES.index("none") or len(free) == len(HANDS):
        return Report("none")
    if row[0] == SIDES.index("bilateral"):
        return Report("bilateral")
    is_unilateral = row[0] == SIDES.index("unilateral")
    if free and reads_images:
        free_lung = f"No opacity in the {free[0]} lung."
        return Report(text=f"Unilateral opacity in the {OTHER_HAND[free[0]]} lung." if is_unilateral else free_lung)
    return Report("unilateral") if is_unilateral else None


def midline_of(volume: Volume) -> int:
    """Return the first column of the patient's left half: the middle of the body, or of the image if none is found.

    The body is the largest region in each of some slices; the median over these counts.
    """
    middles = []
    limit = _BODY_GREY if volume.is_windowed else _BODY_HU
    for number in range(0, len(volume.values), max(1, len(volume.values) // _MIDLINE_SLICES)):
        is_body = (volume.hounsfield(number)[::_MIDLINE_STEP, ::_MIDLINE_STEP] > limit).astype(np.uint8)
        count, _, regions, _ = cv2.connectedComponentsWithStats(is_body)
        if count > 1:
            left, _, width, _, _ = max(regions[1:], key=lambda region: region[cv2.CC_STAT_AREA])
            middles.append(_MIDLINE_STEP * (left + width / 2))
    return round(float(np.median(middles))) if middles else volume.values.shape[2] // 2
