"""The best, median and worst cases as pictures of the image beside its predicted and true mask."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from c2fvl.data.cases import Case
from c2fvl.data.pictures import case_panel, encode_png
from c2fvl.files.images import read_image, read_mask
from c2fvl.inference.cases import ORIGINAL, CaseScore

NUM_PANELS = 4


@dataclass(frozen=True)
class Panel:
    """The picture of one case."""

    id: str
    dice: float
    report: str
    file: str
    png: bytes

    @property
    def source(self) -> str:
        """Return the picture as an address that holds it whole."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class PanelGroup:
    """Some cases under one title."""

    title: str
    panels: tuple[Panel, ...]


def draw_panels(
    cases: Sequence[Case],
    scores: Sequence[CaseScore],
    labels: Callable[[int], np.ndarray],
    *,
    classes: Sequence[str],
    mask: str,
) -> list[PanelGroup]:
    """Return pictures of the best, median and worst cases by their Dice.

    `labels` gives the predicted class of each pixel (H, W) of the case with that index; `mask` says what mask files
    hold, as the setting data.mask.
    """
    is_empty = [all(own[ORIGINAL].target == 0 for own in score.classes) for score in scores]
    chosen = choose_cases([score.dice for score in scores], is_empty)
    return [
        PanelGroup(
            title,
            tuple(
                _draw(
                    cases[index],
                    scores[index].dice,
                    labels(index),
                    classes=classes,
                    mask=mask,
                    file=f"{title.lower()}-{number}.png",
                )
                for number, index in enumerate(indices, start=1)
            ),
        )
        for title, indices in chosen.items()
    ]


def _draw(case: Case, dice: float, labels: np.ndarray, *, classes: Sequence[str], mask: str, file: str) -> Panel:
    assert case.mask is not None  # only cases with a mask are scored
    target = read_mask(case.mask, mask)
    picture = case_panel(read_image(case.image), labels, target=target, report=case.report, dice=dice, classes=classes)
    report = "no report" if case.report is None else case.report.text or str(case.report)
    return Panel(case.id, dice, report, file, encode_png(picture))


def choose_cases(dice: Sequence[float], is_empty: Sequence[bool]) -> dict[str, list[int]]:
    """Return which cases to draw, none twice: the worst, the best (with a lesion if there are), those in between."""
    order = np.argsort(dice, kind="stable").tolist()
    count = min(NUM_PANELS, max(1, len(order) // 3))
    worst, rest = order[:count], order[count:]
    best = sorted(rest, key=lambda index: (is_empty[index], -dice[index]))[:count]
    between = [index for index in rest if index not in best]
    middle = max(0, len(between) // 2 - count // 2)
    return {"Best": best, "Median": between[middle : middle + count], "Worst": worst}
