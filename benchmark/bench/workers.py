"""A sweep of tiny cells in one worker, compared with one process for each cell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting
from vlpeft.benchmark.bench._sides import TimedStep, time_row, turns
from vlpeft.benchmark.bench._sweeps import write_sweep
from vlpeft.benchmark.core.processes import starter_variables

BENCH = "workers"


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Compare CPU seconds of all processes for the sweep, planning and tables included."""
    cells = 2 if setting.quick else 6
    sides = [partial(step, cells, together) for together in (True, False)]
    name = f"{cells} tiny cells, workers vs one process a cell"
    yield time_row(BENCH, name, turns(sides[0], sides[1], setting), setting, "at least", 1.5)


def step(cells: int, together: bool, device: torch.device) -> TimedStep:
    """Return a step that runs the sweep in a new folder."""

    def whole() -> None:
        with TemporaryDirectory() as folder:
            sweep = str(write_sweep(Path(folder), cells))
            where = (
                "--root",
                str(Path(folder) / "root"),
                "--device",
                device.type,
                "--threads",
                "1",
            )
            if together:
                _vlpeft("sweep", sweep, "--workers", "1", *where)
                return
            for cell in json.loads(_vlpeft("plan", sweep, "--json")):
                _vlpeft("run", sweep, "--cell", cell["id"], *where)

    return whole


def _vlpeft(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vlpeft", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=starter_variables(),
    )
    if done.returncode:
        raise RuntimeError(f"vlpeft {' '.join(arguments)}: {done.stderr[-500:]}")
    return done.stdout
