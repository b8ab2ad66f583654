"""Values with confidence intervals as marks on one axis, which a page draws without a picture, so that text stays text.

Positions are per cent of the width of the axis.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from c2fvl.metrics.intervals import Estimate

_STEPS = (1, 2, 5, 10, 20, 25, 50, 100)
_MAX_TICKS = 5


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high` in per cent, with a tick every `step`."""

    low: float
    high: float
    step: float

    @classmethod
    def around(cls, estimates: Iterable[Estimate], *, zero: bool = False, limits: tuple[float, float]) -> "Axis":
        """Return the smallest axis with round ticks that holds all estimates and their intervals, within `limits`.

        Estimates are fractions; `zero` says that 0 belongs to the axis.
        """
        values = [
            100 * bound for found in estimates for bound in (found.value, found.low, found.high) if bound is not None
        ]
        values += [0.0] if zero or not values else []
        lowest, highest = min(values), max(values)
        steps = (size for size in _STEPS if (highest - lowest) / size <= _MAX_TICKS - 1)
        step = float(next(steps, _STEPS[-1]))
        low = max(limits[0], step * math.floor(lowest / step))
        high = min(limits[1], step * math.ceil(highest / step))
        return cls(low, high, step) if high > low else cls(max(limits[0], low - step), min(limits[1], low + step), step)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Return position and label of each tick."""
        count = round((self.high - self.low) / self.step)
        values = [self.low + index * self.step for index in range(count + 1)]
        return [(self.place(value / 100), f"{value:g}".replace("-", "−")) for value in values]

    @property
    def spacing(self) -> float:
        """Return the distance of two ticks."""
        return 100 * self.step / (self.high - self.low)

    def place(self, fraction: float) -> float:
        """Return the position of a value, rounded."""
        return round(100 * (100 * fraction - self.low) / (self.high - self.low), 2)

    def span(self, estimate: Estimate) -> tuple[float, float] | None:
        """Return beginning and length of the confidence interval; None without one."""
        if estimate.low is None or estimate.high is None:
            return None
        begin = self.place(estimate.low)
        return begin, round(self.place(estimate.high) - begin, 2)
