"""Where values lie on a chart, and which of them are written beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

DECADES = 1.0  # a range wider than this is drawn on a logarithmic axis, where one is asked for
STEPS = (1.0, 2.0, 5.0, 10.0)
SHORT = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))  # from where, divided by what


@dataclass(frozen=True)
class Axis:
    """A range of values; `log` if equal ratios are equally far apart."""

    title: str
    low: float
    high: float
    log: bool = False

    @classmethod
    def around(
        cls, title: str, values: Iterable[float], *, log: bool = False, whole: bool = False
    ) -> Axis:
        """Holds all values with some air; logarithmic if allowed and the values span more than DECADES. `whole`: without air."""
        known = sorted(values) or [0.0, 1.0]
        low, high = known[0], known[-1]
        if log and low > 0 and math.log10(high / low) > DECADES:
            air = (high / low) ** 0.06
            return cls(title, low / air, high * air, log=True)
        air = 0.0 if whole and high > low else (high - low) * 0.06 or abs(high) * 0.05 or 0.5
        return cls(title, low - air, high + air)

    def at(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, wanted: int = 6) -> list[tuple[float, str]]:
        """Round values in the range, and their texts."""
        values = list(self._decades() if self.log else self._steps(wanted))
        return [(value, short_number(value)) for value in values]

    def _steps(self, wanted: int) -> Iterator[float]:
        rough = (self.high - self.low) / wanted
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in STEPS if size * factor >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        yield from (round((first + i) * step, 12) for i in range(count))

    def _decades(self) -> Iterator[float]:
        factors = (
            (1,)
            if math.log10(self.high / self.low) > 3.5
            else (1, 3)
            if math.log10(self.high / self.low) > 1.6
            else (1, 2, 5)
        )
        for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1):
            yield from (
                factor * 10.0**power
                for factor in factors
                if self.low <= factor * 10.0**power <= self.high
            )


def short_number(value: float) -> str:
    """12,000 as 12k; never more digits than needed."""
    for least, size, letter in SHORT:
        if abs(value) >= least:
            return f"{value / size:g}{letter}"
    return f"{value:,.10g}"
