"""submitit: executors, the script that it gives to sbatch, and jobs that are requeued.

A job's own process imports this module, so it stays light.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submitit import AutoExecutor, LocalExecutor
from submitit.core.job_environment import JobEnvironment
from submitit.helpers import Checkpointable, DelayedSubmission

LIBRARY = "submitit"
TRIED = ("1.5.4",)


class RequeuedJob(Checkpointable):  # type: ignore[misc]
    """A callable that submitit interrupts before SLURM ends its job, and requeues as `resumed`."""

    def __call__(self) -> None:
        """Do the work."""
        raise NotImplementedError

    def resumed(self) -> RequeuedJob:
        """Called before the job ends: what is to run after it is requeued."""
        raise NotImplementedError

    def checkpoint(self) -> DelayedSubmission:
        """The name under which submitit calls `resumed`."""
        return DelayedSubmission(self.resumed())


def job_log() -> str:
    """Path of the standard output of the job that this process belongs to."""
    return str(JobEnvironment().paths.stdout)


def local_executor(folder: Path, minutes: int) -> Any:
    """An executor of jobs on this machine, which are killed after so many minutes."""
    executor = LocalExecutor(folder=folder)
    executor.update_parameters(timeout_min=minutes)
    return executor


def slurm_executor(
    folder: Path, python: str, time_outs: int, name: str, parameters: Mapping[str, Any]
) -> Any:
    """An executor of SLURM jobs. Raises RuntimeError where there is no SLURM."""
    executor = AutoExecutor(
        folder, cluster="slurm", slurm_python=python, slurm_max_num_timeout=time_outs
    )
    executor.update_parameters(name=name, **parameters)
    return executor


def submission_script(executor: Any, jobs: int) -> str:
    """The script that `slurm_executor`'s would give to sbatch for this many jobs; nothing is submitted."""
    inner = executor._executor
    if jobs > 1:
        inner.parameters["map_count"] = jobs
    text: str = inner._make_submission_file_text(inner._submitit_command_str, "")
    return text
