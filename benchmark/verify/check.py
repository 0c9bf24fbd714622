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
# Kernels of a GPU add in blocks and use other exponentials; TF32 is switched off while checks run.
CUDA_FLOAT32 = 1e-3
# bfloat16 keeps 8 bits: 4e-3 a rounding, and some of them add up. It is compared with the float32 values.
BFLOAT16 = 2e-2
SMALL = 1e-3  # of the largest number: less than that is left over where larger ones cancel, and has fewer digits
SHOWN = 200  # characters of a value in a message


class NotRun(Exception):
    """A check cannot run here; the message is the reason. That is not a failure."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    `measure` computes the value. It is compared with `expected()`, or, where that is None, with the committed value of the
    name `against` (default: the check's own name). Numbers may differ by `tolerance` times the largest number of their list,
    or times SMALL of the largest of all lists if that is more.
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


def difference(expected: Value, found: Value, tolerance: float) -> Difference | None:
    """The first difference between two JSON values, or None. NaN differs from everything."""
    return _compared(expected, found, tolerance, SMALL * _largest(expected), "")


def _compared(
    expected: Value, found: Value, tolerance: float, least: float, place: str
) -> Difference | None:
    if _number(expected) and _number(found):
        return _between([expected], [found], tolerance, least, place)
    if type(expected) is not type(found):
        return Difference(place, shown(expected), shown(found))
    if isinstance(expected, dict):
        return _in_mapping(expected, found, tolerance, least, place)
    if isinstance(expected, list):
        return _in_list(expected, found, tolerance, least, place)
    return None if expected == found else Difference(place, shown(expected), shown(found))


def _largest(value: Value) -> float:
    """The largest magnitude of any number."""
    if isinstance(value, dict):
        return max(map(_largest, value.values()), default=0.0)
    if isinstance(value, list):
        return max(map(_largest, value), default=0.0)
    return abs(value) if _number(value) else 0.0


def shown(value: Value) -> str:
    """A value on one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _in_mapping(
    expected: Mapping[str, Value],
    found: Mapping[str, Value],
    tolerance: float,
    least: float,
    place: str,
) -> Difference | None:
    if expected.keys() != found.keys():
        return Difference(place, f"names {sorted(expected)}", f"names {sorted(found)}")
    for key, value in expected.items():
        if other := _compared(value, found[key], tolerance, least, f"{place}/{key}"):
            return other
    return None


def _in_list(
    expected: list[Value], found: list[Value], tolerance: float, least: float, place: str
) -> Difference | None:
    if len(expected) != len(found):
        return Difference(
            place,
            f"{len(expected)} values {shown(expected)}",
            f"{len(found)} values {shown(found)}",
        )
    if all(map(_number, expected)) and all(map(_number, found)):
        return _between(expected, found, tolerance, least, place)
    for i, (value, other) in enumerate(zip(expected, found, strict=True)):
        if different := _compared(value, other, tolerance, least, f"{place}[{i}]"):
            return different
    return None


def _between(
    expected: Sequence[float], found: Sequence[float], tolerance: float, least: float, place: str
) -> Difference | None:
    allowed = tolerance * max(least, *map(abs, expected), 0.0)
    for i, (value, other) in enumerate(zip(expected, found, strict=True)):
        if not math.isfinite(other) or abs(value - other) > allowed:
            where = f"{place}[{i}]" if len(expected) > 1 else place
            return Difference(
                where, f"{value!r} ± {allowed:.2g}" if allowed else repr(value), repr(other)
            )
    return None


def _number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
