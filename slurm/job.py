"""What a SLURM job calls: a light process without torch, which starts workers for its cells and answers SLURM's signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.environment import SAFE_PATH
from vlpeft.benchmark.launch.tries import LIMIT, is_attempt_of, note
from vlpeft.benchmark.launch.worker import SIGNALS, STOPPED
from vlpeft.benchmark.libraries.submitit import RequeuedJob, job_log
from vlpeft.slurm.cluster import SlurmSilent, ask

POLL_SECONDS = 0.2
SHARE = 0.75  # of the warning that a worker may take to save its cell; the rest is for requeueing


class CellJob(RequeuedJob):
    """Runs cells, `at_once` of them at a time. Only ids, a path and plain settings are pickled."""

    def __init__(
        self,
        ids: tuple[str, ...],
        root: str,
        runtime: Mapping[str, Any],
        signal_seconds: int,
        at_once: int = 1,
    ) -> None:
        self.ids, self.root, self.runtime, self.signal_seconds, self.at_once = (
            ids,
            root,
            dict(runtime),
            signal_seconds,
            at_once,
        )
        self.workers: dict[int, subprocess.Popen[bytes]] = {}  # by process id

    def __call__(self) -> None:
        """Run every cell that has not ended; a worker that is killed is followed by another, and its cell counts a try."""
        log, killed, code = job_log(), 0, 0
        for _ in range(min(self.at_once, len(self.ids))):
            self._start(log)
        while self.workers:
            pid, ended = self._wait()
            if ended < 0 and killed <= LIMIT * len(self.ids):
                killed += 1
                self._mourn(pid, -ended, log)
                self._start(log)
            elif ended:  # it has said why in the log, or was asked to stop: SLURM is ending the job, and keeps account of that
                code = abs(ended)
        if code:
            sys.exit(code)

    def resumed(self) -> CellJob:
        """Called when SLURM announces the end of the job: stop the workers where they are saved, and be requeued."""
        for worker in (
            alive := [psutil.Process(pid) for pid in self.workers if psutil.pid_exists(pid)]
        ):
            worker.send_signal(signal.SIGTERM)
        psutil.wait_procs(alive, timeout=SHARE * self.signal_seconds)
        if not _requeueable():
            print("this job may not be requeued; `vlpeft sweep` submits its cells anew", flush=True)
            sys.exit(STOPPED)
        return CellJob(self.ids, self.root, self.runtime, self.signal_seconds, self.at_once)

    def _start(self, log: str) -> None:
        command = [
            sys.executable,
            "-u",
            "-m",
            "vlpeft.benchmark.launch.worker",
            self.root,
            json.dumps(self.runtime),
            log,
            *self.ids,
        ]
        threads = self.runtime.get("threads")
        environment = {
            **os.environ,
            **SAFE_PATH,
            "TOKENIZERS_PARALLELISM": "false",
            **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
        }
        before = signal.pthread_sigmask(
            signal.SIG_BLOCK, SIGNALS
        )  # the worker inherits this, and listens when it can
        try:
            process = subprocess.Popen(command, env=environment)
            self.workers[process.pid] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _wait(self) -> tuple[int, int]:
        """The next worker that ends, and its exit code; negative: the signal that killed it."""
        while True:
            for pid, process in self.workers.items():
                if (code := process.poll()) is not None:
                    del self.workers[pid]
                    return pid, code
            time.sleep(POLL_SECONDS)

    def _mourn(self, pid: int, number: int, log: str) -> None:
        """Say in the log, and beside the cell, what killed a worker."""
        store = Store(Path(self.root))
        end = f"killed by {signal.Signals(number).name}{' (out of memory?)' if number == signal.SIGKILL else ''}"
        current = next((cell for cell in self.ids if is_attempt_of(store, cell, pid, log)), None)
        print(f"=== {current or 'no cell yet:'} {end}", flush=True)
        if current is not None:
            note(store, current, end)


def _requeueable() -> bool:
    """False where SLURM would refuse, or cannot be asked from this node."""
    try:
        return "Requeue=1" in "".join(ask("scontrol", "show", "job", os.environ["SLURM_JOB_ID"]))
    except SlurmSilent:
        return False
