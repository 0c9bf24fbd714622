"""What there is to say of cells that have neither record nor failure, from the queue and the accounts of SLURM."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from slurm.cluster import Job, SlurmSilent, ended, jobs
from slurm.ledger import Ledger, Sent
from slurm.supervise import describe


def live(root: Path) -> dict[str, tuple[Sent, Job]]:
    """Cells that are in a job that waits or runs. Raises SlurmSilent; asks nothing where nothing was ever submitted."""
    sent = Ledger(root.resolve()).sent()
    known = jobs() if sent else {}
    pairs = {cell: (each, known[each.job]) for cell, all_ in sent.items() for each in all_ if each.job in known}
    return {cell: (each, job) for cell, (each, job) in pairs.items() if job.live}


def notes(root: Path, cells: Iterable[str]) -> dict[str, str]:
    """A line for each of those cells that was submitted: where it waits, or how its last job ended.

    Without accounting, jobs that SLURM has forgotten are said to have ended; without SLURM on this machine nothing is known.
    """
    sent = Ledger(root.resolve()).sent()
    last = {cell: sent[cell][-1].job for cell in cells if cell in sent}
    if not last:
        return {}
    try:
        known = jobs()
    except SlurmSilent as error:
        return dict.fromkeys(last, f"in the queue or not, nobody knows: {error}")
    gone = {job for job in last.values() if job not in known or not known[job].live}
    told = ended(gone)
    return {cell: _note(job, told.get(job) if job in gone else None, known.get(job)) for cell, job in last.items()}


def _note(job: str, told: Job | None, known: Job | None) -> str:
    about = told or known
    if about is None:
        return f"its job {job} has ended; `vlpeft sweep` submits it again"
    if not about.live:
        return f"its job {job} ended as {describe(about)}; `vlpeft sweep` submits it again"
    if about.state == "PENDING":
        return f"queued as job {job} ({about.reason})" if about.reason else f"queued as job {job}"
    return f"in job {job}, {about.state}"
