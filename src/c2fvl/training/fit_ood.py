"""Let a trained network know its films: fit `OodDetector` to a training part, measure it on another, keep it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from c2fvl.checkpoints.folders import OOD_DETECTOR
from c2fvl.checkpoints.trained_model import TrainedModel
from c2fvl.data.cases import Case
from c2fvl.data.prefetch import prefetch
from c2fvl.data.scan import scan
from c2fvl.files import storage
from c2fvl.files.images import read_image
from c2fvl.metrics.out_of_distribution import MIN_CONTRAST, OodDetector, fraction_flagged, thumbnail


def fit_ood(
    model: TrainedModel,
    root: Path | str,
    *,
    split: str = "train",
    check_split: str = "val",
    table: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write what is usual among the films of `split` to the model folder, and return what is flagged of others.

    The shares are of the films of `check_split`, as they are and turned, mirrored or inverted. Raises `ValueError`
    for too few films, with nothing written.
    """
    table = table or model.config.data.table or None
    known, others = scan(root, split, table=table), scan(root, check_split, table=table)
    total, done = len(known) + len(others), 0

    def pictures(cases: list[Case]) -> np.ndarray:
        nonlocal done
        found = []
        for film in prefetch(lambda case: read_image(case.image), cases, maximum=8):
            found += [thumbnail(film)] if film.std() >= MIN_CONTRAST else []
            done += 1
            if progress is not None:
                progress(done, total)
        return np.stack(found) if found else np.empty((0, 0))

    try:
        ood_detector = OodDetector.fit(pictures(known))
    except ValueError as error:
        raise ValueError(f"{root} ({split}): {error}") from error
    fractions = fraction_flagged(ood_detector, pictures(others))
    storage.write_bytes(model.path / OOD_DETECTOR, ood_detector.to_bytes())
    return {"num_images": len(known), "checked_on": check_split, "num_checked": len(others), "flagged": fractions}
