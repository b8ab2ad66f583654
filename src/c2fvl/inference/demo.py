"""The first minute with the program: synthetic films, segmented with and without a report. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c2fvl.data.phantom.examples import MODEL, NUM_EXAMPLES, Example, example
from c2fvl.data.pictures import case_panel
from c2fvl.files import storage
from c2fvl.files.images import write_image
from c2fvl.inference.prediction import Prediction
from c2fvl.inference.predictor import Predictor
from c2fvl.metrics.overlap import dice, overlap


@dataclass(frozen=True)
class DemoFilm:
    """A film of the demo: its files, and the Dice of its masks against the true one."""

    film: Path
    picture: Path
    report: str
    without_report: float
    with_report: float
    with_sides_exchanged: float


def write_demo(out: Path | str) -> Iterator[DemoFilm]:
    """Write films, reports and pictures of their masks to the folder `out`; yield each film once it is written.

    The picture of a film shows its mask without a report, with its report, and with left and right of the report
    exchanged. Files of an earlier demo are replaced.
    """
    out = Path(out)
    storage.check_folder(out, what="demo")
    predictor = Predictor(MODEL, device="cpu")
    for number in range(NUM_EXAMPLES):
        shown = example(number)
        film, picture = out / f"film_{number + 1}.png", out / f"film_{number + 1}_masks.png"
        write_image(film, shown.case.image)
        storage.write_text(out / f"film_{number + 1}.txt", f"{shown.report}\n")
        reports = (None, shown.report, shown.exchanged)
        found = predictor.batch([film] * len(reports), reports)
        scores = [dice(overlap(one.mask, shown.case.mask)) for one in found]
        write_image(picture, _picture(shown, found, scores))
        yield DemoFilm(film, picture, shown.report, *scores)


def _picture(shown: Example, found: list[Prediction], scores: list[float]) -> np.ndarray:
    """Return one panel below the other, (h, w, 3) uint8."""
    image = np.repeat(shown.case.image[:, :, None], 3, axis=2).astype(np.float32) / 255
    notes = ("", "The report of this film.", "Left and right of the report are exchanged.")
    panels = [
        case_panel(image, one.mask, target=shown.case.mask, report=one.given.as_worded, dice=score, note=note)
        for one, score, note in zip(found, scores, notes, strict=True)
    ]
    height = max(panel.shape[0] for panel in panels)
    return np.concatenate([np.pad(one, ((0, height - one.shape[0] + 8), (0, 0), (0, 0))) for one in panels])
