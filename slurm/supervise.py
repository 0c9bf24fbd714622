"""Wait for submitted cells; submit again what SLURM has lost, and give up, with a cause, what cannot be mended by trying.

SLURM is not believed: only a record or a failure.json ends a cell, whatever state its job is said to be in.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from signal import SIGABRT, SIGBUS, SIGKILL, SIGSEGV, SIGTERM, SIGUSR2
from typing import TYPE_CHECKING

from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.launch.tries import LIMIT, checkpoint, give_up, was_interrupted
from vlpeft.benchmark.launch.worker import STOPPED
from vlpeft.benchmark.launch.worker import has_ended as cell_ended
from vlpeft.slurm.cluster import Job, SlurmSilent, describe, jobs, read_accounting
from vlpeft.slurm.ledger import Sent

if TYPE_CHECKING:
    from vlpeft.slurm.submit import (
        Submitter,
    )  # imports submitit, which `vlpeft status` can do without

POLL_SECONDS = 5.0
# srun reports a killed task as the signal's number or 128 more. SIGUSR2 kills a job that has not yet begun to listen.
KILLED = (SIGABRT, SIGBUS, SIGKILL, SIGSEGV, SIGTERM, SIGUSR2)
UNKNOWN = Job("UNKNOWN")
FOR_ALL = (
    "CANCELLED",
    "COMPLETED",
)  # true of each cell of a job: it is not wanted, or has had its turn
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
    again: Counter[str] = field(
        default_factory=Counter
    )  # how often a cell was lost since it last got further
    checkpoints: dict[str, int | None] = field(default_factory=dict)  # when it was lost last
    judged: dict[str, str] = field(default_factory=dict)  # the job of which that was counted last
    refusal: str = ""  # what SLURM said when it last refused to take cells again
    missed: frozenset[str] = frozenset()  # cells without a live job at the last look
    ending: frozenset[str] = (
        frozenset()
    )  # jobs that were ending when the launch began: cancelled before, say

    def wait(self, cells: Sequence[str]) -> None:
        """Return when every cell has ended."""
        store = Store(self.submitter.ledger.root)
        with suppress(SlurmSilent):
            self.ending = frozenset(
                job for job, about in jobs().items() if about.state == "COMPLETING"
            )
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
        sent = self.submitter.ledger.submitted_jobs()
        idle = {
            cell for cell in waiting if not any(_live(known, each) for each in sent.get(cell, ()))
        }
        lost = [
            cell
            for cell in waiting
            if cell in idle & self.missed
            and not cell_ended(store, cell)
            and not store.is_held(cell)
        ]
        self.missed = frozenset(idle) - set(lost)
        if lost:
            self._mend(
                store,
                {cell: sent[cell][-1] for cell in lost if cell in sent},
                known,
                self._blamed(store, lost, sent),
            )
            self._submit(
                [cell for cell in lost if not cell_ended(store, cell)],
                alone=len(idle) == len(waiting),
            )

    def _submit(self, cells: Sequence[str], *, alone: bool) -> None:
        """Submit them again. Where SLURM refuses while other jobs go on (a user may have so many, say), it is asked again later."""
        try:
            self.submitter.submit(cells)
        except UserError as error:
            if alone:
                raise
            if str(error) != self.refusal:
                print(f"vlpeft: {error}; it is tried again while other jobs go on", file=sys.stderr)
            self.refusal = str(error)

    def _blamed(
        self, store: Store, lost: Sequence[str], sent: Mapping[str, Sequence[Sent]]
    ) -> set[str]:
        """The cells that the end of their job speaks against: those that it cut short; of a job that cut none short, all.

        But none of a job in which another cell got further: they have only not come to their turn.
        """
        gone = {sent[cell][-1].job for cell in lost if cell in sent}
        cut, excused = set[str](), set[str]()
        for cell, each in (
            (cell, each) for cell, all_ in sent.items() for each in all_ if each.job in gone
        ):
            if was_interrupted(store, cell, str(each.log)):
                cut.add(cell)
                excused.add(each.job)
            elif cell_ended(store, cell) or checkpoint(store, cell) != self.checkpoints.get(cell):
                excused.add(each.job)
        return cut | {cell for cell in lost if cell in sent and sent[cell][-1].job not in excused}

    def _mend(
        self, store: Store, lost: dict[str, Sent], known: dict[str, Job], blamed: set[str]
    ) -> None:
        told = read_accounting(each.job for each in lost.values())
        for cell, each in lost.items():
            job = told.get(each.job) or known.get(each.job) or UNKNOWN
            if each.job in self.ending:
                job = UNKNOWN
            now = checkpoint(store, cell)
            blame = (cell in blamed or job.state in FOR_ALL) and self.judged.get(cell) != each.job
            self.judged[cell] = each.job
            if blame:
                self.again[cell] = self.again[cell] + 1 if self.checkpoints.get(cell) == now else 1
            self.checkpoints[cell] = now
            cause = verdict(job, self.again[cell]) if blame else ""
            if cause == "cancelled":
                give_up(
                    store,
                    cell,
                    cause,
                    f"job {each.job} was cancelled; `vlpeft retry --cause cancelled` runs it again",
                    log="",
                )
            elif cause:
                give_up(
                    store, cell, cause, f"job {each.job} ended as {describe(job)}", str(each.log)
                )


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


def _live(known: dict[str, Job], each: Sent) -> bool:
    return each.job in known and known[each.job].is_live
