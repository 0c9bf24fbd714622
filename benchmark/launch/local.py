"""Run all unfinished cells of a plan, in this process or in several local workers started through submitit.

Workers stay up and take one cell after another; the lock of each cell decides who runs it, so that any number of
workers and launchers may share a result folder. Only ids and paths cross the process border.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store, read_json
from vlpeft.benchmark.core.environment import SAFE_PATH, environment
from vlpeft.benchmark.core.errors import UserError, disk_trouble
from vlpeft.benchmark.launch.interrupts import run_interruptible, save
from vlpeft.benchmark.launch.worker import StopSignal, print_error

Watch = Callable[[], None]  # called now and then; it looks at the result folder itself
CellWatch = Callable[[Planned, str, int, int], None]  # cell, phase, step, total
CANCELLED = "cancelled"  # the cause of a cell whose job the user has cancelled: nothing to mend
POLL_SECONDS = 0.5
STOP_SECONDS = 10.0
MONTH_MINUTES = 60 * 24 * 30  # submitit kills local jobs after 5 minutes unless told otherwise


def unfinished_cells(plan: Plan, root: Path) -> list[Planned]:
    """Runnable cells without a record."""
    store = Store(root)
    return [cell for cell in plan.runnable() if not store.has_record(cell.id)]


def clear_failures(ids: Iterable[str], root: Path) -> None:
    """Forget how earlier attempts ended, so that what the status files say from now on is of this launch."""
    store = Store(root)
    for cell_id in ids:
        if not store.is_held(cell_id):
            for name in ("failure.json", "progress.json", "tries.json"):
                (store.folder(cell_id) / name).unlink(missing_ok=True)


def launch_inline(
    cells: Sequence[Planned], root: Path, runtime: Any, watch_cell: CellWatch, watch: Watch
) -> None:
    """Run cells one after another in this process. A failing cell leaves failure.json; the others go on. Ctrl-C: see `run_here`."""
    for cell in cells:
        try:
            run_interruptible(cell.id, root, runtime, partial(watch_cell, cell))
        except Exception as error:  # its cause is in failure.json, where `failures` finds it
            if not isinstance(error, UserError):
                traceback.print_exc()
        watch()


def launch_local(
    cells: Sequence[Planned], root: Path, runtime: Any, workers: int, watch: Watch
) -> None:
    """Run cells in `workers` processes through submitit's LocalExecutor; returns when all have ended.

    Ctrl-C stops them, once those in training are saved; a second one at once.

    The threads of a cell follow from the workers asked for, not from how many cells are left: the same command gives
    the same bits when it finishes an interrupted sweep.
    """
    from vlpeft.benchmark.libraries.submitit import local_executor

    name = f"{platform.node()}-{os.getpid()}"
    folder = (
        root / "jobs" / time.strftime("%Y%m%d-%H%M%S") / name
    )  # a fresh folder: submitit reuses job ids
    executor = local_executor(folder, minutes=MONTH_MINUTES)
    threads = runtime.threads or max(1, (os.cpu_count() or 1) // (workers * runtime.ranks))
    ids, jobs = [cell.id for cell in cells], list[Any]()
    try:
        variables = {
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            **SAFE_PATH,
        }
        with environment(**variables), _children_deaf_to_interrupts():
            for _ in range(min(workers, len(ids))):
                jobs.append(
                    executor.submit(
                        work,
                        ids,
                        str(root.resolve()),
                        replace(runtime, threads=threads),
                        os.getpid(),
                    )
                )
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


def stop(controllers: Sequence[int]) -> None:
    """Kill submitit's controllers and all they have started; whatever is killed when, records are whole.

    `job.cancel()` makes each controller print a traceback.
    """
    doomed: list[psutil.Process] = []
    for pid in controllers:
        with suppress(psutil.NoSuchProcess):
            controller = psutil.Process(pid)
            controller.suspend()  # a worker that it starts now would get away
            doomed += [controller, *controller.children(recursive=True)]
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(doomed, timeout=STOP_SECONDS)


def work(ids: Sequence[str], root: str, runtime: Any, launcher: int) -> None:
    """What a worker does: take every cell that nobody has taken; stop when the launcher is gone.

    A cell that failed, or that took its worker down with it, is not tried again by the others. SIGTERM asks it to save
    its cell and stop.
    """
    asked = StopSignal()
    from vlpeft.benchmark.run.runner import Stopped, run_cell

    for cell_id in ids:
        if asked() or not psutil.pid_exists(launcher):
            return
        if any(
            (Store(Path(root)).folder(cell_id) / name).exists()
            for name in ("failure.json", "progress.json")
        ):
            continue
        mark_logs(f"=== {cell_id} starts")
        try:
            outcome: str = run_cell(cell_id, Path(root), runtime, asked=asked)
        except Stopped:
            outcome = "stopped"
        except Exception as error:  # in the job's log; its cause is in failure.json too
            print_error(error)
            outcome = "failed"
        mark_logs(f"=== {cell_id} {outcome}")


def mark_logs(line: str) -> None:
    """Mark the place in both logs of a worker; `vlpeft logs` cuts there."""
    for stream in (sys.stdout, sys.stderr):
        print(line, file=stream, flush=True)


def wait_for_others(cells: Sequence[Planned], root: Path, watch: Watch) -> None:
    """Wait while another launcher's workers hold cells of ours, so that what is reported afterwards is final."""
    store = Store(root)
    for cell in cells:
        while not store.has_record(cell.id) and store.is_held(cell.id):
            watch()
            time.sleep(POLL_SECONDS)
    watch()


def failures(cells: Sequence[Planned], root: Path) -> Iterator[tuple[Planned, dict[str, Any]]]:
    """The cells that failed, with what their failure.json says; a cell without record and cause was killed."""
    store = Store(root)
    for cell in cells:
        if not store.has_record(cell.id):
            yield cell, read_json(store.folder(cell.id) / "failure.json") or _unknown(root)


def _unknown(root: Path) -> dict[str, Any]:
    """What to say of a cell that has left no word: perhaps nothing can be written there."""
    try:
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(bytes(2**16))
    except OSError as error:
        if cause := disk_trouble(error):
            return {
                "cause": cause,
                "message": f"nothing can be written in {root}: {error.strerror}",
                "user": True,
            }
        raise
    return {
        "cause": "killed",
        "message": "its worker died without a word (out of memory?); see ROOT/jobs",
        "user": False,
    }


def group_by_cause(failed: Sequence[tuple[Planned, dict[str, Any]]]) -> Iterator[str]:
    """One line for each cause, with the cell that it struck or how many: many often fail for one reason."""
    causes: dict[tuple[str, str], list[tuple[Planned, str]]] = {}
    for cell, failure in failed:
        cause, message = failure["cause"], failure["message"]
        causes.setdefault((cause, "" if cause == CANCELLED else message), []).append(
            (cell, message)
        )
    for (cause, shared), cells in causes.items():
        first, message = cells[0]
        one = f"{first.id} {first.row} on {first.backbone}, {first.task}/{first.dataset}, seed {first.seed}"
        many = (
            shared or "their jobs were cancelled; `vlpeft retry --cause cancelled` runs them again"
        )
        yield (
            f"{one}: {cause}: {message}"
            if len(cells) == 1
            else f"{len(cells)} cells: {cause}: {many}"
        )


def count_failures(failed: Sequence[tuple[Planned, dict[str, Any]]], of: int) -> str:
    """How many cells failed or were cancelled, of how many, and what to do."""
    cancelled = sum(failure["cause"] == CANCELLED for _, failure in failed)
    if cancelled == len(failed):
        return f"{cancelled} of {of} cells were cancelled; the same command runs them again"
    more = f", {cancelled} were cancelled" if cancelled else ""
    return f"{len(failed) - cancelled} of {of} cells failed{more}; mend the cause and run the same command again"


def default_workers(ranks: int) -> int:
    """So many that they and their ranks are one process a core, at most eight: each needs about 1 GiB."""
    return max(1, min(8, os.cpu_count() or 1) // ranks)


def check_workers(workers: int) -> int:
    """Refuse less than one worker."""
    if workers < 1:
        raise UserError(f"--workers: {workers} cannot do anything; use 1 or more")
    return workers


@contextmanager
def _children_deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C reaches the whole process group: what is started here inherits the blocked signal, and the launcher stops it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
