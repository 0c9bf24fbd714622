"""How costs grow with size: the slope of log cost over log size, by least squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import linear_regression, median
from tempfile import TemporaryDirectory

import torch

from vlpeft.benchmark.bench import p_laplacian, ranking
from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting
from vlpeft.benchmark.bench._sides import TimedStep, side
from vlpeft.benchmark.bench._sweeps import records, write_sweep
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.sweep import SweepHandle

BENCH = "growth"


@dataclass(frozen=True)
class Curve:
    """A cost, the sizes to measure, and the largest allowed exponent, with 0.1 for noise."""

    name: str
    sizes: tuple[int, ...]
    make: Callable[[int, bool, Path, torch.device], TimedStep]
    at_most: float
    quick: tuple[int, ...] = (2, 4)


def tokens(size: int, quick: bool, _folder: Path, device: torch.device) -> TimedStep:
    """Step of a p-adapter on self-attention; its graph has as many edges as the attention."""
    base = p_laplacian.TINY if quick else p_laplacian.SHAPES[0]
    return p_laplacian.step(
        replace(base, batch=2, queries=size, keys=size, tokens=None), device, literal=False
    )


def candidates(size: int, quick: bool, _folder: Path, device: torch.device) -> TimedStep:
    """Rank `size` answers of one question."""
    return ranking.step(1, size, False, quick, device)


def cells(size: int, _quick: bool, folder: Path, _device: torch.device) -> TimedStep:
    """Plan `size` cells."""
    sweep = str(write_sweep(folder, size))

    def planned() -> None:
        plan(SweepHandle(sweep), need_data=False)

    return planned


def finished(size: int, _quick: bool, folder: Path, _device: torch.device) -> TimedStep:
    """Read `size` records."""
    store = Store(records(folder / f"root{size}", write_sweep(folder, size)))

    def read() -> None:
        for _ in store.records():
            pass

    return read


CURVES = (
    Curve("p-adapter step over n tokens", (64, 128, 256, 512), tokens, 2.1),
    Curve("ranking over k candidates", (4, 8, 16, 32), candidates, 1.1),
    Curve("planning over cells", (250, 500, 1000, 2000), cells, 1.1),
    Curve("reading over records", (500, 1000, 2000, 4000), finished, 1.1),
)


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Return a row for each curve: milliseconds at the largest and smallest size, and exponent."""
    for curve in CURVES:
        taken = {size: 1e3 * seconds for size, seconds in points(curve, setting).items()}
        sizes, costs = list(taken), list(taken.values())
        name = f"{curve.name}, {sizes[-1]} vs {sizes[0]}: exponent"
        unit = "CPU ms" if setting.device == "cpu" else "ms"
        yield BenchRow(
            BENCH,
            name,
            unit,
            costs[-1],
            costs[0],
            exponent(taken),
            "at most",
            curve.at_most,
            setting.turns,
            points=taken,
        )


def points(curve: Curve, setting: BenchSetting) -> dict[int, float]:
    """Return the median seconds of each size, each measured in its own process."""
    found = {}
    with TemporaryDirectory() as folder:
        for size in curve.quick if setting.quick else curve.sizes:
            with side(
                partial(_made, CURVES.index(curve), size, setting.quick, Path(folder)), setting
            ) as turn:
                found[size] = median(turn().seconds for _ in range(setting.turns))
    return found


def _made(number: int, size: int, quick: bool, folder: Path, device: torch.device) -> TimedStep:
    return CURVES[number].make(size, quick, folder, device)


def exponent(taken: Mapping[int, float]) -> float:
    """Return the slope of log cost over log size."""
    logs: tuple[Sequence[float], Sequence[float]] = (
        [math.log(size) for size in taken],
        [math.log(cost) for cost in taken.values()],
    )
    return linear_regression(*logs).slope
