"""Stop what was launched in a result folder, and show the logs of its cells."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import read_bytes
from vlpeft.benchmark.launch.presence import Launcher, launchers
from vlpeft.slurm import cluster
from vlpeft.slurm.cluster import SlurmSilent
from vlpeft.slurm.ledger import Ledger
from vlpeft.slurm.states import live_cells


class LogSection(NamedTuple):
    """What a cell wrote to one log."""

    log: Path
    text: str


def cancel(root: Path, sweep: str, cells: Collection[str]) -> tuple[int, int, list[str]]:
    """Cancel SLURM jobs with any of these cells, and interrupt this machine's local launchers.

    Returns the number of jobs, the number of launchers, and the other machines with launchers.
    """
    jobs = _cancel_jobs(root, cells)
    local = [each for each in launchers(root, sweep) if each.way != "slurm"]
    ours = [each for each in local if each.is_local]
    for each in ours:
        _interrupt(each)
    return jobs, len(ours), sorted({each.host for each in local if not each.is_local})


def _cancel_jobs(root: Path, cells: Collection[str]) -> int:
    ledger = Ledger(root.resolve())
    # With the lock, jobs that a launcher is submitting right now are cancelled, too.
    lock = ledger.lock() if ledger.folder.exists() else nullcontext()
    try:
        with lock:
            doomed = {
                sent.job
                for cell, (sent, job) in live_cells(root).items()
                if cell in cells and job.state != "COMPLETING"
            }
            cluster.cancel(sorted(doomed))
    except SlurmSilent as error:
        raise UserError(f"SLURM does not answer: {error}") from error
    return len(doomed)


def _interrupt(each: Launcher) -> None:
    try:
        with suppress(ProcessLookupError):
            os.kill(each.process, signal.SIGINT)
    except PermissionError as error:
        raise UserError(
            f"the launcher of this sweep, process {each.process}, belongs to another user; "
            "only they can interrupt it"
        ) from error


def sections(root: Path, cell: str) -> Iterator[LogSection]:
    """Yield what a cell wrote to each log, the oldest first.

    If a job has not come to the cell, yield its whole log.
    """
    for each in Ledger(root).submitted_jobs().get(cell, ()):
        text = _read(each.log)
        yield LogSection(each.log, _cut(text, cell) or text)
    for log in sorted(root.glob("jobs/*/*/*_log.out")):
        errors = log.with_suffix(".err")
        if output := _cut(_read(log), cell):
            yield LogSection(log, output)
        if output := _without_marks(_cut(_read(errors), cell)):
            yield LogSection(errors, output)


def _cut(text: str, cell: str) -> str:
    """Cut from each line `=== CELL starts` to the next mark, which says how the cell ended."""
    kept: list[str] = []
    inside = False
    for line in text.splitlines(keepends=True):
        is_mark = line.startswith("=== ")
        if is_mark and not inside:
            inside = line.startswith(f"=== {cell} starts")
            if inside:
                kept.append(line)
        elif inside:
            kept.append(line)
            inside = not is_mark
    return "".join(kept)


def _without_marks(text: str) -> str:
    """Drop the marks: a worker writes them to both of its logs."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("=== "))


def _read(log: Path) -> str:
    try:
        return read_bytes(log).decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"({log} cannot be read: {error.strerror or error})\n"
