"""What there is to say of cells that have neither record nor failure, from the queue and the accounts of SLURM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple

from vlpeft.slurm.cluster import Job, SlurmSilent, describe, find_preempted, jobs, read_accounting
from vlpeft.slurm.ledger import Ledger, Sent


class Note(NamedTuple):
    """Whether a cell will run by itself, or why it will not, in words."""

    state: Literal["pending", "preempted", "missing"]
    text: str


def live_cells(root: Path) -> dict[str, tuple[Sent, Job]]:
    """Cells that are in a job that waits or runs. Raises SlurmSilent; asks nothing where nothing was ever submitted."""
    sent = Ledger(root.resolve()).submitted_jobs()
    known = jobs() if sent else {}
    pairs = {
        cell: (each, known[each.job])
        for cell, all_ in sent.items()
        for each in all_
        if each.job in known
    }
    return {cell: (each, job) for cell, (each, job) in pairs.items() if job.is_live}


def notes(root: Path, cells: Collection[str], begun: Collection[str] = ()) -> dict[str, Note]:
    """A note on each of those cells that was submitted: where it waits, or how its last job ended. `begun`: those that ran before.

    Without accounting, jobs that SLURM has forgotten are said to have ended; without SLURM on this machine nothing is known.
    """
    sent = Ledger(root.resolve()).submitted_jobs()
    last = {cell: sent[cell][-1].job for cell in cells if cell in sent}
    if not last:
        return {}
    try:
        known = jobs()
    except SlurmSilent as error:
        return dict.fromkeys(last, Note("pending", f"in the queue or not, nobody knows: {error}"))
    gone = {job for job in last.values() if job not in known or not known[job].is_live}
    waiting = {last[cell] for cell in begun if cell in last and last[cell] not in gone}
    told, struck = read_accounting(gone), find_preempted(waiting)
    shared = {
        job
        for job, cells in Counter(each.job for all_ in sent.values() for each in all_).items()
        if cells > 1
    }
    return {
        cell: _note(
            job,
            told.get(job) if job in gone else None,
            known.get(job),
            job in struck,
            job in shared,
        )
        for cell, job in last.items()
    }


def _note(job: str, told: Job | None, known: Job | None, struck: bool, shared: bool) -> Note:
    about = told or known
    if about is None:
        return Note("missing", f"its job {job} has ended; `vlpeft sweep` submits it again")
    if not about.is_live:
        state: Literal["preempted", "missing"] = (
            "preempted" if about.state == "PREEMPTED" else "missing"
        )
        return Note(
            state, f"its job {job} ended as {describe(about)}; `vlpeft sweep` submits it again"
        )
    if about.state == "RUNNING":  # and the cell does not show yet
        return Note(
            "pending",
            f"in job {job}, {'which runs: starting, or behind its other cells' if shared else 'starting'}",
        )
    if about.state != "PENDING":
        return Note("pending", f"in job {job}, {about.state}")
    reason = f" ({about.reason})" if about.reason else ""
    return (
        Note("preempted", f"queued again as job {job}{reason}")
        if struck
        else Note("pending", f"queued as job {job}{reason}")
    )
