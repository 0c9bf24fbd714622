"""submitit: executors, the script that they give to sbatch, and jobs that are requeued.

A job's own process imports this module, so it stays light.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

from submitit import AutoExecutor
from submitit.core.job_environment import JobEnvironment
from submitit.helpers import Checkpointable, DelayedSubmission

LIBRARY = "submitit"
TRIED = ("1.5.4",)
# The signal at which workers save their cells. SUBMITIT_PREEMPT_SIGNAL could set another.
JobEnvironment.USR_SIG = "USR2"


class RequeuedJob(Checkpointable):  # type: ignore[misc]
    """A callable that submitit interrupts before SLURM ends its job, and requeues as `resumed`."""

    def __call__(self) -> None:
        """Do the work."""
        raise NotImplementedError

    def resumed(self) -> RequeuedJob:
        """Return the callable that runs after the job is requeued; called before the job ends."""
        raise NotImplementedError

    def checkpoint(self) -> DelayedSubmission:
        """Submit `resumed()`. submitit calls a method of this name."""
        return DelayedSubmission(self.resumed())


def job_log() -> str:
    """Return the path of the standard output of the job that this process belongs to."""
    return str(JobEnvironment().paths.stdout)


def slurm_executor(
    folder: Path, python: str, time_outs: int, name: str, parameters: Mapping[str, Any]
) -> Any:
    """Return an executor of SLURM jobs.

    Raises RuntimeError on a machine without SLURM.
    """
    executor = AutoExecutor(
        folder, cluster="slurm", slurm_python=python, slurm_max_num_timeout=time_outs
    )
    executor.update_parameters(name=name, **parameters)
    return executor


def submission_script(executor: Any, jobs: int) -> str:
    """Return the script that a SLURM executor would give to sbatch for this many jobs.

    Nothing is submitted.
    """
    inner = copy(executor._executor)
    inner.parameters = dict(inner.parameters)
    if jobs > 1:
        inner.parameters["map_count"] = jobs
    text: str = inner._make_submission_file_text(inner._submitit_command_str, "")
    return text
