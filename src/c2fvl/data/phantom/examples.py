"""Three synthetic chest films with reports in words, for who has no image at hand. No torch."""

from dataclasses import dataclass

from c2fvl.data.phantom.draw import PhantomCase, draw_case

MODEL = "phantom"
"""The included model for synthetic films."""
SEED, SIZE = 7, 512
_REPORTS = (
    (0, "Airspace opacity in the left upper and left middle zone. The right lung is clear."),
    (8, "Bilateral opacities in the middle and lower zones."),
    (3, "Patchy consolidation in the right lower zone. The left lung is clear."),
)
"""The number of each case of the synthetic data set, and its report; left is the patient's."""
NUM_EXAMPLES = len(_REPORTS)


@dataclass(frozen=True)
class Example:
    """A synthetic film with its mask and two reports in words; their left is the patient's."""

    case: PhantomCase
    report: str
    exchanged: str
    """The report with left and right exchanged, which is wrong for this film."""


def example(number: int) -> Example:
    """Return an example; `number` counts from 0."""
    index, report = _REPORTS[number]
    return Example(draw_case(SEED, index, size=SIZE), report, _exchanged(report))


def reports() -> tuple[str, ...]:
    """Return the reports of the examples."""
    return tuple(report for _, report in _REPORTS)


def _exchanged(report: str) -> str:
    words = {"left": "right", "right": "left"}
    return " ".join(words.get(word, word) for word in report.split(" "))
