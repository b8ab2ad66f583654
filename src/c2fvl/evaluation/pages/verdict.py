"""One sentence that says how good a result is, and against what; only what the evaluation itself can support."""

from pathlib import Path

from c2fvl.data.prepare.published_sets import PUBLISHED_SETS
from c2fvl.evaluation.statistics import Scores
from c2fvl.evaluation.summary import Remark, Summary, TextAudit
from c2fvl.metrics.intervals import Estimate

_PUBLISHED = {"QaTa-COV19": ("LViT", 83.66)}
"""Name of a data set → network and its published Dice per image on the test split (Li et al., IEEE TMI, 2023)."""
_FEWEST = 10
_POOR = 0.5


def verdict(summary: Summary, scores: Scores) -> Remark:
    """Return the sentence; `scores` are those of each case."""
    if summary.data.num_cases < _FEWEST:
        return Remark(f"{_images(summary.data.num_cases)} are too few to judge by.", True)
    if summary.audit is not None and (summary.audit.changes or summary.audit.baselines):
        return _of_audit(summary.audit)
    return _of_published(summary) or _of_scores(summary, scores)


def _images(count: int) -> str:
    return "One image" if count == 1 else f"{count} images"


def _of_audit(audit: TextAudit) -> Remark:
    """Compare with masks that ignore the image, with no report, and with wrong reports."""
    beaten = [row.title for row in audit.baselines if _sign(row.difference) > 0]
    unbeaten = [row.title for row in audit.baselines if row.title not in beaten]
    clauses = [
        f"is {words} than {' and than '.join(titles)}"
        for words, titles in (("better", beaten), ("not clearly better", unbeaten))
        if titles
    ]
    warning = bool(unbeaten)
    if audit.changes:
        right = next(row for row in audit.changes if row.name == "right")
        assert right.difference_to_none is not None
        benefit = _sign(right.difference_to_none)
        words = {1: "gains from the correct report", 0: "does not clearly gain from the correct report"}
        clauses.append(words.get(benefit, "loses even from the correct report"))
        wrong = [row.difference_to_none for row in audit.changes if row.is_wrong and row.difference_to_none is not None]
        harmful = sum(_sign(difference) < 0 for difference in wrong)
        clauses.append(
            f"is harmed by {harmful} of {len(wrong)} kinds of wrong report"
            if harmful
            else f"is clearly harmed by none of {len(wrong)} kinds of wrong report"
        )
        warning |= benefit < 0 or harmful > 0
    return Remark(f"The network {_listed(clauses)}.", warning)


def _sign(difference: Estimate) -> int:
    """Return 1 or −1 where the confidence interval is above or below 0, else 0."""
    if difference.low is None or difference.high is None:
        return 0
    return int(difference.low > 0) - int(difference.high < 0)


def _of_published(summary: Summary) -> Remark | None:
    """Compare with a published score where it is of the same split of the same data by the same protocol."""
    name, data = Path(summary.data.root).name, summary.data
    known = {one.title: one.counts for one in PUBLISHED_SETS.values()}
    row = next((row for row in summary.scores if row.protocol == "published"), None)
    if name not in _PUBLISHED or data.split != "test" or data.num_cases != known[name]["test"] or row is None:
        return None
    network, published = _PUBLISHED[name]
    apart = 100 * row.dice_per_image - published
    where = "above" if apart >= 0 else "below"
    return Remark(
        f"By the published protocol the Dice per image is {100 * row.dice_per_image:.2f} %, {abs(apart):.2f} points "
        f"{where} the {published} % that the authors of {network} report for this split.",
        apart < 0,
    )


def _of_scores(summary: Summary, scores: Scores) -> Remark:
    """Say how many images are good and poor, and what would be a comparison."""
    median = summary.statistics.per_image["dice"].median
    assert median is not None  # Dice has quartiles
    num_poor = int((scores["dice"] < _POOR).sum())
    level = (
        f"Half of the images have a Dice of {100 * median.value:.1f} % or more, {num_poor} of {len(scores['dice'])} "
        "less than 50 %"
    )
    if summary.model.is_masks:
        return Remark(
            f"{level}; if a reader drew these masks, this is the agreement of two readers, and `c2fvl compare` sets a "
            "network against it.",
            False,
        )
    return Remark(
        f"{level}; whether this is good only a comparison can say: `c2fvl compare` with another network or a second "
        "reader, `c2fvl audit` with no report and with masks that ignore the image.",
        False,
    )


def _listed(clauses: list[str]) -> str:
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])}, and {clauses[-1]}"
