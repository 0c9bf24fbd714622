"""Wait for submitted cells.

Cells that SLURM has lost are submitted again. Cells that trying again cannot fix are given up, with
a cause. SLURM's word alone does not end a cell: only a record or a failure.json does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from signal import SIGABRT, SIGBUS, SIGKILL, SIGSEGV, SIGTERM, SIGUSR2
from typing import TYPE_CHECKING

from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.terminal import print_message
from vlpeft.benchmark.launch.tries import LIMIT, checkpoint, give_up, was_interrupted
from vlpeft.benchmark.launch.worker import STOPPED, has_ended
from vlpeft.slurm.cluster import Job, SlurmSilent, describe, jobs, read_accounting
from vlpeft.slurm.ledger import Sent

if TYPE_CHECKING:  # it imports submitit, which `vlpeft status` does not need
    from vlpeft.slurm.submit import Submitter

POLL_SECONDS = 5.0
# srun reports a killed task as the number of the signal, or 128 more. SIGUSR2 kills a job that
# does not handle it yet.
KILLED = (SIGABRT, SIGBUS, SIGKILL, SIGSEGV, SIGTERM, SIGUSR2)
UNKNOWN = Job("UNKNOWN")
FOR_ALL = ("CANCELLED", "COMPLETED")  # these say something about every cell of a job
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
    """Looks after the cells of one launch.

    again: how often each cell was lost since its checkpoint last changed.
    checkpoints: when each cell was saved, at the time it was lost last.
    judged: the last job that was counted against each cell.
    refusal: SLURM's message when it last refused to take cells again.
    missed: cells without a live job at the last look.
    ending: jobs that were ending when the launch began, for example cancelled before it.
    """

    submitter: Submitter
    watch: Callable[[], None]
    again: Counter[str] = field(default_factory=Counter)
    checkpoints: dict[str, int | None] = field(default_factory=dict)
    judged: dict[str, str] = field(default_factory=dict)
    refusal: str = ""
    missed: frozenset[str] = frozenset()
    ending: frozenset[str] = frozenset()

    def wait(self, cells: Sequence[str]) -> None:
        """Return when every cell has ended."""
        store = Store(self.submitter.ledger.root)
        with suppress(SlurmSilent):
            states = {job: about.state for job, about in jobs().items()}
            self.ending = frozenset(job for job in states if states[job] == "COMPLETING")
        while waiting := [cell for cell in cells if not has_ended(store, cell)]:
            self.look(store, waiting)
            self.watch()
            time.sleep(POLL_SECONDS)
        self.watch()

    def look(self, store: Store, waiting: Sequence[str]) -> None:
        """Look at the queue once, and deal with the cells that are lost.

        A cell is lost if two looks in a row find no job for it: on a shared disk, its record may
        appear late.
        """
        try:
            known = jobs()
        except SlurmSilent:  # its controller may be restarting; the jobs go on
            return
        sent = self.submitter.ledger.submitted_jobs()
        idle = {cell for cell in waiting if not _has_live_job(known, sent.get(cell, ()))}
        lost = [cell for cell in waiting if cell in idle and self._is_lost(store, cell)]
        self.missed = frozenset(idle) - set(lost)
        if not lost:
            return
        last = {cell: sent[cell][-1] for cell in lost if cell in sent}
        self._judge(store, last, known, self._blamed(store, last, sent))
        again = [cell for cell in lost if not has_ended(store, cell)]
        self._submit(again, alone=len(idle) == len(waiting))

    def _is_lost(self, store: Store, cell: str) -> bool:
        """Return whether a cell without a live job had none at the last look, and has not ended."""
        return cell in self.missed and not has_ended(store, cell) and not store.is_held(cell)

    def _submit(self, cells: Sequence[str], *, alone: bool) -> None:
        """Submit cells again.

        SLURM may refuse, for example where a user may have only so many jobs. While other jobs go
        on (not `alone`), the next look asks again.
        """
        try:
            self.submitter.submit(cells)
        except UserError as error:
            if alone:
                raise
            if str(error) != self.refusal:
                print_message(f"vlpeft: {error}; it is tried again while other jobs go on")
            self.refusal = str(error)

    def _blamed(
        self, store: Store, lost: Mapping[str, Sent], sent: Mapping[str, Sequence[Sent]]
    ) -> set[str]:
        """Return the cells that the end of their job counts against.

        These are the cells that ran when it ended; if none ran, all cells of the job. But a job in
        which another cell made progress is excused: its waiting cells only had no turn yet.
        """
        gone = {each.job for each in lost.values()}
        cut, excused = set[str](), set[str]()
        for cell, each in _cells_of(gone, sent):
            if was_interrupted(store, cell, str(each.log)):
                cut.add(cell)
                excused.add(each.job)
            elif self._made_progress(store, cell):
                excused.add(each.job)
        return cut | {cell for cell, each in lost.items() if each.job not in excused}

    def _made_progress(self, store: Store, cell: str) -> bool:
        return has_ended(store, cell) or checkpoint(store, cell) != self.checkpoints.get(cell)

    def _judge(
        self,
        store: Store,
        lost: Mapping[str, Sent],
        known: Mapping[str, Job],
        blamed: Collection[str],
    ) -> None:
        """Count the end of a job against its cells, and give up the cells with a verdict."""
        accounts = read_accounting(each.job for each in lost.values())
        for cell, each in lost.items():
            job = accounts.get(each.job) or known.get(each.job) or UNKNOWN
            if each.job in self.ending:
                job = UNKNOWN
            is_blamed = cell in blamed or job.state in FOR_ALL
            if self._count(store, cell, each.job, is_blamed=is_blamed):
                _give_up(store, cell, each, job, verdict(job, self.again[cell]))

    def _count(self, store: Store, cell: str, job: str, *, is_blamed: bool) -> bool:
        """Count a lost job once. Returns whether it counts against the cell."""
        counts = is_blamed and self.judged.get(cell) != job
        now = checkpoint(store, cell)
        if counts:
            stuck = self.checkpoints.get(cell) == now
            self.again[cell] = self.again[cell] + 1 if stuck else 1
        self.judged[cell] = job
        self.checkpoints[cell] = now
        return counts


def _cells_of(
    gone: Collection[str], sent: Mapping[str, Sequence[Sent]]
) -> Iterator[tuple[str, Sent]]:
    """Yield every cell of these jobs."""
    for cell, all_ in sent.items():
        for each in all_:
            if each.job in gone:
                yield cell, each


def _give_up(store: Store, cell: str, sent: Sent, job: Job, cause: str) -> None:
    """Give up a cell for a cause; without one ("") it is tried again."""
    if cause == "cancelled":
        fix = "`vlpeft retry --cause cancelled` runs it again"
        give_up(store, cell, cause, f"job {sent.job} was cancelled; {fix}", log="")
    elif cause:
        message = f"job {sent.job} ended as {describe(job)}"
        give_up(store, cell, cause, message, str(sent.log))


def verdict(job: Job, count: int) -> str:
    """Return why a cell is given up whose job ended without an error message; "" to try again.

    count: how often it was lost without progress in between.
    """
    if job.state == "CANCELLED":
        return "cancelled"
    killed = bool(job.signal) or job.code in KILLED or (job.code or 0) > 128
    failed = job.state == "FAILED" and not killed and job.code not in (None, 0, STOPPED)
    if failed or count >= LIMIT:
        return CAUSES.get(job.state, "killed" if killed else "job failed")
    return ""


def _has_live_job(known: Mapping[str, Job], sent: Sequence[Sent]) -> bool:
    return any(each.job in known and known[each.job].is_live for each in sent)
