"""What a check is, and how two values are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Value = Any  # what json.dumps takes
State = Literal["ok", "FAILED", "not run"]

EXACT = 0.0
# Metrics are sums in float64. numpy's logarithms may differ in the last bit between processors, no more.
FLOAT64 = 1e-12
# Other processors and numbers of threads add in another order: about 1e-6 after the tiny towers' layers. What a library
# changes (a mask, a scale, an epsilon of a norm) moves numbers by more than 1e-3.
FLOAT32 = 1e-4
# cuDNN's convolutions (the patch embedding) round to TF32, with ten bits of mantissa, unless told otherwise.
CUDA_FLOAT32 = 5e-3
# bfloat16 keeps 8 bits: 4e-3 a rounding, and some of them add up. It is compared with the float32 values.
BFLOAT16 = 2e-2
SHOWN = 200  # characters of a value in a message


class NotRun(Exception):
    """A check cannot run here; the message is the reason. That is not a failure."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    `measure` computes the value. It is compared with `expected()`, or, where that is None, with the committed value of the
    name `against` (default: the check's own name). Numbers may differ by `tolerance` times the largest number of their list.
    """

    name: str
    measure: Callable[[], Value]
    tolerance: float = EXACT
    expected: Callable[[], Value] | None = None
    against: str = ""

    @property
    def committed(self) -> str:
        """The name of its committed value."""
        return self.against or self.name

    @property
    def writes(self) -> bool:
        """Whether `--write` keeps its value: not where it is compared with something else."""
        return self.expected is None and not self.against


@dataclass(frozen=True)
class Finding:
    """How a check ended; `expected` and `found` are texts, filled where it failed; `reason` says why it did not run."""

    part: str
    name: str
    state: State
    expected: str = ""
    found: str = ""
    reason: str = ""


class Difference(NamedTuple):
    """The first place where two values differ, and both values there."""

    place: str
    expected: str
    found: str


def difference(expected: Value, found: Value, tolerance: float, place: str = "") -> Difference | None:
    """The first difference between two JSON values, or None. NaN differs from everything."""
    if _number(expected) and _number(found):
        return _between([expected], [found], tolerance, place)
    if type(expected) is not type(found):
        return Difference(place, shown(expected), shown(found))
    if isinstance(expected, Mapping):
        return _in_mapping(expected, found, tolerance, place)
    if isinstance(expected, list):
        return _in_list(expected, found, tolerance, place)
    return None if expected == found else Difference(place, shown(expected), shown(found))


def shown(value: Value) -> str:
    """A value on one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _in_mapping(
    expected: Mapping[str, Value], found: Mapping[str, Value], tolerance: float, place: str
) -> Difference | None:
    if expected.keys() != found.keys():
        return Difference(place, f"names {sorted(expected)}", f"names {sorted(found)}")
    for key, value in expected.items():
        if other := difference(value, found[key], tolerance, f"{place}/{key}"):
            return other
    return None


def _in_list(expected: list[Value], found: list[Value], tolerance: float, place: str) -> Difference | None:
    if len(expected) != len(found):
        return Difference(place, f"{len(expected)} values {shown(expected)}", f"{len(found)} values {shown(found)}")
    if all(map(_number, expected)) and all(map(_number, found)):
        return _between(expected, found, tolerance, place)
    for i, (value, other) in enumerate(zip(expected, found, strict=True)):
        if different := difference(value, other, tolerance, f"{place}[{i}]"):
            return different
    return None


def _between(expected: Sequence[float], found: Sequence[float], tolerance: float, place: str) -> Difference | None:
    """Numbers are measured by the largest of their list: the others may come of cancellation."""
    allowed = tolerance * max(map(abs, expected), default=0.0)
    for i, (value, other) in enumerate(zip(expected, found, strict=True)):
        if not math.isfinite(other) or abs(value - other) > allowed:
            where = f"{place}[{i}]" if len(expected) > 1 else place
            return Difference(where, f"{value!r} ± {allowed:.2g}" if allowed else repr(value), repr(other))
    return None


def _number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
