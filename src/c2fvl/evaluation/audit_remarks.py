"""What the numbers of an audit say, in sentences."""

from collections.abc import Iterator

from c2fvl.data.perturbations import perturbations
from c2fvl.evaluation.summary import HeadlineScore, Remark, TextAudit

WRONG_REPORTS = ("shuffled", "sides_exchanged")
"""Changes whose harm is quoted."""


def audit_remarks(audit: TextAudit, *, reads_text: bool) -> Iterator[Remark]:
    """Yield the remarks on an audit whose own remarks are not made yet."""
    yield from _on_reports(audit, reads_text)
    for row in audit.baselines:
        against = f"{row.title}, an average of {row.num_training_images} training masks that ignores the image"
        apart = row.difference
        if apart.value <= 0 or (apart.low is not None and apart.low <= 0):
            yield Remark(f"The network ({row.compared_with}) is not better than {against}.", True)
        else:
            no_interval = "" if apart.low is not None else "; there is no confidence interval"
            yield Remark(f"The network ({row.compared_with}) is better than {against}{no_interval}.", False)
    if not audit.baselines:
        yield Remark("There is no training split here, so there is no image-independent baseline.", False)


def _on_reports(audit: TextAudit, reads_text: bool) -> Iterator[Remark]:
    if not reads_text:
        yield Remark("This network reads no text: no report, right or wrong, changes its mask.", False)
        return
    if not audit.changes:
        yield Remark("No case has a report that the network can read, so no report was changed.", True)
        return
    headline = {entry.name: entry for entry in audit.headline}
    yield Remark(_benefit(headline["benefit"]), False)
    titles = {change.name: change.title for change in perturbations(None)}
    for name in WRONG_REPORTS:
        if f"harm_{name}" in headline:
            yield _harm(titles[name], headline[f"harm_{name}"])
    worst = min((row for row in audit.changes if row.is_wrong), key=lambda row: row.dice.value)
    yield Remark(f"The lowest Dice of all changes: {100 * worst.dice.value:.2f} % ({worst.title}).", False)


def _benefit(entry: HeadlineScore) -> str:
    is_sure = entry.low is not None and entry.high is not None and (entry.low > 0 or entry.high < 0)
    chance = "" if is_sure else "; this may be chance"
    if entry.value >= 0:
        return f"The correct report raises the Dice by {100 * entry.value:.2f} points{chance}."
    return f"The correct report lowers the Dice by {-100 * entry.value:.2f} points{chance}."


def _harm(title: str, entry: HeadlineScore) -> Remark:
    points = 100 * entry.value
    if entry.low is not None and entry.low > 0:
        return Remark(f"A wrong report does harm ({title}): {points:.2f} points of Dice below no report.", True)
    if points > 0:
        return Remark(f"A wrong report ({title}) costs {points:.2f} points of Dice; this may be chance.", False)
    return Remark(f"A wrong report ({title}) does no harm: {abs(points):.2f} points of Dice above no report.", False)
