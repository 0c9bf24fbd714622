"""A worker of a launcher on this machine: `python -m vlpeft.benchmark.launch.local_worker ORDER`.

Its standard input is a pipe that the launcher never writes to. The kernel closes the pipe when the
launcher ends, even if it was killed. The worker then saves its cell and ends, as after SIGTERM.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.config import JSON, Config, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import read_json
from vlpeft.benchmark.core.processes import QuickExit, continue_without_parent
from vlpeft.benchmark.launch.interrupts import SAVE_SECONDS
from vlpeft.benchmark.launch.presence import WORKER, show_presence
from vlpeft.benchmark.launch.worker import STOPPED, StopSignal, print_error, run_cells

POLL_SECONDS = 0.2
# To end by itself outside of training, where there is nothing to save.
END_SECONDS = 3.0


@dataclass(frozen=True)
class Order(Config):
    """What all workers of a launch do: the cells `ids` of a sweep. `runtime` is a Runtime."""

    root: str
    sweep: str
    ids: tuple[str, ...]
    runtime: dict[str, JSON]


class LauncherWatch(StopSignal):
    """True once a signal has come or the launcher is gone; then it also sets a time limit.

    A thread ends the process at the limit, because the main thread looks at the signal only
    between steps, and some pieces of work take long.
    """

    def __init__(self) -> None:
        super().__init__()
        self.training = False
        continue_without_parent()
        threading.Thread(target=self._watch, daemon=True).start()

    def report(self, phase: str, _step: int, _total: int) -> None:
        """Note whether the cell trains: only then there is something to save."""
        self.training = phase == "train"

    def _watch(self) -> None:
        while not self.received:
            # Only the end of the launcher makes the pipe readable. Nothing is set if it is not: a
            # signal may have come in the meantime.
            if select.select([0], [], [], POLL_SECONDS)[0]:
                self.received = True
        began = time.monotonic()
        while time.monotonic() - began < self._limit():
            time.sleep(POLL_SECONDS)
        end_now()

    def _limit(self) -> float:
        return SAVE_SECONDS if self.training else END_SECONDS


def end_now() -> None:
    """Kill the processes that this one has started, such as Java, and end."""
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(STOPPED)


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


def mark_logs(line: str) -> None:
    """Mark the place in both logs of a worker; `vlpeft logs` cuts there."""
    for stream in (sys.stdout, sys.stderr):
        print(line, file=stream, flush=True)


def main(path: str) -> int:
    """Carry out an order. Returns the exit code."""
    stop = LauncherWatch()  # before the slow imports: a signal must not kill the process
    from vlpeft.benchmark.run.runtime import Runtime

    try:
        order = parse(Order, read_json(Path(path)) or {}, path)
        runtime = parse(Runtime, order.runtime, path)
        store = Store(Path(order.root))
        with show_presence(store.root, order.sweep, WORKER):
            run_cells(order.ids, store.root, runtime, LocalPolicy(store), stop, stop.report)
    except UserError as error:
        print_error(error)
        return 1
    return STOPPED if stop() else 0


if __name__ == "__main__":
    with QuickExit():
        sys.exit(main(sys.argv[1]))
