"""Every case of an evaluation as an entry that the page sorts and filters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from c2fvl.data.cases import Case
from c2fvl.evaluation.pages.panels import captions_of
from c2fvl.evaluation.statistics import Scores
from c2fvl.inference.cases import ORIGINAL, CaseScore


@dataclass(frozen=True)
class Entry:
    """What the page shows of one case."""

    index: int
    id: str
    group: str
    report: str
    dice: float
    estimated_dice: float | None
    area: float
    """Predicted, in the unit of the summary."""
    area_target: float
    kind: str
    """The words "missed", where no pixel of a lesion is found, and "false", where one is predicted without any."""
    thumbnail: str | None = field(repr=False)
    """Address that holds the picture; None where the page has enough of them."""


def gallery_of(
    cases: Sequence[Case], scores: Sequence[CaseScore], columns: Scores, thumbnails: Mapping[int, str]
) -> list[Entry]:
    """Return the entries of all cases, those with a thumbnail first, the lowest Dice first."""
    entries, words = [], captions_of(cases)
    for index, (case, score) in enumerate(zip(cases, scores, strict=True)):
        of_case = {name: float(values[index]) for name, values in columns.items()}
        entries.append(
            Entry(
                index, case.id, case.group or "", words(case.report), of_case["dice"],
                of_case.get("estimated_dice"), of_case["area"], of_case["area_target"], _kind(score),
                thumbnails.get(index),
            )
        )  # fmt: skip
    return sorted(entries, key=lambda entry: (entry.thumbnail is None, entry.dice, entry.id))


def _kind(score: CaseScore) -> str:
    counts = [own[ORIGINAL] for own in score.classes]
    missed, false = any(own.is_missed for own in counts), any(own.is_false_positive for own in counts)
    return " ".join(word for word, holds in (("missed", missed), ("false", false)) if holds)
