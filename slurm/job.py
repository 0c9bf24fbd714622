"""What a SLURM job runs: a light process without torch.

It starts workers for its cells and answers SLURM's signals.
"""

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
from vlpeft.benchmark.core.libraries.submitit import RequeuedJob, job_log
from vlpeft.benchmark.launch.tries import LIMIT, is_attempt_of, note
from vlpeft.benchmark.launch.worker import SIGNALS, STOPPED
from vlpeft.slurm.cluster import SlurmSilent, ask

POLL_SECONDS = 0.2
SHARE = 0.75  # of the warning time, for workers to save their cells; the rest is for requeueing
WORKER = "vlpeft.benchmark.launch.worker"


class CellJob(RequeuedJob):
    """Runs cells, `at_once` of them at a time.

    Only ids, a path and plain settings are pickled.
    """

    def __init__(
        self,
        ids: tuple[str, ...],
        root: str,
        runtime: Mapping[str, Any],
        signal_seconds: int,
        at_once: int = 1,
    ) -> None:
        self.ids = ids
        self.root = root
        self.runtime = dict(runtime)
        self.signal_seconds = signal_seconds
        self.at_once = at_once
        self.workers: dict[int, subprocess.Popen[bytes]] = {}  # by process id

    def __call__(self) -> None:
        """Run every cell that has not ended.

        A worker that is killed is replaced by another one, and its cell counts an attempt.
        """
        log = job_log()
        killed = code = 0
        for _ in range(min(self.at_once, len(self.ids))):
            self._start(log)
        while self.workers:
            pid, ended = self._wait()
            if ended < 0 and killed <= LIMIT * len(self.ids):
                killed += 1
                self._note_death(pid, -ended, log)
                self._start(log)
            elif ended:
                # The worker has written the reason to the log. Or it was asked to stop, because
                # SLURM ends the job, and then SLURM's accounts have the reason.
                code = abs(ended)
        if code:
            sys.exit(code)

    def resumed(self) -> CellJob:
        """Stop the workers once their cells are saved, and return the job to requeue.

        Called when SLURM announces the end of the job.
        """
        alive = [psutil.Process(pid) for pid in self.workers if psutil.pid_exists(pid)]
        for worker in alive:
            worker.send_signal(signal.SIGTERM)
        psutil.wait_procs(alive, timeout=SHARE * self.signal_seconds)
        if not _may_be_requeued():
            print(
                "this job may not be requeued; `vlpeft sweep` submits its cells again", flush=True
            )
            sys.exit(STOPPED)
        return CellJob(self.ids, self.root, self.runtime, self.signal_seconds, self.at_once)

    def _start(self, log: str) -> None:
        arguments = [self.root, json.dumps(self.runtime), log, *self.ids]
        variables = {**os.environ, **SAFE_PATH, "TOKENIZERS_PARALLELISM": "false"}
        if threads := self.runtime.get("threads"):
            variables["OMP_NUM_THREADS"] = str(threads)
        # The worker inherits the blocked signals, and unblocks them once it can handle them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", WORKER, *arguments], env=variables
            )
            self.workers[process.pid] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _wait(self) -> tuple[int, int]:
        """Wait for the next worker that ends. Returns its process id and its exit code.

        A negative code is the signal that killed it.
        """
        while True:
            for pid, process in self.workers.items():
                code = process.poll()
                if code is not None:
                    del self.workers[pid]
                    return pid, code
            time.sleep(POLL_SECONDS)

    def _note_death(self, pid: int, number: int, log: str) -> None:
        """Write what killed a worker to the log and next to its cell."""
        store = Store(Path(self.root))
        end = f"killed by {signal.Signals(number).name}"
        if number == signal.SIGKILL:
            end += " (out of memory?)"
        current = next((cell for cell in self.ids if is_attempt_of(store, cell, pid, log)), None)
        print(f"=== {current or 'no cell yet:'} {end}", flush=True)
        if current is not None:
            note(store, current, end)


def _may_be_requeued() -> bool:
    """Return False where SLURM would refuse, or does not answer on this node."""
    try:
        return "Requeue=1" in "".join(ask("scontrol", "show", "job", os.environ["SLURM_JOB_ID"]))
    except SlurmSilent:
        return False
