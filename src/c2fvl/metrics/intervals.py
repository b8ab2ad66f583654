"""Confidence intervals and paired tests of scores, by groups.

Images of one patient are similar, so everything is drawn by **groups** (patients, studies); a case without a known
group is a group of its own. Intervals are percentile bootstrap intervals (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13). All draws come from NumPy's generator of seed 0: the same cases give the same results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 10_000
LEVEL = 0.95
_CHUNK = 500  # draws at once, so that the counts of thousands of cases stay small
_MAX_EXACT = 13  # groups whose changes of sign are all tried

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval; None for the bounds if there are fewer than two groups."""

    value: float
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | None]:
        """Return plain values for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


class Bootstrap:
    """Draws with replacement of all groups of N cases; every estimate uses the same draws.

    `groups` names the group of each case, None if unknown. Raises `ValueError` for no cases.
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
        """What is drawn, in words, with the numbers of cases and groups."""
        if self.num_groups < 2:
            return f"no interval: {self.num_cases} case{'s' * (self.num_cases > 1)} of one group"
        if not self.num_known:
            return f"{self.num_cases} cases, of no known groups, so intervals take each case as independent"
        alone = self.num_groups - self.num_known
        rest = f", {alone} of them single cases of no known group" if alone else ""
        return f"{self.num_cases} cases in {self.num_groups} groups{rest}; the bootstrap draws groups"

    def ratios(self, parts: NDArray[Any], wholes: NDArray[Any]) -> list[Estimate]:
        """Return Σ parts / Σ wholes over cases for each of K scores, (N, K) or (N,); 1 if Σ wholes is 0.

        With wholes of 1 it is a mean over cases; with pixel counts it is a pooled score.
        """
        values, drawn = self._ratios(_finite(parts), _finite(wholes))
        return [_estimate(float(value), drawn[:, column]) for column, value in enumerate(values)]

    def mean_of_ratios(self, parts: NDArray[Any], wholes: NDArray[Any]) -> Estimate:
        """Return the mean over the K ratios of `ratios`, such as a pooled score of several classes."""
        values, drawn = self._ratios(_finite(parts), _finite(wholes))
        return _estimate(float(values.mean()), drawn.mean(axis=1))

    def _ratios(self, above: Floats, below: Floats) -> tuple[Floats, Floats]:
        """Return the ratios of all cases (K,) and of each draw (draws, K); of no draw if there is one group."""
        width, values = above.shape[1], _divide(above.sum(axis=0), below.sum(axis=0))
        if self.num_groups < 2:
            return values, np.empty((0, width))
        totals = np.concatenate([_sums(above, self.members), _sums(below, self.members)], axis=1)
        sums = np.concatenate([counts @ totals for counts in self._counts()])
        return values, _divide(sums[:, :width], sums[:, width:])

    def means(self, values: NDArray[Any]) -> list[Estimate]:
        """Return the mean over cases of each of K scores, (N, K) or (N,)."""
        columns = _finite(values)
        return self.ratios(columns, np.ones_like(columns))

    def quantiles(self, values: NDArray[Any], fractions: Sequence[float]) -> list[Estimate]:
        """Return quantiles of one score (N,), such as 0.5 for the median.

        A quantile is the smallest value that at least this fraction of the cases does not exceed, in a draw as in the
        cases themselves.
        """
        column = _finite(values)[:, 0]
        order = np.argsort(column, kind="stable")
        ordered, members = column[order], self.members[order]
        last = len(column) - 1
        indices = [min(last, max(0, int(np.ceil(fraction * len(column) - 1e-9)) - 1)) for fraction in fractions]
        drawn: list[list[Floats]] = [[np.empty(0)] for _ in fractions]
        for counts in self._counts() if self.num_groups > 1 else ():
            reached = np.cumsum(counts[:, members], axis=1)
            for fraction, quantiles in zip(fractions, drawn, strict=True):
                wanted = np.maximum(fraction * reached[:, -1:] - 1e-6, 1e-6)
                quantiles.append(ordered[np.argmax(reached >= wanted, axis=1)])
        return [
            _estimate(float(ordered[index]), np.concatenate(chunks))
            for index, chunks in zip(indices, drawn, strict=True)
        ]

    def _counts(self) -> Any:
        """Yield how often each group is in each draw, (draws, groups), a chunk of draws at a time."""
        generator = np.random.default_rng(self.seed)
        for start in range(0, self.draws, _CHUNK):
            count = min(_CHUNK, self.draws - start)
            drawn = generator.integers(0, self.num_groups, (count, self.num_groups))
            drawn += np.arange(count)[:, None] * self.num_groups
            drawn_counts = np.bincount(drawn.ravel(), minlength=count * self.num_groups)
            yield drawn_counts.reshape(count, self.num_groups).astype(
                np.float32 if self.num_cases < 2**20 else np.float64
            )


@dataclass(frozen=True)
class Difference:
    """A paired difference of two systems on the same cases."""

    mean: Estimate
    """First minus second."""
    permutation: float
    """Two-sided p of the sign permutation test on the sums of the groups."""
    wilcoxon: float
    """Two-sided p of Wilcoxon's signed-rank test on the means of the groups."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self.mean.as_dict(), "permutation_p": self.permutation, "wilcoxon_p": self.wilcoxon}


def difference(first: NDArray[Any], second: NDArray[Any], bootstrap: Bootstrap) -> Difference:
    """Return the paired difference, first minus second, of two scores (N,) of the same cases in the same order.

    The permutation test draws which groups change their sign; for up to 13 groups it tries every choice. Raises
    `ValueError` for unequal numbers and for values that are not finite.
    """
    from scipy.stats import wilcoxon  # takes longer to load than most commands to run

    differences = _finite(first)[:, 0] - _finite(second)[:, 0]
    (mean,) = bootstrap.means(differences)
    sums = _sums(differences[:, None], bootstrap.members)[:, 0]
    means = sums / np.bincount(bootstrap.members)
    return Difference(mean, _permutation(sums, bootstrap), float(wilcoxon(means).pvalue) if means.any() else 1.0)


def _permutation(sums: Floats, bootstrap: Bootstrap) -> float:
    observed = abs(sums.sum()) - 1e-9 * (1 + np.abs(sums).sum())  # sums added in another order count as equal
    if len(sums) <= _MAX_EXACT:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(sums))))
        return float(np.mean(np.abs(signs @ sums) >= observed))
    generator = np.random.default_rng(bootstrap.seed)
    as_extreme = 0
    for start in range(0, bootstrap.draws, _CHUNK):
        number = min(_CHUNK, bootstrap.draws - start)
        signs = 2.0 * generator.integers(0, 2, (number, len(sums)), dtype=np.int8) - 1
        as_extreme += int(np.count_nonzero(np.abs(signs @ sums) >= observed))
    return (as_extreme + 1) / (bootstrap.draws + 1)  # the observed one is a draw too, so p is never 0


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return p values corrected for multiple testing, in their order (Holm, Scand. J. Statistics 6, 1979)."""
    order = np.argsort(probabilities, kind="stable")
    corrected, minimum = [0.0] * len(probabilities), 0.0
    for rank, index in enumerate(order):
        minimum = max(minimum, min(1.0, (len(probabilities) - rank) * probabilities[index]))
        corrected[int(index)] = minimum
    return corrected


def _members(groups: Sequence[str | None]) -> NDArray[np.int64]:
    """Return the index (N,) of each case's group, in the order of their first cases."""
    indices: dict[object, int] = {}
    keys = (case if group is None else group for case, group in enumerate(groups))
    return np.array([indices.setdefault(key, len(indices)) for key in keys], np.int64)


def _sums(values: Floats, members: NDArray[np.int64]) -> Floats:
    """Return the sums of (N, K) over each group, (groups, K)."""
    sums = np.zeros((int(members.max()) + 1, values.shape[1]))
    np.add.at(sums, members, values)
    return sums


def _finite(values: NDArray[Any]) -> Floats:
    """Return scores as (N, K) float64. Raises `ValueError` for values that are not finite."""
    scores = np.asarray(values, np.float64)
    if not np.isfinite(scores).all():
        count = int((~np.isfinite(scores)).sum())
        raise ValueError(f"cannot summarise scores: {count} of {scores.size} are not finite")
    return scores[:, None] if scores.ndim == 1 else scores


def _divide(parts: Floats, wholes: Floats) -> Floats:
    return np.divide(parts, wholes, out=np.ones_like(parts, dtype=np.float64), where=wholes != 0)


def _estimate(value: float, drawn: Floats) -> Estimate:
    if not len(drawn):
        return Estimate(value, None, None)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
