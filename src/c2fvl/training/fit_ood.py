"""Fit the out-of-distribution check of a trained network to its training images, and measure it on others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from c2fvl.checkpoints.folders import OOD_DETECTOR
from c2fvl.checkpoints.model_files import check_target, write_changed
from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.data.cases import Case
from c2fvl.data.part import Part
from c2fvl.data.prefetch import prefetch
from c2fvl.files.images import read_image
from c2fvl.metrics.out_of_distribution import MIN_CONTRAST, OodDetector, fraction_flagged, thumbnail
from c2fvl.progress import SILENT, Progress


def fit_ood(
    model: TrainedModel,
    part: Part,
    *,
    check_split: str = "val",
    out: Path | str | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Write the check, fitted to the images of `part`, to the model folder; return which fractions it flags.

    `out` is a new folder for a copy of the model with the check; models of the package are changed only so. The
    fractions are of the images of `check_split`, as they are and turned, mirrored or inverted. Raises `ValueError`
    for too few images, with nothing written.
    """
    check_target(model.path, out, "c2fvl fit-ood")
    table = model.config.data.table
    known, others = part.cases(table), replace(part, split=check_split).cases(table)
    total, done = len(known) + len(others), 0

    def thumbnails(cases: list[Case]) -> np.ndarray:
        nonlocal done
        found = []
        for image in prefetch(lambda case: read_image(case.image), cases, maximum=8):
            found += [thumbnail(image)] if image.std() >= MIN_CONTRAST else []
            done += 1
            progress.advance(done, total)
        return np.stack(found) if found else np.empty((0, 0))

    try:
        ood_detector = OodDetector.fit(thumbnails(known))
    except ValueError as error:
        raise ValueError(f"{part.root} ({part.split}): {error}") from error
    fractions = fraction_flagged(ood_detector, thumbnails(others))
    write_changed(model.path, {OOD_DETECTOR: ood_detector.to_bytes()}, out)
    return {"num_images": len(known), "checked_on": check_split, "num_checked": len(others), "flagged": fractions}
