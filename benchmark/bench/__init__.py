"""Speed and memory, side by side: `vlpeft bench NAME` runs `benchmark/bench/NAME.py`, which compares ours with theirs.

A bench is one file with `run(tiny, device, repeats) -> list[Row]`. Both sides do the same work in one process, turn by
turn, so that other load on the machine falls on both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

Step = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """One comparison. `ratio` is the median over repeats of ours / theirs, run back to back: below 1, ours is faster."""

    name: str
    ours_ms: float  # medians
    theirs_ms: float
    ratio: float
    memory_ratio: float  # bytes kept for the backward pass, ours / theirs


def names() -> list[str]:
    """Benches there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def run(name: str, tiny: bool, device: str, repeats: int) -> list[Row]:
    """Import a bench and run it."""
    rows: list[Row] = import_module(f"benchmark.bench.{name}").run(tiny, device, repeats)
    return rows


def alternate(ours: Step, theirs: Step, repeats: int) -> tuple[float, float, float]:
    """Median milliseconds of ours and of theirs, and the median ratio; each goes first in every second repeat."""
    for warm_up in (ours, theirs):
        warm_up()
    pairs = []
    for repeat in range(repeats):
        order = (ours, theirs) if repeat % 2 == 0 else (theirs, ours)
        taken = {step: _milliseconds(step) for step in order}
        pairs.append((taken[ours], taken[theirs]))
    mine, other = zip(*pairs, strict=True)
    return statistics.median(mine), statistics.median(other), statistics.median(a / b for a, b in pairs)


def text(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    width = max(len(row.name) for row in rows)
    lines = [_line("", width, ("ours ms", "theirs ms", "ratio", "memory"))]
    for row in rows:
        numbers = (f"{row.ours_ms:.1f}", f"{row.theirs_ms:.1f}", f"{row.ratio:.3f}", f"{row.memory_ratio:.3f}")
        lines.append(_line(row.name, width, numbers))
    return "".join(f"{line}\n" for line in lines)


def _line(name: str, width: int, cells: Iterable[str]) -> str:
    return f"{name:<{width}}" + "".join(f"{cell:>11}" for cell in cells)


def _milliseconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)
