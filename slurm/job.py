"""What a SLURM job calls: a light process without torch, which starts a worker for its cells and answers SLURM's signals."""

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
from submitit.core.job_environment import JobEnvironment
from submitit.helpers import Checkpointable, DelayedSubmission

from benchmark.records import Store
from slurm.cluster import SlurmSilent, ask
from slurm.tries import LIMIT, note
from slurm.worker import SIGNALS, STOPPED, ended

POLL_SECONDS = 0.2
SHARE = 0.75  # of the warning that a worker may take to save its cell; the rest is for requeueing


class CellJob(Checkpointable):  # type: ignore[misc]
    """Runs cells. Of it only ids, a path and the runtime's plain settings are pickled."""

    def __init__(self, ids: tuple[str, ...], root: str, runtime: Mapping[str, Any], signal_seconds: int) -> None:
        self.ids, self.root, self.runtime, self.signal_seconds = ids, root, dict(runtime), signal_seconds
        self.worker: int | None = None

    def __call__(self) -> None:
        """Run every cell that has not ended; a worker that is killed is followed by another, and its cell counts a try."""
        store, log = Store(Path(self.root)), str(JobEnvironment().paths.stdout)
        for _ in range(LIMIT * len(self.ids) + 1):
            code = self._work(log)
            if code == 0:
                return
            if code > 0:  # it has said why in the log, or was asked to stop: SLURM is ending the job, and keeps account of that
                sys.exit(code)
            current = next((cell for cell in self.ids if not ended(store, cell) and not store.is_held(cell)), self.ids[-1])
            end = f"killed by {signal.Signals(-code).name}{' (out of memory?)' if code == -signal.SIGKILL else ''}"
            print(f"=== {current} {end}", flush=True)
            note(store, current, end)
        raise RuntimeError("one worker after another was killed before it ran anything; see above")

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit when SLURM announces the end of the job: stop the worker where it is saved, and be requeued."""
        if self.worker is not None and psutil.pid_exists(self.worker):
            worker = psutil.Process(self.worker)
            worker.send_signal(signal.SIGTERM)
            psutil.wait_procs([worker], timeout=SHARE * self.signal_seconds)
        if not _requeueable():
            print("this job may not be requeued; `vlpeft sweep` submits its cells anew", flush=True)
            sys.exit(STOPPED)
        return DelayedSubmission(CellJob(self.ids, self.root, self.runtime, self.signal_seconds))

    def _work(self, log: str) -> int:
        command = [sys.executable, "-u", "-m", "slurm.worker", self.root, json.dumps(self.runtime), log, *self.ids]
        threads = self.runtime.get("threads")
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the worker inherits this, and listens when it can
        try:
            process = subprocess.Popen(command, env=environment)
            self.worker = process.pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        while (code := process.poll()) is None:
            time.sleep(POLL_SECONDS)
        return code


def _requeueable() -> bool:
    """False where SLURM would refuse, or cannot be asked from this node."""
    try:
        return "Requeue=1" in "".join(ask("scontrol", "show", "job", os.environ["SLURM_JOB_ID"]))
    except SlurmSilent:
        return False
