"""Axes of charts: the range of values, positions on it, and tick labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# A range that spans more decades than this gets a logarithmic axis, if the caller allows one.
DECADES = 1.0
STEPS = (1.0, 2.0, 5.0, 10.0)  # tick distances, times a power of ten
# (smallest value that is shortened, divisor, unit letter); 1,234 stays as it is, so k starts late.
SHORT = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))


@dataclass(frozen=True)
class Axis:
    """A range of values; with `log`, equal ratios are equally far apart."""

    title: str
    low: float
    high: float
    log: bool = False

    @classmethod
    def around(
        cls, title: str, values: Iterable[float], *, log: bool = False, whole: bool = False
    ) -> Axis:
        """Return an axis that holds all values, with a margin at both ends.

        Args:
            title: The label of the axis.
            values: The values to show; without any, the axis runs from 0 to 1.
            log: Allow a logarithmic axis. It is used if the values span more than DECADES.
            whole: Leave the margin out, so that the axis ends at the outermost values.
        """
        known = sorted(values) or [0.0, 1.0]
        low, high = known[0], known[-1]
        if log and low > 0 and math.log10(high / low) > DECADES:
            margin = (high / low) ** 0.06
            return cls(title, low / margin, high * margin, log=True)
        margin = _margin(low, high, whole)
        return cls(title, low - margin, high + margin)

    def at(self, value: float) -> float:
        """Return the position of a value: 0 at the low end, 1 at the high end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, wanted: int = 6) -> list[tuple[float, str]]:
        """Return about `wanted` round values in the range, each with its label."""
        values = list(self._steps(wanted))
        if self.log:
            decades = list(self._decades())
            # A short range may hold one of them, or none; then the round steps stay.
            if len(decades) > 1:
                values = decades
        return [(value, short_number(value)) for value in values]

    def _steps(self, wanted: int) -> Iterator[float]:
        rough = (self.high - self.low) / wanted
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in STEPS if size * factor >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        for i in range(count):
            yield round((first + i) * step, 12)

    def _decades(self) -> Iterator[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for power in powers:
            for factor in _tick_factors(math.log10(self.high / self.low)):
                value = factor * 10.0**power
                if self.low <= value <= self.high:
                    yield value


def _margin(low: float, high: float, whole: bool) -> float:
    """Return the free space at each end of a linear axis, in the unit of the values."""
    if whole and high > low:
        return 0.0
    # A single value has no range: then the margin comes from its size, and 0 gets a fixed one.
    return (high - low) * 0.06 or abs(high) * 0.05 or 0.5


def _tick_factors(decades: float) -> tuple[int, ...]:
    """Return which multiples of each power of ten get a tick, fewer on a longer axis."""
    if decades > 3.5:
        return (1,)
    if decades > 1.6:
        return (1, 3)
    return (1, 2, 5)


def short_number(value: float) -> str:
    """Write 12,000 as 12k, and never more digits than needed."""
    for least, size, letter in SHORT:
        if abs(value) >= least:
            return f"{value / size:g}{letter}"
    return f"{value:,.10g}"
