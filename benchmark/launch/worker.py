"""Run cells one after another in a process of their own.

Local workers (`launch.local_worker`) call `run_cells` with a policy of their own. A job of a
cluster starts `python -m vlpeft.benchmark.launch.worker ROOT RUNTIME LOG ID...`: a child of the
job's own process, so that a cell that crashes does not take the job with it.

SIGTERM and SIGUSR2 ask a worker to save its cell and stop.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from vlpeft.benchmark.cells.attempts import Failure, ReportProgress, unwatched
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.config import dump, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.processes import QuickExit
from vlpeft.benchmark.core.terminal import escape, escape_lines, print_message, write_stderr
from vlpeft.benchmark.launch.tries import begin, forget, give_up, last_if_exhausted
from vlpeft.benchmark.plan.verify.gate import EnvironmentGate
from vlpeft.benchmark.run.plugins import read_cell

STOPPED = 75  # exit code of a worker that was asked to stop; EX_TEMPFAIL of sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class StopSignal:
    """True once a signal has asked this process to stop, or once its parent process is gone."""

    def __init__(self) -> None:
        self.received = False
        self.parent = os.getppid()
        for number in SIGNALS:
            signal.signal(number, self._receive)
        # The parent blocks them until here, so that none arrives before the handler is set.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True

    def __call__(self) -> bool:
        return self.received or os.getppid() != self.parent


class Policy(Protocol):
    """What a worker asks and reports around each cell. It differs between machines and clusters."""

    def skips(self, cell_id: str) -> bool:
        """Return whether another process has, or had, the cell."""

    def begins(self, cell_id: str) -> bool:
        """Return whether the cell may run now; called while its lock is held."""

    def ends(self, cell_id: str, outcome: str) -> None:
        """Report how the cell ended: an outcome of `run_cell`, "stopped" or "failed"."""


def run_cells(
    ids: Iterable[str],
    root: Path,
    runtime: Any,
    policy: Policy,
    stop: Callable[[], bool],
    report: ReportProgress = unwatched,
) -> None:
    """Run the cells that no other process has, until all are done or `stop` returns True.

    A cell that fails leaves failure.json, and the next one runs. `report` gets the progress.
    """
    from vlpeft.benchmark.run.runner import Stopped, run_cell

    for cell_id in ids:
        if stop():
            return
        if policy.skips(cell_id):
            continue

        def begins(cell_id: str = cell_id) -> bool:
            return policy.begins(cell_id)

        try:
            outcome: str = run_cell(cell_id, root, runtime, report, asked=stop, begin=begins)
        except Stopped:
            outcome = "stopped"
        except Exception as error:  # run_cell has written its cause to failure.json
            print_error(error)
            outcome = "failed"
        policy.ends(cell_id, outcome)


def print_error(error: Exception) -> None:
    """Print an error to the log. If the message is not meant for users, add the traceback."""
    text = escape(f"error: {error}")
    if not isinstance(error, UserError):
        text = escape_lines("".join(traceback.format_exception(error)))
    write_stderr(f"{text}\n")


def has_ended(store: Store, cell_id: str) -> bool:
    """Return whether the cell has a record or, from this launch, a failure."""
    return store.has_record(cell_id) or (store.folder(cell_id) / "failure.json").exists()


@dataclass(frozen=True)
class JobPolicy:
    """The policy of a cluster's workers: attempts are counted, because nodes and jobs die.

    log: the path of the job's log.
    gate: verifies the environment for a cell; None with --unverified.
    """

    store: Store
    log: str
    gate: EnvironmentGate | None

    def skips(self, cell_id: str) -> bool:
        """Return whether the cell has ended or runs in another process."""
        return has_ended(self.store, cell_id) or self.store.is_held(cell_id)

    def begins(self, cell_id: str) -> bool:
        """Count the attempt, unless there were too many or the environment fails."""
        if has_ended(self.store, cell_id):  # another worker of the job was faster
            return False
        if self._is_exhausted(cell_id) or self._fails_verification(cell_id):
            return False
        begin(self.store, cell_id, self.log)
        print(f"=== {cell_id} starts", flush=True)
        return True

    def ends(self, cell_id: str, outcome: str) -> None:
        """Forget the attempt, and mark the place in the log; `vlpeft logs` cuts there."""
        if outcome in ("done", "failed", "stopped"):
            forget(self.store, cell_id)
            print(f"=== {cell_id} {outcome}", flush=True)

    def _is_exhausted(self, cell_id: str) -> bool:
        last = last_if_exhausted(self.store, cell_id)
        if last is None:
            return False
        message = f"{last.end}, {last.count} times without getting further"
        give_up(self.store, cell_id, "killed", message, last.log)
        return True

    def _fails_verification(self, cell_id: str) -> bool:
        if self.gate is None:
            return False
        problem = self.gate.problem(read_cell(self.store.folder(cell_id)))
        if not problem:
            return False
        self.store.write_failure(cell_id, dump(Failure("environment", problem, user=True)))
        print_message(f"error: {problem}")
        return True


def main(root: str, runtime: str, log: str, ids: Sequence[str]) -> int:
    """Run the cells of a job that have not ended. Returns the exit code.

    runtime: a `Runtime` as JSON.
    """
    stop = StopSignal()  # before the slow imports: a signal must not kill the process
    from vlpeft.benchmark.run.runtime import Runtime

    settings = parse(Runtime, json.loads(runtime), "runtime")
    gate = EnvironmentGate(lambda: settings.torch_device().type) if settings.verified else None
    store = Store(Path(root))
    run_cells(ids, store.root, settings, JobPolicy(store, log, gate), stop)
    return STOPPED if stop() else 0


if __name__ == "__main__":
    with QuickExit():
        sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
