"""What verifying an environment adds to a sweep: first the checks, later a look at a stamp."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from time import process_time

from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting, row
from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.verify.gate import require
from vlpeft.benchmark.plan.verify.stamp import code_hash

BENCH = "verify"
FIRST, STAMPED = 60.0, 1000.0  # allowed: CPU seconds and milliseconds, in one thread


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Verify all backbones of the quickstart; a quick run verifies only the first cell's."""
    cells = [planned.cell for planned in expand(SweepHandle("quickstart"))]
    cells = cells[:1] if setting.quick else cells
    with empty_cache():
        seconds = measure_cpu_seconds(cells, setting)
        yield row(
            BENCH,
            "before a sweep, the first time; other: allowed",
            "CPU s",
            [(seconds, FIRST)],
            "at most",
            1.0,
        )
        times = [
            (1000 * measure_cpu_seconds(cells, setting), STAMPED)
            for _ in range(1 if setting.quick else setting.turns)
        ]
        yield row(BENCH, "before a sweep, stamped; other: allowed", "CPU ms", times, "at most", 1.0)


def measure_cpu_seconds(cells: Sequence[Cell], setting: BenchSetting) -> float:
    """Return the CPU seconds until cells may run, without those of Java.

    The code is hashed again, as in a new process.
    """
    code_hash.cache_clear()
    began = process_time()
    require(cells, setting.device.partition(":")[0], lambda _: None)
    return process_time() - began


@contextmanager
def empty_cache() -> Iterator[None]:
    """Use a cache without stamps."""
    before = os.environ.get("XDG_CACHE_HOME")
    with TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            del os.environ["XDG_CACHE_HOME"]
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before
