"""Stop what was launched in a result folder, and show what its cells have said."""

from __future__ import annotations

import platform
import signal
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmark.errors import UserError
from slurm import cluster
from slurm.cluster import SlurmSilent
from slurm.ledger import Ledger
from slurm.states import live


class Section(NamedTuple):
    """What a cell said in one log."""

    log: Path
    text: str


def cancel(root: Path, cells: Collection[str]) -> tuple[int, int]:
    """Cancel SLURM jobs with any of these cells, and interrupt this machine's local launchers of the folder. Returns how many of each."""
    try:
        doomed = sorted({sent.job for cell, (sent, job) in live(root).items() if cell in cells and job.state != "COMPLETING"})
        cluster.cancel(doomed)
    except SlurmSilent as error:
        raise UserError(f"SLURM does not answer: {error}") from error
    local = list(_launchers(root))
    for process in local:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)
    return len(doomed), len(local)


def _launchers(root: Path) -> Iterator[psutil.Process]:
    """Local launchers that still run: their folders are named by host and process."""
    for folder in root.glob(f"jobs/*/{platform.node()}-*"):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(folder.name.rpartition("-")[2]))
            if process.create_time() <= folder.stat().st_ctime and any("vlpeft" in word for word in process.cmdline()):
                yield process


def sections(root: Path, cell: str) -> Iterator[Section]:
    """What the cell has said in each log, the oldest first; of a job that has not come to it, all that the job has said."""
    for each in Ledger(root).sent().get(cell, ()):
        text = _read(each.log)
        yield Section(each.log, _cut(text, cell) or text)
    for log in sorted(root.glob("jobs/*/*/*_log.*")):
        if found := _cut(_read(log), cell):
            yield Section(log, found)


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


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
