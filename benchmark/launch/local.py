"""Run all unfinished cells of a plan: in this process, or in worker processes on this machine.

Workers stay up and take one cell after another. The lock of a cell decides which worker runs it, so
any number of workers and launchers may share a result folder. Only ids and paths are sent to them.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.cores import check_number
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import remove, to_json, write_atomically
from vlpeft.benchmark.launch.interrupts import run_interruptible, save
from vlpeft.benchmark.launch.local_worker import Order
from vlpeft.benchmark.launch.pool import Deaths, Pool, stop

Watch = Callable[[], None]  # called now and then; it looks at the result folder itself
CellWatch = Callable[[Planned, str, int, int], None]  # cell, phase, step, total
POLL_SECONDS = 0.5
MAX_WORKERS = 8  # by default: each needs about 1 GiB


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
    cells: Sequence[Planned], root: Path, runtime: Any, workers: int, sweep: str, watch: Watch
) -> None:
    """Run cells in `workers` processes. Returns when all end.

    Ctrl-C stops the workers once those in training have saved; a second one stops them at once.
    Workers also end if this process is killed.
    """
    ids = [cell.id for cell in cells]
    runtime = _with_threads(runtime, workers)
    order = Order(str(root.resolve()), sweep, tuple(ids), dump(runtime))
    pool, deaths = Pool(_write_order(root, order), runtime.threads), Deaths(Store(root), ids)
    try:
        for _ in range(min(workers, len(ids))):
            pool.start()
        while pool.alive:
            for worker in pool.take_ended():
                if deaths.count(worker):
                    pool.start()
            watch()
            time.sleep(POLL_SECONDS)
    except BaseException:  # also when the terminal is closed and nothing can be printed
        try:
            save(pool.pids(), ids, root)
        finally:
            stop(pool.pids())
        raise
    deaths.finish()
    watch()


def _with_threads(runtime: Any, workers: int) -> Any:
    """Share the cores among the workers that were asked for.

    Not among the cells that are left: a sweep that was interrupted must give the same bits when
    the same command finishes it.
    """
    shared = (os.cpu_count() or 1) // (workers * runtime.ranks)
    return replace(runtime, threads=runtime.threads or max(1, shared))


def _write_order(root: Path, order: Order) -> Path:
    """Write what the workers of a launch do into a new folder, which also gets their logs."""
    name = f"{platform.node()}-{os.getpid()}"
    path = root.resolve() / "jobs" / time.strftime("%Y%m%d-%H%M%S") / name / "order.json"
    write_atomically(path, to_json(dump(order)))
    return path


def wait_for_others(cells: Sequence[Planned], root: Path, watch: Watch) -> None:
    """Wait while other launchers hold cells of ours, so that what is reported next is final."""
    store = Store(root)
    for cell in cells:
        while not store.has_record(cell.id) and store.is_held(cell.id):
            watch()
            time.sleep(POLL_SECONDS)
    watch()


def default_workers(ranks: int, device: str) -> int:
    """Return how many workers fill the cores with one process each, ranks included.

    On GPUs that is one: more workers would share the memory of the first GPU.
    """
    if device == "cuda":
        return 1
    return max(1, min(MAX_WORKERS, os.cpu_count() or 1) // ranks)


def check_workers(workers: int) -> int:
    """Return the number of workers. Raises UserError if this machine cannot run so many."""
    return check_number(workers, "--workers")
