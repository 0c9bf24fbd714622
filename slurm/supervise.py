"""Wait for submitted cells; submit again what SLURM has lost, and give up, with a cause, what cannot be mended by trying.

SLURM is not believed: only a record or a failure.json ends a cell, whatever state its job is said to be in.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from signal import SIGABRT, SIGBUS, SIGKILL, SIGSEGV, SIGTERM, SIGUSR2

from benchmark.records import Store
from slurm.cluster import Job, SlurmSilent, ended, jobs
from slurm.ledger import Sent
from slurm.submit import Submitter
from slurm.tries import LIMIT, checkpoint, give_up
from slurm.worker import STOPPED
from slurm.worker import ended as cell_ended

POLL_SECONDS = 5.0
# srun reports a killed task as the signal's number or 128 more. SIGUSR2 kills a job that has not yet begun to listen.
KILLED = (SIGABRT, SIGBUS, SIGKILL, SIGSEGV, SIGTERM, SIGUSR2)
UNKNOWN = Job("UNKNOWN")
CAUSES = {  # SLURM's words in ours, as failure.json and `retry --cause` have them
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled",
    "COMPLETED": "no record",
}


@dataclass
class Supervisor:
    """Looks after the cells of one launch."""

    submitter: Submitter
    watch: Callable[[], None]
    again: Counter[str] = field(default_factory=Counter)  # how often a cell was lost since it last got further
    checkpoints: dict[str, int | None] = field(default_factory=dict)  # when it was lost last
    missed: frozenset[str] = frozenset()  # cells without a live job at the last look
    ending: frozenset[str] = frozenset()  # jobs that were ending when the launch began: cancelled before, say

    def wait(self, cells: Sequence[str]) -> None:
        """Return when every cell has ended."""
        store = Store(self.submitter.ledger.root)
        with suppress(SlurmSilent):
            self.ending = frozenset(job for job, about in jobs().items() if about.state == "COMPLETING")
        while waiting := [cell for cell in cells if not cell_ended(store, cell)]:
            self.look(store, waiting)
            self.watch()
            time.sleep(POLL_SECONDS)
        self.watch()

    def look(self, store: Store, waiting: Sequence[str]) -> None:
        """One look at the queue. A cell is lost if two looks in a row show no job for it: records may be slow to show on a shared disk."""
        try:
            known = jobs()
        except SlurmSilent:  # its controller may be restarting; the jobs go on
            return
        sent = self.submitter.ledger.sent()
        idle = {cell for cell in waiting if not any(_live(known, each) for each in sent.get(cell, ()))}
        lost = [cell for cell in waiting if cell in idle & self.missed and not cell_ended(store, cell) and not store.is_held(cell)]
        self.missed = frozenset(idle) - set(lost)
        if lost:
            self._mend(store, {cell: sent[cell][-1] for cell in lost if cell in sent}, known)
            self.submitter.submit([cell for cell in lost if not cell_ended(store, cell)])

    def _mend(self, store: Store, lost: dict[str, Sent], known: dict[str, Job]) -> None:
        told = ended(each.job for each in lost.values())
        for cell, each in lost.items():
            job = told.get(each.job) or known.get(each.job) or UNKNOWN
            if each.job in self.ending:
                job = UNKNOWN
            now = checkpoint(store, cell)
            self.again[cell] = self.again[cell] + 1 if self.checkpoints.get(cell) == now else 1
            self.checkpoints[cell] = now
            cause = verdict(job, self.again[cell])
            if cause:
                give_up(store, cell, cause, f"job {each.job} ended as {describe(job)}", str(each.log))


def verdict(job: Job, count: int) -> str:
    """Why a cell whose job has ended without a word about it is given up; "" if it is to be tried again.

    count: how often it was lost without any progress in between.
    """
    if job.state == "CANCELLED":
        return "cancelled"
    killed = bool(job.signal) or job.code in KILLED or (job.code or 0) > 128
    by_itself = job.state == "FAILED" and not killed and job.code not in (None, 0, STOPPED)
    if by_itself or count >= LIMIT:
        return CAUSES.get(job.state, "killed" if killed else "job failed")
    return ""


def describe(job: Job) -> str:
    """State, with exit code or signal if there is one."""
    more = f", signal {job.signal}" if job.signal else f", exit code {job.code}" if job.code else ""
    return f"{job.state}{more}"


def _live(known: dict[str, Job], each: Sent) -> bool:
    return each.job in known and known[each.job].live
