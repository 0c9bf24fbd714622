"""Stop what was launched in a result folder, and show the logs of its cells."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from vlpeft.benchmark.cells.attempts import HOST, failure, progress
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import read_bytes
from vlpeft.benchmark.launch.presence import WORKER, Launcher, launchers
from vlpeft.slurm import cluster
from vlpeft.slurm.cluster import Job, SlurmSilent
from vlpeft.slurm.ledger import Ledger, Sent
from vlpeft.slurm.states import live_cells


class LogSection(NamedTuple):
    """What a cell wrote to one log."""

    log: Path
    text: str


class Cancelled(NamedTuple):
    """What `cancel` has stopped, and the other machines where it must be called as well."""

    jobs: int
    launchers: int
    workers: int
    elsewhere: list[str]


def cancel(root: Path, sweep: str, cells: Collection[str]) -> Cancelled:
    """Cancel SLURM jobs with any of these cells, and stop what runs them on this machine.

    Launchers stop their workers. Workers that have outlived their launcher are found by the cells
    that they hold.
    """
    jobs, submitted = _cancel_jobs(root, cells)
    present = [each for each in launchers(root, sweep) if each.way != "slurm"]
    holders = list(_holders(root, set(cells) - submitted))
    hosts = {each.host for each in (*present, *holders) if not each.is_local}
    main = {each.process for each in present if each.is_local and each.way != WORKER}
    rest = {each.process for each in (*present, *holders) if each.is_local} - main
    for process in main:
        _stop(process)
    # A launcher stops its own workers, once those in training have saved.
    orphans = [process for process in rest if not _has_parent(process, main)]
    for process in orphans:
        _stop(process)
    return Cancelled(jobs, len(main), len(orphans), sorted(hosts))


def cancel_jobs_of(root: Path, cells: Collection[str]) -> int:
    """Cancel the SLURM jobs that run some of these cells. Returns their number.

    Raises UserError for a job that runs other cells, too.
    """
    with _live_cells(root) as live:
        doomed = {sent.job for cell, (sent, _) in live.items() if cell in cells}
        for cell, (sent, _) in live.items():
            if sent.job in doomed and cell not in cells:
                raise UserError(
                    f"job {sent.job} also runs cells that the sweep still has; wait for it, or "
                    "run `vlpeft cancel` first"
                )
        cluster.cancel(sorted(doomed))
    return len(doomed)


def _holders(root: Path, cells: Collection[str]) -> Iterator[Launcher]:
    """Yield the processes that hold one of these cells."""
    store = Store(root)
    for cell in sorted(cells):
        where = progress(store, cell)
        if where is not None and store.is_held(cell):
            yield Launcher(WORKER, where.host or HOST, where.pid)


def _has_parent(process: int, parents: Collection[int]) -> bool:
    try:
        return any(each.pid in parents for each in psutil.Process(process).parents())
    except psutil.NoSuchProcess:
        return True  # it has ended


def _cancel_jobs(root: Path, cells: Collection[str]) -> tuple[int, set[str]]:
    """Cancel the jobs of these cells. Returns their number and all cells in live jobs."""
    with _live_cells(root) as live:
        doomed = {
            sent.job
            for cell, (sent, job) in live.items()
            if cell in cells and job.state != "COMPLETING"
        }
        cluster.cancel(sorted(doomed))
    return len(doomed), set(live)


@contextmanager
def _live_cells(root: Path) -> Iterator[dict[str, tuple[Sent, Job]]]:
    """Yield the cells in live jobs. Inside this context no launcher submits jobs.

    So jobs that one is submitting right now are among them. Raises UserError if SLURM is silent.
    """
    ledger = Ledger(root.resolve())
    lock = ledger.lock() if ledger.folder.exists() else nullcontext()
    try:
        with lock:
            yield live_cells(root)
    except SlurmSilent as error:
        raise UserError(f"SLURM does not answer: {error}") from error


def _stop(process: int) -> None:
    """Ask a launcher or a worker to save its cells and end.

    By SIGTERM: a launcher that a script has started in the background ignores SIGINT.
    """
    try:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
            os.kill(process, signal.SIGCONT)  # it may be suspended
    except PermissionError as error:
        raise UserError(
            f"the launcher of this sweep, process {process}, belongs to another user; "
            "only they can interrupt it"
        ) from error


def sections(root: Path, cell: str) -> Iterator[LogSection]:
    """Yield what a cell wrote to each log, the oldest first.

    If a job or a local worker has not come to the cell, yield its whole log.
    """
    for each in Ledger(root).submitted_jobs().get(cell, ()):
        text = _read(each.log)
        yield LogSection(each.log, _cut(text, cell) or text)
    local = list(_local_sections(root, cell))
    yield from local
    why = failure(Store(root), cell)
    if not local and why is not None and why.log:  # its worker died before it began the cell
        yield LogSection(Path(why.log), _read(Path(why.log)))


def _local_sections(root: Path, cell: str) -> Iterator[LogSection]:
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
