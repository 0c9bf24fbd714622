"""Stop what was launched in a result folder, and show what its cells have said."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.launch.presence import Launcher, launchers
from vlpeft.slurm import cluster
from vlpeft.slurm.cluster import SlurmSilent
from vlpeft.slurm.ledger import Ledger
from vlpeft.slurm.states import live_cells


class LogSection(NamedTuple):
    """What a cell said in one log."""

    log: Path
    text: str


def cancel(root: Path, sweep: str, cells: Collection[str]) -> tuple[int, int, list[str]]:
    """Cancel SLURM jobs with any of these cells, and interrupt this machine's local launchers of the sweep.

    Returns how many of each, and the other machines on which there are local launchers.
    """
    doomed = _cancel_jobs(root, cells)
    local = [each for each in launchers(root, sweep) if each.way != "slurm"]
    for each in (is_local := [each for each in local if each.is_local]):
        _interrupt(each)
    return doomed, len(is_local), sorted({each.host for each in local if not each.is_local})


def _cancel_jobs(root: Path, cells: Collection[str]) -> int:
    ledger = Ledger(root.resolve())
    try:
        with (
            ledger.lock() if ledger.folder.exists() else nullcontext()
        ):  # what a launcher is submitting just now is cancelled, too
            doomed = sorted(
                {
                    sent.job
                    for cell, (sent, job) in live_cells(root).items()
                    if cell in cells and job.state != "COMPLETING"
                }
            )
            cluster.cancel(doomed)
    except SlurmSilent as error:
        raise UserError(f"SLURM does not answer: {error}") from error
    return len(doomed)


def _interrupt(each: Launcher) -> None:
    try:
        with suppress(ProcessLookupError):
            os.kill(each.process, signal.SIGINT)
    except PermissionError as error:
        raise UserError(
            f"the launcher at work here, process {each.process}, is another user's; only they can interrupt it"
        ) from error


def sections(root: Path, cell: str) -> Iterator[LogSection]:
    """What the cell has said in each log, the oldest first; of a job that has not come to it, all that the job has said."""
    for each in Ledger(root).submitted_jobs().get(cell, ()):
        text = _read(each.log)
        yield LogSection(each.log, _cut(text, cell) or text)
    for log in sorted(root.glob("jobs/*/*/*_log.out")):
        errors = log.with_suffix(".err")
        if found := _cut(_read(log), cell):
            yield LogSection(log, found)
        if more := _unmarked(_cut(_read(errors), cell)):
            yield LogSection(errors, more)


def _cut(text: str, cell: str) -> str:
    """From each line `=== CELL starts` to the next that begins with ===, which says how it ended."""
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        marked = line.startswith("=== ")
        if marked and not inside:
            inside = line.startswith(f"=== {cell} starts")
            kept += [line] if inside else []
            continue
        if inside:
            kept.append(line)
            inside = not marked
    return "".join(kept)


def _unmarked(text: str) -> str:
    """Without the lines that the other log of a worker has, too."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("=== "))


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
