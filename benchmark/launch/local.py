"""Run all unfinished cells of a plan: in this process, or in local workers started by submitit.

Workers stay up and take one cell after another. The lock of a cell decides which worker runs it, so
any number of workers and launchers may share a result folder. Only ids and paths are sent to them.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.cores import check_number
from vlpeft.benchmark.core.environment import SAFE_PATH, environment
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import remove
from vlpeft.benchmark.launch.interrupts import run_interruptible, save
from vlpeft.benchmark.launch.worker import StopSignal, run_cells

Watch = Callable[[], None]  # called now and then; it looks at the result folder itself
CellWatch = Callable[[Planned, str, int, int], None]  # cell, phase, step, total
POLL_SECONDS = 0.5
STOP_SECONDS = 10.0
MONTH_MINUTES = 60 * 24 * 30  # submitit kills local jobs after 5 minutes by default
MAX_WORKERS = 8  # by default: each needs about 1 GiB


def unfinished_cells(plan: Plan, root: Path) -> list[Planned]:
    """Return the runnable cells without a record."""
    store = Store(root)
    return [cell for cell in plan.runnable() if not store.has_record(cell.id)]


def clear_failures(ids: Iterable[str], root: Path) -> None:
    """Forget how earlier attempts ended, so that status files describe this launch only."""
    store = Store(root)
    for cell_id in ids:
        if store.is_held(cell_id):
            continue
        for name in ("failure.json", "progress.json", "tries.json"):
            remove(store.folder(cell_id) / name)


def launch_inline(
    cells: Sequence[Planned], root: Path, runtime: Any, watch_cell: CellWatch, watch: Watch
) -> None:
    """Run cells one after another in this process.

    A cell that fails leaves failure.json, and the next one runs. Ctrl-C: see `run_interruptible`.
    """
    for cell in cells:
        try:
            run_interruptible(cell.id, root, runtime, partial(watch_cell, cell))
        except Exception as error:  # failure.json has its cause; `launch.failed` reports it
            if not isinstance(error, UserError):
                traceback.print_exc()
        watch()


def launch_local(
    cells: Sequence[Planned], root: Path, runtime: Any, workers: int, watch: Watch
) -> None:
    """Run cells in `workers` processes through submitit's LocalExecutor. Returns when all end.

    Ctrl-C stops the workers once those in training have saved; a second one stops them at once.
    """
    ids = [cell.id for cell in cells]
    jobs = list[Any]()
    try:
        _submit(jobs, ids, root, _with_threads(runtime, workers), min(workers, len(ids)))
        while not all(job.done(force_check=True) for job in jobs):
            watch()
            time.sleep(POLL_SECONDS)
    except BaseException as error:
        controllers = [int(job.job_id) for job in jobs if not job.done(force_check=True)]
        try:
            if isinstance(error, KeyboardInterrupt):
                save(controllers, ids, root)
        finally:
            stop(controllers)
        raise
    watch()


def _with_threads(runtime: Any, workers: int) -> Any:
    """Share the cores among the workers that were asked for.

    Not among the cells that are left: a sweep that was interrupted must give the same bits when
    the same command finishes it.
    """
    shared = (os.cpu_count() or 1) // (workers * runtime.ranks)
    return replace(runtime, threads=runtime.threads or max(1, shared))


def _submit(jobs: list[Any], ids: Sequence[str], root: Path, runtime: Any, number: int) -> None:
    """Start workers. Each is in `jobs` as soon as it is started, so that Ctrl-C finds it."""
    from vlpeft.benchmark.libraries.submitit import local_executor

    # A new folder for each launch, because submitit reuses job ids.
    name = f"{platform.node()}-{os.getpid()}"
    executor = local_executor(
        root / "jobs" / time.strftime("%Y%m%d-%H%M%S") / name, minutes=MONTH_MINUTES
    )
    variables = {
        "OMP_NUM_THREADS": str(runtime.threads),
        "TOKENIZERS_PARALLELISM": "false",
        **SAFE_PATH,
    }
    with environment(**variables), _interrupts_blocked():
        arguments = (ids, str(root.resolve()), runtime, os.getpid())
        while len(jobs) < number:
            jobs.append(executor.submit(work, *arguments))


def stop(controllers: Sequence[int]) -> None:
    """Kill submitit's controllers and everything that they started. Records stay whole.

    `job.cancel()` would make each controller print a traceback.
    """
    doomed: list[psutil.Process] = []
    for pid in controllers:
        with suppress(psutil.NoSuchProcess):
            controller = psutil.Process(pid)
            controller.suspend()  # a worker that it starts now would escape
            doomed += [controller, *controller.children(recursive=True)]
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(doomed, timeout=STOP_SECONDS)


@dataclass(frozen=True)
class LocalPolicy:
    """The policy of local workers: a cell that failed or killed its worker is not tried again."""

    store: Store

    def skips(self, cell_id: str) -> bool:
        """Return whether an attempt of this launch has begun."""
        folder = self.store.folder(cell_id)
        return any((folder / name).exists() for name in ("failure.json", "progress.json"))

    def begins(self, cell_id: str) -> bool:
        """Mark the logs; the lock alone decides who runs a cell."""
        mark_logs(f"=== {cell_id} starts")
        return True

    def ends(self, cell_id: str, outcome: str) -> None:
        """Mark the logs."""
        mark_logs(f"=== {cell_id} {outcome}")


def work(ids: Sequence[str], root: str, runtime: Any, launcher: int) -> None:
    """Run the cells that no other worker has taken, while the launcher's process exists."""
    stop_signal = StopSignal()

    def should_stop() -> bool:
        return stop_signal() or not psutil.pid_exists(launcher)

    store = Store(Path(root))
    run_cells(ids, store.root, runtime, LocalPolicy(store), should_stop)


def mark_logs(line: str) -> None:
    """Mark the place in both logs of a worker; `vlpeft logs` cuts there."""
    for stream in (sys.stdout, sys.stderr):
        print(line, file=stream, flush=True)


def wait_for_others(cells: Sequence[Planned], root: Path, watch: Watch) -> None:
    """Wait while other launchers hold cells of ours, so that what is reported next is final."""
    store = Store(root)
    for cell in cells:
        while not store.has_record(cell.id) and store.is_held(cell.id):
            watch()
            time.sleep(POLL_SECONDS)
    watch()


def default_workers(ranks: int) -> int:
    """Return how many workers fill the cores with one process each, ranks included."""
    return max(1, min(MAX_WORKERS, os.cpu_count() or 1) // ranks)


def check_workers(workers: int) -> int:
    """Return the number of workers. Raises UserError if this machine cannot run so many."""
    return check_number(workers, "--workers")


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start processes that ignore Ctrl-C. It reaches the whole group; the launcher stops them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
