"""The cost of the command itself: help, planning 1,000 cells, and a table of 10,000 records."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting, row
from vlpeft.benchmark.bench._sides import TimedStep, time_row, turns
from vlpeft.benchmark.bench._sweeps import records, write_sweep
from vlpeft.benchmark.core.processes import starter_variables

BENCH = "command"
RUNS = 10  # of a short command in a step
HELP = ("-m", "vlpeft", "--help")
CPU_SECONDS = """
import sys, time
from vlpeft.benchmark.cli.main import main
for arguments in {commands!r}:
    began = time.process_time()
    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise
print(time.process_time() - began, file=sys.stderr)
"""  # of the last command


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Measure help, plan and table."""
    runs = 1 if setting.quick else RUNS
    pairs = turns(partial(step, HELP, runs), partial(step, ("-c", "pass"), runs), setting)
    yield time_row(BENCH, "vlpeft --help vs a bare interpreter", pairs, setting, "at most", 8.0)
    cells, finished = (4, 20) if setting.quick else (1000, 10_000)
    times = 1 if setting.quick else setting.turns
    with TemporaryDirectory() as folder:
        one, many, all_ = (write_sweep(Path(folder), n) for n in (1, cells, finished))
        plans = [["plan", str(sweep), "--json"] for sweep in (one, many)]
        taken = [(seconds(plans), 1.0) for _ in range(times)]
        yield row(
            BENCH,
            f"plan of {cells:,} cells as JSON, beyond imports and the first; other: allowed",
            "CPU s",
            taken,
            "at most",
            1.0,
        )
        table = ["table", str(all_), "--root", str(records(Path(folder) / "root", all_))]
        taken = [(seconds([table]), 3.0) for _ in range(times)]
        yield row(
            BENCH, f"table of {finished:,} records; other: allowed", "CPU s", taken, "at most", 1.0
        )


def step(arguments: Sequence[str], runs: int, device: torch.device) -> TimedStep:
    """Start Python `runs` times."""

    def started() -> None:
        for _ in range(runs):
            subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)

    return started


def seconds(commands: Sequence[Sequence[str]]) -> float:
    """Return the CPU seconds of the last of these commands, in a new process."""
    code = CPU_SECONDS.format(commands=commands)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        env=starter_variables(),
    )
    return float(done.stderr.split()[-1])
