"""What scores of cases say of a system: estimates with intervals, paired tests, and what kind of figure a pair is.

Films of one patient are alike, so everything is drawn by **groups** (patients, studies); a film without a known group
is one of its own. Intervals are percentile bootstrap intervals (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13). NumPy's generator of seed 0 makes every draw, so the same cases give the same figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 10_000
LEVEL = 0.95
_AT_ONCE = 500  # draws, so that the counts of thousands of films stay small
_FEW_GROUPS = 13  # of which every change of signs is tried

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; without one where there are fewer than two groups."""

    value: float
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | None]:
        """Return it as plain values for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


class Bootstrap:
    """Draws of the groups of N cases, with replacement, as many as there are; the same draws for every figure.

    `groups` names each case's group, None where it is not known. Raises `ValueError` for no cases.
    """

    def __init__(self, groups: Sequence[str | None], *, draws: int = NUM_DRAWS, seed: int = 0) -> None:
        if not groups:
            raise ValueError("there are no cases to draw from")
        self.members = _members(groups)
        self.num_cases, self.num_groups = len(groups), int(self.members.max()) + 1
        self.num_known = len({group for group in groups if group is not None})
        self.draws, self.seed = draws, seed

    @property
    def unit(self) -> str:
        """Return what is drawn, in words with the number of both."""
        if self.num_groups < 2:
            return f"no interval: {self.num_cases} case{'s' * (self.num_cases > 1)} of one group"
        if not self.num_known:
            return f"{self.num_cases} cases, of no known groups, so intervals take each case as independent"
        alone = self.num_groups - self.num_known
        rest = f", {alone} of them single cases of no known group" if alone else ""
        return f"{self.num_cases} cases in {self.num_groups} groups{rest}; intervals by groups"

    def ratios(self, parts: NDArray[Any], wholes: NDArray[Any]) -> list[Estimate]:
        """Return Σ parts / Σ wholes over cases for each of K figures, (N, K) or (N,); 1 where Σ wholes is 0.

        With wholes of 1 it is a mean over cases; with pixel counts it is a pooled figure.
        """
        values, drawn = self._ratios(_finite(parts), _finite(wholes))
        return [_estimate(float(value), drawn[:, place]) for place, value in enumerate(values)]

    def mean_of_ratios(self, parts: NDArray[Any], wholes: NDArray[Any]) -> Estimate:
        """Return the mean over K of what `ratios` returns, such as a pooled figure of several classes."""
        values, drawn = self._ratios(_finite(parts), _finite(wholes))
        return _estimate(float(values.mean()), drawn.mean(axis=1))

    def _ratios(self, above: Floats, below: Floats) -> tuple[Floats, Floats]:
        """Return the ratios of all cases (K,) and of each draw (draws, K), of no draw where there is one group."""
        number, values = above.shape[1], _divide(above.sum(axis=0), below.sum(axis=0))
        if self.num_groups < 2:
            return values, np.empty((0, number))
        totals = np.concatenate([_sums(above, self.members), _sums(below, self.members)], axis=1)
        found = np.concatenate([counts @ totals for counts in self._counts()])
        return values, _divide(found[:, :number], found[:, number:])

    def means(self, values: NDArray[Any]) -> list[Estimate]:
        """Return the mean over cases of each of K scores, (N, K) or (N,)."""
        columns = _finite(values)
        return self.ratios(columns, np.ones_like(columns))

    def quantiles(self, values: NDArray[Any], fractions: Sequence[float]) -> list[Estimate]:
        """Return quantiles of one score (N,), such as 0.5 for the median.

        A quantile is the smallest value that at least this share of the cases does not exceed, in a draw as in the
        cases themselves.
        """
        column = _finite(values)[:, 0]
        order = np.argsort(column, kind="stable")
        ordered, members = column[order], self.members[order]
        place = [
            min(len(column) - 1, max(0, int(np.ceil(fraction * len(column) - 1e-9)) - 1)) for fraction in fractions
        ]
        drawn: list[list[Floats]] = [[np.empty(0)] for _ in fractions]
        for counts in self._counts() if self.num_groups > 1 else ():
            reached = np.cumsum(counts[:, members], axis=1)
            for fraction, found in zip(fractions, drawn, strict=True):
                wanted = np.maximum(fraction * reached[:, -1:] - 1e-6, 1e-6)
                found.append(ordered[np.argmax(reached >= wanted, axis=1)])
        return [_estimate(float(ordered[at]), np.concatenate(found)) for at, found in zip(place, drawn, strict=True)]

    def _counts(self) -> Any:
        """Yield how often each group is in each of some draws, (draws, groups)."""
        generator = np.random.default_rng(self.seed)
        for start in range(0, self.draws, _AT_ONCE):
            number = min(_AT_ONCE, self.draws - start)
            drawn = generator.integers(0, self.num_groups, (number, self.num_groups))
            drawn += np.arange(number)[:, None] * self.num_groups
            counts = np.bincount(drawn.ravel(), minlength=number * self.num_groups)
            yield counts.reshape(number, self.num_groups).astype(np.float32 if self.num_cases < 2**20 else np.float64)


@dataclass(frozen=True)
class Difference:
    """A paired difference of two systems on the same cases."""

    mean: Estimate
    """Of the first less the second."""
    permutation: float
    """Two-sided p of the sign permutation test on the sums of the groups."""
    wilcoxon: float
    """Two-sided p of Wilcoxon's signed-rank test on the means of the groups."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {**self.mean.as_dict(), "permutation_p": self.permutation, "wilcoxon_p": self.wilcoxon}


def difference(first: NDArray[Any], second: NDArray[Any], bootstrap: Bootstrap) -> Difference:
    """Return the paired difference of two scores (N,) of the same cases in the same order.

    The permutation test draws which groups change their sign; of up to 13 groups it tries every choice. Raises
    `ValueError` for unequal numbers and for values that are not finite.
    """
    apart = _finite(first)[:, 0] - _finite(second)[:, 0]
    (mean,) = bootstrap.means(apart)
    sums = _sums(apart[:, None], bootstrap.members)[:, 0]
    sizes = np.bincount(bootstrap.members)
    return Difference(mean, _permutation(sums, bootstrap), _wilcoxon(sums / sizes))


def _permutation(sums: Floats, bootstrap: Bootstrap) -> float:
    seen = abs(sums.sum()) - 1e-9 * (1 + np.abs(sums).sum())  # equal sums that were added in another order are equal
    if len(sums) <= _FEW_GROUPS:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(sums))))
        return float(np.mean(np.abs(signs @ sums) >= seen))
    generator = np.random.default_rng(bootstrap.seed)
    as_extreme = 0
    for start in range(0, bootstrap.draws, _AT_ONCE):
        number = min(_AT_ONCE, bootstrap.draws - start)
        signs = 2.0 * generator.integers(0, 2, (number, len(sums)), dtype=np.int8) - 1
        as_extreme += int(np.count_nonzero(np.abs(signs @ sums) >= seen))
    return (as_extreme + 1) / (bootstrap.draws + 1)  # the seen one is a draw too, so that p is never 0


def _wilcoxon(apart: Floats) -> float:
    from scipy.stats import wilcoxon  # takes longer to load than most commands to run

    if not apart.any():
        return 1.0
    return float(wilcoxon(apart).pvalue)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979), in their order."""
    order = np.argsort(probabilities, kind="stable")
    corrected, minimum = [0.0] * len(probabilities), 0.0
    for rank, place in enumerate(order):
        minimum = max(minimum, min(1.0, (len(probabilities) - rank) * probabilities[place]))
        corrected[int(place)] = minimum
    return corrected


def summarise_scores(
    scores: Mapping[str, NDArray[Any]], bootstrap: Bootstrap, *, quantiles: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return for each named score (N,) its mean with interval; for those in `quantiles` median and quartiles too.

    Each entry holds `value`, `low`, `high`, and `median`, `lower_quartile`, `upper_quartile` with the same three.
    """
    names = list(scores)
    means = bootstrap.means(np.stack([np.asarray(scores[name], np.float64) for name in names], axis=1))
    found: dict[str, dict[str, Any]] = {name: mean.as_dict() for name, mean in zip(names, means, strict=True)}
    for name in quantiles:
        lower, median, upper = bootstrap.quantiles(scores[name], (0.25, 0.5, 0.75))
        found[name] |= {
            "median": median.as_dict(), "lower_quartile": lower.as_dict(), "upper_quartile": upper.as_dict(),
        }  # fmt: skip
    return found


def _members(groups: Sequence[str | None]) -> NDArray[np.int64]:
    """Return the number of each case's group, in the order in which groups are met."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(place if group is None else group, len(numbers))
                     for place, group in enumerate(groups)], np.int64)  # fmt: skip


def _sums(values: Floats, members: NDArray[np.int64]) -> Floats:
    """Return the sums of (N, K) over each group, (groups, K)."""
    found = np.zeros((int(members.max()) + 1, values.shape[1]))
    np.add.at(found, members, values)
    return found


def _finite(values: NDArray[Any]) -> Floats:
    """Return scores as (N, K) of float64; a score that is no number would make every figure one."""
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        count = int((~np.isfinite(found)).sum())
        raise ValueError(f"{count} of {found.size} scores are not finite; no figure can be made of them")
    return found[:, None] if found.ndim == 1 else found


def _divide(parts: Floats, wholes: Floats) -> Floats:
    return np.divide(parts, wholes, out=np.ones_like(parts, dtype=np.float64), where=wholes != 0)


def _estimate(value: float, drawn: Floats) -> Estimate:
    if not len(drawn):
        return Estimate(value, None, None)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
