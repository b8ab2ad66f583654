"""Let a trained network know its films: fit `OodDetector` to a training part, measure it on another, keep it."""

from dataclasses import replace
from typing import Any

import numpy as np

from c2fvl.checkpoints.folders import OOD_DETECTOR
from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.data.cases import Case
from c2fvl.data.part import Part
from c2fvl.data.prefetch import prefetch
from c2fvl.files import storage
from c2fvl.files.images import read_image
from c2fvl.metrics.out_of_distribution import MIN_CONTRAST, OodDetector, fraction_flagged, thumbnail
from c2fvl.progress import SILENT, Progress


def fit_ood(
    model: TrainedModel, part: Part, *, check_split: str = "val", progress: Progress = SILENT
) -> dict[str, Any]:
    """Write what is usual among the films of `part` to the model folder, and return what is flagged of others.

    The shares are of the films of `check_split`, as they are and turned, mirrored or inverted. Raises `ValueError`
    for too few films, with nothing written.
    """
    table = model.config.data.table
    known, others = part.cases(table), replace(part, split=check_split).cases(table)
    total, done = len(known) + len(others), 0

    def pictures(cases: list[Case]) -> np.ndarray:
        nonlocal done
        found = []
        for film in prefetch(lambda case: read_image(case.image), cases, maximum=8):
            found += [thumbnail(film)] if film.std() >= MIN_CONTRAST else []
            done += 1
            progress.advance(done, total)
        return np.stack(found) if found else np.empty((0, 0))

    try:
        ood_detector = OodDetector.fit(pictures(known))
    except ValueError as error:
        raise ValueError(f"{part.root} ({part.split}): {error}") from error
    fractions = fraction_flagged(ood_detector, pictures(others))
    storage.write_bytes(model.path / OOD_DETECTOR, ood_detector.to_bytes())
    return {"num_images": len(known), "checked_on": check_split, "num_checked": len(others), "flagged": fractions}
