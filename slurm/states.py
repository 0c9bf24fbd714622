"""What SLURM's queue and accounts say about cells that have neither a record nor a failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from vlpeft.slurm.cluster import Job, SlurmSilent, describe, find_preempted, jobs, read_accounting
from vlpeft.slurm.ledger import Ledger, Sent


class Note(NamedTuple):
    """Whether a cell will run without a new launch, and why or why not."""

    state: Literal["pending", "preempted", "missing"]
    text: str


def live_cells(root: Path) -> dict[str, tuple[Sent, Job]]:
    """Return the cells of jobs that wait or run.

    Raises SlurmSilent; does not ask SLURM where nothing was submitted.
    """
    sent = Ledger(root.resolve()).submitted_jobs()
    known = jobs() if sent else {}
    found: dict[str, tuple[Sent, Job]] = {}
    for cell, all_ in sent.items():
        last = [each for each in all_ if each.job in known][-1:]
        if last and known[last[0].job].is_live:
            found[cell] = (last[0], known[last[0].job])
    return found


def notes(root: Path, cells: Collection[str], begun: Collection[str] = ()) -> dict[str, Note]:
    """Return a note on each submitted cell: where it waits, or how its last job ended.

    begun: the cells that ran before.

    Without accounting, jobs that SLURM has forgotten count as ended. Without SLURM on this machine,
    the state of a cell is unknown.
    """
    sent = Ledger(root.resolve()).submitted_jobs()
    last = {cell: sent[cell][-1].job for cell in cells if cell in sent}
    if not last:
        return {}
    try:
        known = jobs()
    except SlurmSilent as error:
        return dict.fromkeys(last, Note("pending", f"queue state unknown: {error}"))
    gone = {job for job in last.values() if job not in known or not known[job].is_live}
    waiting = {last[cell] for cell in begun if cell in last and last[cell] not in gone}
    view = _View(known, read_accounting(gone), find_preempted(waiting), _shared(sent))
    return {cell: view.note(job, ended=job in gone) for cell, job in last.items()}


def _shared(sent: Mapping[str, Sequence[Sent]]) -> set[str]:
    """Return the jobs of more than one cell."""
    counts = Counter(each.job for all_ in sent.values() for each in all_)
    return {job for job, cells in counts.items() if cells > 1}


class _View(NamedTuple):
    """What is known about jobs at one moment."""

    queue: Mapping[str, Job]
    accounts: Mapping[str, Job]
    preempted: Collection[str]
    shared: Collection[str]

    def note(self, job: str, *, ended: bool) -> Note:
        about = self.queue.get(job)
        if ended:
            about = self.accounts.get(job, about)
        if about is None:
            return Note("missing", f"its job {job} has ended; `vlpeft sweep` submits it again")
        return self._live(job, about) if about.is_live else _ended(job, about)

    def _live(self, job: str, about: Job) -> Note:
        if about.state == "RUNNING":  # but the cell does not report progress yet
            where = "which runs: starting, or behind its other cells"
            return Note("pending", f"in job {job}, {where if job in self.shared else 'starting'}")
        if about.state != "PENDING":
            return Note("pending", f"in job {job}, {about.state}")
        reason = f" ({about.reason})" if about.reason else ""
        if job in self.preempted:
            return Note("preempted", f"queued again as job {job}{reason}")
        return Note("pending", f"queued as job {job}{reason}")


def _ended(job: str, about: Job) -> Note:
    text = f"its job {job} ended as {describe(about)}; `vlpeft sweep` submits it again"
    return Note("preempted" if about.state == "PREEMPTED" else "missing", text)
