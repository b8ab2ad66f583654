"""Pictures of cases for the results page: the best, median and worst ones large, and thumbnails of all."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from c2fvl.data.cases import Case
from c2fvl.data.pictures import case_panel, case_pictures, encode_png, encode_webp, panel_caption
from c2fvl.data.prefetch import prefetch
from c2fvl.files.images import read_image, read_mask
from c2fvl.inference.cases import ORIGINAL, CaseScore
from c2fvl.reports.report import Report
from c2fvl.reports.zones import orientation_in_words

NUM_PANELS = 4
MAX_THUMBNAILS, NUM_WORST = 200, 100
"""So that a page of thousands of cases stays small: how many have a thumbnail, and how many of these are the worst."""
THUMBNAIL_BYTES, THUMBNAIL_SIDE = 6_000, 176
_PICTURE_BYTES, _PICTURE_SIDE = 60_000, 512


@dataclass(frozen=True)
class Panel:
    """The pictures of one case: image and masks on the page, both with report and score in a file."""

    index: int
    id: str
    dice: float
    report: str
    plain: str = field(repr=False)
    """Address that holds the picture of the image."""
    drawn: str = field(repr=False)
    """Address that holds the picture with predicted and true mask."""
    file: str
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class PanelGroup:
    """Some cases under one title."""

    title: str
    panels: tuple[Panel, ...]


class CasePictures:
    """Draws cases with their predicted and true masks.

    `labels` gives the predicted class of each pixel (H, W) of the case with that index; `mask` says what mask files
    hold, as the setting data.mask.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        scores: Sequence[CaseScore],
        labels: Callable[[int], np.ndarray],
        *,
        classes: Sequence[str],
        mask: str,
    ) -> None:
        self.cases, self.scores, self.labels = cases, scores, labels
        self.classes, self.mask = classes, mask
        self.words = captions_of(cases)

    def panels(self) -> list[PanelGroup]:
        """Return pictures of the best, median and worst cases by their Dice."""
        is_empty = [all(own[ORIGINAL].target == 0 for own in score.classes) for score in self.scores]
        chosen = choose_cases([score.dice for score in self.scores], is_empty)
        return [
            PanelGroup(
                title,
                tuple(
                    self._panel(index, f"{title.lower()}-{number}.png") for number, index in enumerate(indices, start=1)
                ),
            )
            for title, indices in chosen.items()
        ]

    def thumbnails(self) -> dict[int, str]:
        """Return the addresses that hold small pictures, by the index of the case; at most `MAX_THUMBNAILS`."""
        chosen = choose_thumbnails([score.dice for score in self.scores])
        return dict(zip(chosen, prefetch(self._thumbnail, chosen, maximum=8), strict=True))

    def _thumbnail(self, index: int) -> str:
        _, drawn = self._pictures(index)
        return _address(encode_webp(drawn, max_side=THUMBNAIL_SIDE, max_bytes=THUMBNAIL_BYTES))

    def _panel(self, index: int, file: str) -> Panel:
        case, dice = self.cases[index], self.scores[index].dice
        image, target = self._read(index)
        labels = self.labels(index)
        picture = case_panel(image, labels, target=target, report=case.report, dice=dice, classes=self.classes)
        plain, drawn = (
            _address(encode_webp(pixels, max_side=_PICTURE_SIDE, max_bytes=_PICTURE_BYTES))
            for pixels in self._pictures(index)
        )
        return Panel(index, case.id, dice, self.words(case.report), plain, drawn, file, encode_png(picture))

    def _pictures(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, target = self._read(index)
        return case_pictures(image, self.labels(index), target=target, num_classes=len(self.classes))

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        case = self.cases[index]
        assert case.mask is not None  # only cases with a mask are scored
        return read_image(case.image), read_mask(case.mask, self.mask)


def captions_of(cases: Sequence[Case]) -> Callable[[Report | None], str]:
    """Return how reports are shown below pictures: with whose left they mean, unless that is the same for all.

    Where no case has a report, nothing is shown.
    """
    if all(case.report is None for case in cases):
        return lambda report: ""
    if orientation_of(cases):
        return lambda report: "No report" if report is None else report.text or str(report)
    return panel_caption


def orientation_of(cases: Sequence[Case]) -> str:
    """Return whose left all reports mean, in words; empty without reports, and where they differ."""
    found = {case.report.orientation for case in cases if case.report is not None}
    return orientation_in_words(found.pop()) if len(found) == 1 else ""


def _address(webp: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp).decode()


def choose_cases(dice: Sequence[float], is_empty: Sequence[bool]) -> dict[str, list[int]]:
    """Return which cases to draw, none twice: the worst, the best (with a lesion if there are), those in between."""
    order = np.argsort(dice, kind="stable").tolist()
    count = min(NUM_PANELS, max(1, len(order) // 3))
    worst, rest = order[:count], order[count:]
    best = sorted(rest, key=lambda index: (is_empty[index], -dice[index]))[:count]
    between = [index for index in rest if index not in best]
    middle = max(0, len(between) // 2 - count // 2)
    return {"Best": best, "Median": between[middle : middle + count], "Worst": worst}


def choose_thumbnails(dice: Sequence[float]) -> list[int]:
    """Return which cases get a thumbnail: all, or of many the worst ones and an even choice of the rest."""
    order = np.argsort(dice, kind="stable").tolist()
    if len(order) <= MAX_THUMBNAILS:
        return order
    rest = order[NUM_WORST:]
    evenly = np.linspace(0, len(rest) - 1, MAX_THUMBNAILS - NUM_WORST).round().astype(int)
    return order[:NUM_WORST] + [rest[index] for index in evenly]
