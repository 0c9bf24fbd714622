"""The process that runs the cells of a job, one after another: `python -m vlpeft.benchmark.launch.worker ROOT RUNTIME LOG ID...`.

It is a child of the job's own process, so that a cell that crashes takes only itself along. SIGTERM and SIGUSR2 ask it to
save the cell and stop.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.cells.records import Store, read_json
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.launch.tries import begin, forget, give_up, last_if_exhausted
from vlpeft.benchmark.verify.gate import Gate

STOPPED = 75  # exit code: asked to stop, and has; EX_TEMPFAIL
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class StopSignal:
    """Of a worker: true once a signal has asked to stop, or when the process that started this one is gone."""

    def __init__(self) -> None:
        self.signalled, self.parent = False, os.getppid()
        for each in SIGNALS:
            signal.signal(each, self._hear)
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, SIGNALS
        )  # blocked by the parent, so that none came too early

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self.signalled = True

    def __call__(self) -> bool:
        return self.signalled or os.getppid() != self.parent


def has_ended(store: Store, cell_id: str) -> bool:
    """Has a record, or a failure that this launch has found out."""
    return store.has_record(cell_id) or (store.folder(cell_id) / "failure.json").exists()


def print_error(error: Exception) -> None:
    """What went wrong, for the log: where, too, unless the message is written for the user."""
    print(
        f"error: {error}"
        if isinstance(error, UserError)
        else "".join(traceback.format_exception(error)),
        file=sys.stderr,
        flush=True,
    )


def main(root: str, runtime: str, log: str, ids: Sequence[str]) -> int:
    """Run what has not ended. Returns the exit code."""
    asked, store = StopSignal(), Store(Path(root))
    from vlpeft.benchmark.run.runner import Stopped, run_cell
    from vlpeft.benchmark.run.runtime import Runtime

    settings = parse(Runtime, json.loads(runtime), "runtime")
    gate = Gate(lambda: settings.torch_device().type) if settings.verified else None

    for cell_id in ids:
        if asked():
            return STOPPED
        if has_ended(store, cell_id) or store.is_held(cell_id):
            continue
        try:
            outcome: str = run_cell(
                cell_id,
                store.root,
                settings,
                asked=asked,
                begin=partial(_begin, store, cell_id, log, gate),
            )
        except Stopped:
            outcome = "stopped"
        except Exception as error:  # its cause is in failure.json
            print_error(error)
            outcome = "failed"
        if outcome in ("done", "failed", "stopped"):
            forget(store, cell_id)
            print(f"=== {cell_id} {outcome}", flush=True)
    return STOPPED if asked() else 0


def _begin(store: Store, cell_id: str, log: str, gate: Gate | None = None) -> bool:
    """Count the attempt that begins now, unless it is one too many, or another of the job's workers was quicker."""
    if has_ended(store, cell_id):
        return False
    last = last_if_exhausted(store, cell_id)
    if last is not None:
        give_up(
            store,
            cell_id,
            "killed",
            f"{last.end}, {last.count} times without getting further",
            last.log,
        )
        return False
    if gate is not None and (problem := gate.problem(_cell(store, cell_id))):
        store.write_failure(cell_id, {"cause": "environment", "message": problem, "user": True})
        print(f"error: {problem}", file=sys.stderr, flush=True)
        return False
    begin(store, cell_id, log)
    print(f"=== {cell_id} starts", flush=True)
    return True


def _cell(store: Store, cell_id: str) -> Cell:
    path = store.folder(cell_id) / "cell.json"
    return parse(Cell, read_json(path) or {}, str(path))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
