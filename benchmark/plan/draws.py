"""`sample:` in a sweep: values drawn from ranges, the same on every machine.

The draws are points of a scrambled Sobol sequence, or of a random generator with a fixed seed, both
from scipy. Numbers are rounded to three significant digits, so that they can be read, and so that
the last bit of a power cannot change a cell's id.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from vlpeft.benchmark.core.config import JSON, Config, Seed, is_number, parse
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.core.plain_yaml import parse_yaml

DIGITS = 3  # significant digits of a drawn number
FACTORS = (1, 4, 64)  # how many times as many points are tried as draws are wanted
FORMS = "log(LOW, HIGH), uniform(LOW, HIGH) or choice(A, B, ...)"
RANGE = re.compile(r"\s*(\w+)\((.*)\)\s*", re.DOTALL)


@dataclass(frozen=True)
class Sample(Config):
    """The options of `sample:`; its other keys are settings with a range."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("n", "seed", "sampler")

    n: Annotated[int, Field(gt=0, le=10_000)]
    seed: Seed = 0
    sampler: Literal["sobol", "random"] = "sobol"


class Range(NamedTuple):
    """A range as it is written: its kind, and the values between its brackets."""

    kind: str
    values: list[Any]


@dataclass(frozen=True)
class SettingRange:
    """The values of a setting with a range.

    at: the value for a share of the way from the first to the last, in [0, 1).
    choices: how many values there are to choose from; 0 for a range of numbers.
    """

    at: Callable[[float], JSON]
    choices: int = 0

    def share(self, place: float) -> float:
        """Return the share of a place: a number in [0, 1], or the index of a choice."""
        if self.choices:
            return (place + 0.5) / self.choices
        return place

    def limits(self) -> list[JSON]:
        """Return every choice, or the lowest and the highest number."""
        if self.choices:
            return [self.at(self.share(index)) for index in range(self.choices)]
        return [self.at(0.0), self.at(1.0)]


def draw(item: Mapping[str, JSON], where: str) -> list[dict[str, JSON]]:
    """Return the draws of a `sample:` mapping.

    Draws are distinct: one that repeats an earlier one is left out, and the next takes its place.
    Raises UserError for a bad option or range, and if there are too few combinations.
    """
    item = join_commas(item)
    options = parse(Sample, {key: item[key] for key in Sample.OPTIONS if key in item}, where)
    ranges = {key: value for key, value in item.items() if key not in Sample.OPTIONS}
    if not ranges:
        raise UserError(f"{where}: it draws nothing; add a setting with a range: {FORMS}")
    maps = parse_ranges(ranges, where)
    drawn: list[dict[str, JSON]] = []
    for factor in FACTORS:
        drawn = []
        for point in _points(len(maps), factor * options.n, options):
            values = {key: maps[key].at(share) for key, share in zip(maps, point, strict=True)}
            if values not in drawn:
                drawn.append(values)
        if len(drawn) >= options.n:
            return drawn[: options.n]
    raise UserError(
        f"{where}: n: there are only about {len(drawn)} combinations, and {options.n} are to be "
        "drawn; lower it, or list all under `vary`"
    )


def _points(dimensions: int, count: int, options: Sample) -> Sequence[Sequence[float]]:
    """Return points of the unit cube [0, 1)^dimensions; more of them begin with the same ones."""
    import numpy as np
    from scipy.stats import qmc

    generator = np.random.default_rng(options.seed)
    if options.sampler == "random":
        plain: list[list[float]] = generator.random((count, dimensions)).tolist()
        return plain
    # A Sobol sequence is balanced in blocks of a power of two; scipy warns about other numbers.
    sequence = qmc.Sobol(dimensions, rng=generator)
    points: list[list[float]] = sequence.random_base2(math.ceil(math.log2(count))).tolist()
    return points[:count]


def parse_ranges(ranges: Mapping[str, JSON], where: str) -> dict[str, SettingRange]:
    """Read the ranges of several settings. Raises UserError for a bad one."""
    return {key: _parse_range(value, f"{where}.{key}") for key, value in ranges.items()}


def _parse_range(value: JSON, where: str) -> SettingRange:
    """Read a range. Raises UserError for a bad one."""
    kind, values = _read_range(value, where)
    if kind == "choice":
        return SettingRange(lambda share: values[int(share * len(values))], len(values))
    if len(values) != 2 or not all(is_number(each) and math.isfinite(each) for each in values):
        raise UserError(f"{where}: write two numbers: {kind}(LOW, HIGH), got {value}")
    low, high = values
    if not low < high:
        raise UserError(f"{where}: the range is empty or turned round: write {kind}({high}, {low})")
    if kind == "uniform":
        return SettingRange(lambda share: _round(low + share * (high - low)))
    if low <= 0:
        raise UserError(f"{where}: a logarithmic range begins above 0, got {value}")
    return SettingRange(lambda share: _round(low * (high / low) ** share))


def _read_range(value: JSON, where: str) -> Range:
    """Read "log(1e-5, 1e-2)"."""
    found = isinstance(value, str) and RANGE.fullmatch(value)
    if not found:
        raise UserError(f"{where}: write a range: {FORMS}, got {value}")
    kind, inside = found.groups()
    if kind not in ("log", "uniform", "choice"):
        near = did_you_mean(kind, ("log", "uniform", "choice"))
        raise UserError(f"{where}: unknown range '{kind}'{near}; write {FORMS}")
    try:
        values = parse_yaml(f"[{inside}]")
    except ValueError as error:
        raise UserError(f"{where}: cannot read {value} ({error}); write {FORMS}") from error
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}: {kind}() has no values; write {FORMS}")
    return Range(kind, values)


def join_commas(item: Mapping[str, JSON]) -> dict[str, JSON]:
    """Put ranges together again that YAML has split at a comma.

    Within braces, `{lr: log(1e-5, 1e-2)}` is read as two keys, `lr` with "log(1e-5", and "1e-2)"
    without a value.
    """
    joined: dict[str, JSON] = {}
    unfinished = ""
    for key, value in item.items():
        if unfinished and value is None:
            joined[unfinished] = f"{joined[unfinished]}, {key}"
            unfinished = "" if ")" in key else unfinished
            continue
        joined[key] = value
        unfinished = key if isinstance(value, str) and "(" in value and ")" not in value else ""
    return joined


def _round(value: float) -> float:
    """Round to DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")
