"""What a check is, and how two values are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

JSONValue = Any  # anything that json.dumps accepts
CheckState = Literal["ok", "FAILED", "not run"]

EXACT = 0.0
# Metrics are sums in float64. numpy's logarithms may differ in the last bit between processors.
FLOAT64 = 1e-12
# Other processors and other numbers of threads add in another order. After the layers of the tiny
# towers this makes about 1e-6. A change in a library (a mask, a scale, the epsilon of a norm) moves
# numbers by more than 1e-3.
FLOAT32 = 1e-4
# Kernels of a GPU add in blocks and use other exponentials. TF32 is off while checks run.
CUDA_FLOAT32 = 1e-3
# bfloat16 keeps 8 bits: each rounding is 4e-3, and some add up. It is compared with float32 values.
BFLOAT16 = 2e-2
# Numbers below this share of the largest one are left over where larger numbers cancel. They have
# fewer correct digits.
SMALL = 1e-3
SHOWN = 200  # characters of a value in a message


class NotRun(Exception):
    """A check cannot run here. The message is the reason. This is not a failure."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    Numbers may differ by `tolerance` times the largest number of their list, or by `tolerance`
    times SMALL times the largest of all lists if that is more.

    Attributes:
        name: unique within its part.
        measure: computes the value.
        tolerance: relative, see above.
        expected: computes what the value must equal. If None, this is a committed value.
        against: the name of the committed value; by default, the name of the check.
    """

    name: str
    measure: Callable[[], JSONValue]
    tolerance: float = EXACT
    expected: Callable[[], JSONValue] | None = None
    against: str = ""

    @property
    def committed(self) -> str:
        """The name of its committed value."""
        return self.against or self.name

    @property
    def writes(self) -> bool:
        """Whether `--write` commits its value: not if it is compared with something else."""
        return self.expected is None and not self.against


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    `expected` and `found` are texts, filled if the check failed. `reason` says why it did not run.
    """

    part: str
    name: str
    state: CheckState
    expected: str = ""
    found: str = ""
    reason: str = ""


class FirstDifference(NamedTuple):
    """The first place where two values differ, and both values there."""

    place: str
    expected: str
    found: str


def difference(expected: JSONValue, found: JSONValue, tolerance: float) -> FirstDifference | None:
    """Return the first difference between two JSON values, or None. NaN differs from everything."""
    return _compare(expected, found, tolerance, SMALL * _largest(expected), "")


def _compare(
    expected: JSONValue, found: JSONValue, tolerance: float, least: float, place: str
) -> FirstDifference | None:
    """Return the first difference below `place`; `least` is the smallest scale of a tolerance."""
    if _is_number(expected) and _is_number(found):
        return _compare_numbers([expected], [found], tolerance, least, place)
    if type(expected) is not type(found):
        return FirstDifference(place, shorten(expected), shorten(found))
    if isinstance(expected, dict):
        return _compare_mappings(expected, found, tolerance, least, place)
    if isinstance(expected, list):
        return _compare_lists(expected, found, tolerance, least, place)
    if expected == found:
        return None
    return FirstDifference(place, shorten(expected), shorten(found))


def _largest(value: JSONValue) -> float:
    """Return the largest magnitude of any number in a value."""
    if isinstance(value, dict):
        return max(map(_largest, value.values()), default=0.0)
    if isinstance(value, list):
        return max(map(_largest, value), default=0.0)
    if _is_number(value):
        return float(abs(value))
    return 0.0


def shorten(value: JSONValue) -> str:
    """Return a value as text on one line, cut if it is long."""
    text = " ".join(repr(value).split())
    if len(text) <= SHOWN:
        return text
    return f"{text[:SHOWN]}..."


def _compare_mappings(
    expected: Mapping[str, JSONValue],
    found: Mapping[str, JSONValue],
    tolerance: float,
    least: float,
    place: str,
) -> FirstDifference | None:
    if expected.keys() != found.keys():
        return FirstDifference(place, f"names {sorted(expected)}", f"names {sorted(found)}")
    for key, value in expected.items():
        other = _compare(value, found[key], tolerance, least, f"{place}/{key}")
        if other is not None:
            return other
    return None


def _compare_lists(
    expected: list[JSONValue], found: list[JSONValue], tolerance: float, least: float, place: str
) -> FirstDifference | None:
    if len(expected) != len(found):
        wanted = f"{len(expected)} values {shorten(expected)}"
        return FirstDifference(place, wanted, f"{len(found)} values {shorten(found)}")
    # A list of numbers has one scale, that of its largest number.
    if all(map(_is_number, expected)) and all(map(_is_number, found)):
        return _compare_numbers(expected, found, tolerance, least, place)
    for i, (value, other) in enumerate(zip(expected, found, strict=True)):
        different = _compare(value, other, tolerance, least, f"{place}[{i}]")
        if different is not None:
            return different
    return None


def _compare_numbers(
    expected: Sequence[float], found: Sequence[float], tolerance: float, least: float, place: str
) -> FirstDifference | None:
    allowed = tolerance * max(least, *map(abs, expected), 0.0)
    for i, (value, other) in enumerate(zip(expected, found, strict=True)):
        if not math.isfinite(other) or abs(value - other) > allowed:
            where = f"{place}[{i}]" if len(expected) > 1 else place
            wanted = f"{value!r} ± {allowed:.2g}" if allowed else repr(value)
            return FirstDifference(where, wanted, repr(other))
    return None


def _is_number(value: JSONValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
