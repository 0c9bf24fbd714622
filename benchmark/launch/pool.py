"""The worker processes of a local launch, and what is known of those that died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from vlpeft.benchmark.cells.attempts import progress
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.environment import SAFE_PATH
from vlpeft.benchmark.core.processes import describe_end
from vlpeft.benchmark.launch.tries import give_up
from vlpeft.benchmark.launch.worker import SIGNALS, STOPPED

WORKER = "vlpeft.benchmark.launch.local_worker"
STOP_SECONDS = 10.0
# Signals of the terminal reach the workers as well; the launcher alone reacts to them. The others
# wait until the worker can handle them.
BLOCKED = (signal.SIGINT, signal.SIGHUP, *SIGNALS)


@dataclass(frozen=True)
class LocalWorker:
    """A worker process and its logs."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def log(self) -> Path:
        """The log to read first: that of the errors, unless it holds nothing but marks."""
        text = self.err.read_text(encoding="utf-8", errors="replace")
        if any(not line.startswith("=== ") for line in text.splitlines()):
            return self.err
        return self.out


class Pool:
    """The workers of one launch. All carry out the same order."""

    def __init__(self, order: Path, threads: int) -> None:
        self.order = order
        self.alive: list[LocalWorker] = []
        self.started = 0
        self.variables = {
            **os.environ,
            **SAFE_PATH,
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
        }

    def start(self) -> None:
        """Start a worker. It ends with this process, because it reads a pipe that we hold."""
        self.started += 1
        out, err = (self.order.parent / f"{self.started}_log.{kind}" for kind in ("out", "err"))
        command = [sys.executable, "-u", "-m", WORKER, str(self.order)]
        with out.open("ab") as printed, err.open("ab") as errors, _signals_blocked():
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=errors,
                env=self.variables,
            )
            # Before signals are handled again, so that an interrupt finds the worker.
            self.alive.append(LocalWorker(process, out, err))

    def pids(self) -> list[int]:
        """Return the processes of the workers that have not ended."""
        return [worker.process.pid for worker in self.alive if worker.process.poll() is None]

    def take_ended(self) -> list[LocalWorker]:
        """Return the workers that have ended since the last call."""
        ended = [worker for worker in self.alive if worker.process.poll() is not None]
        self.alive = [worker for worker in self.alive if worker not in ended]
        for worker in ended:
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        return ended


class Deaths:
    """Finds out which cells the end of a worker counts against, and writes the causes."""

    def __init__(self, store: Store, ids: Sequence[str]) -> None:
        self.store = store
        self.ids = ids
        self.last: LocalWorker | None = None  # one that died while it had no cell

    def count(self, worker: LocalWorker) -> bool:
        """Count a worker that ended. Returns whether another one should take its place."""
        code = worker.process.returncode
        if code == 0:
            return False
        cell = self._cell_of(worker.process.pid)
        if cell is None:
            self.last = worker
            return False
        self._give_up(cell, worker)
        (self.store.folder(cell) / "progress.json").unlink(missing_ok=True)
        return any(self._is_open(each) for each in self.ids)

    def finish(self) -> None:
        """Give up the cells that no worker has begun, if workers died before they could."""
        if self.last is None:
            return
        for cell in self.ids:
            if self._is_open(cell):
                self._give_up(cell, self.last)

    def _cell_of(self, pid: int) -> str | None:
        for cell in self.ids:
            where = progress(self.store, cell)
            if where is not None and where.pid == pid and not self.store.is_held(cell):
                return cell
        return None

    def _is_open(self, cell: str) -> bool:
        """Return whether nothing has run the cell and nothing runs it now."""
        names = ("record.json", "failure.json", "progress.json")
        if any(self.store.file(cell, name).exists() for name in names):
            return False
        return not self.store.is_held(cell)

    def _give_up(self, cell: str, worker: LocalWorker) -> None:
        cause, message = _describe(worker.process.returncode)
        give_up(self.store, cell, cause, message, str(worker.log))


def _describe(code: int) -> tuple[str, str]:
    """Return the cause and the message of a worker's end."""
    if code == STOPPED:
        return "stopped", "its worker was asked to stop by SIGTERM; the same command continues"
    if code < 0:
        return "killed", f"its worker {describe_end(code)}"
    return "worker failed", f"its worker ended with exit code {code}"


def stop(pids: Collection[int]) -> None:
    """Kill processes and everything that they started. Records stay whole."""
    doomed: list[psutil.Process] = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.suspend()  # what it starts now would escape
            doomed += [process, *process.children(recursive=True)]
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(doomed, timeout=STOP_SECONDS)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
