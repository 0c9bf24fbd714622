"""What SLURM knows about jobs.

squeue knows those that wait, run or ended some minutes ago; sacct, on clusters that have it, knows
the older ones.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

DEAD = frozenset(
    (
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
        *("LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
    )
)
ANSWER_SECONDS = 60
# Variables of an allocation, with which sbatch and srun would describe the new jobs as well.
# SRUN_ and PMI hold what was asked for a step; a prolog or the plug-in for GPUs sets the last ones.
OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "PMI_", "PMIX_")
OF_A_JOBS_GPUS = (
    *("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"),
    *("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"),
)
# Options of the commands that are asked about jobs. They would hide jobs, or wait for an answer.
OF_A_COMMAND = ("SQUEUE_", "SCANCEL_", "SACCT_", "SCONTROL_", "SINFO_")
# How commands reach SLURM and what they print; no job sets these.
OF_THE_CLUSTER = frozenset(
    (
        *("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_SACK_KEY"),
        *("SLURM_SACK_JWKS", "SLURM_DEBUG_FLAGS", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN"),
        *("SLURM_EXIT_ERROR", "SLURM_EXIT_IMMEDIATE"),
    )
)
# sbatch prefers these to its script, so they would replace what the launcher relies on. The others
# (SBATCH_ACCOUNT, SBATCH_PARTITION, ...) are wishes of the user.
OF_THE_LAUNCHER = frozenset(
    f"SBATCH_{name}"
    for name in (
        *("ARRAY_INX", "ERROR", "EXPORT", "GET_USER_ENV", "INPUT", "JOB_NAME", "NO_REQUEUE"),
        *("OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL", "TEST_ONLY", "TIMELIMIT", "WAIT", "QUIET"),
        *("CPUS_PER_GPU", "CPUS_PER_TASK", "MEM_PER_CPU", "MEM_PER_GPU", "MEM_PER_NODE"),
        *("NTASKS", "NTASKS_PER_NODE", "NTASKS_PER_GPU", "TRES_PER_TASK", "NODES", "CHDIR"),
    )
)
CANCELLED_AT_ONCE = 500  # job ids in one command; a command line has a maximal length


class SlurmSilent(Exception):
    """SLURM does not answer now, or does not exist on this machine; the message says why."""


@dataclass(frozen=True)
class Job:
    """The state of a job in SLURM's words.

    reason: why it waits.
    code, signal: of a job that has ended, as sacct reports them; otherwise None.
    """

    state: str
    reason: str = ""
    code: int | None = None
    signal: int | None = None

    @property
    def is_live(self) -> bool:
        """Whether it runs or may still run."""
        return self.state not in DEAD


def jobs() -> dict[str, Job]:
    """Return this user's jobs that squeue knows, by id: 123, or 123_4 in an array.

    Raises SlurmSilent.
    """
    found = {}
    for line in ask("squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%F|%K|%T|%r"):
        job, index, state, reason = line.split("|", 3)
        key = job if index == "N/A" else f"{job}_{index}"
        found[key] = Job(state, "" if reason == "None" else reason)
    return found


def read_accounting(ids: Iterable[str]) -> dict[str, Job]:
    """Return how jobs ended, with exit codes, as sacct reports it.

    Jobs that it does not know yet are left out; on a cluster without accounting, all are.
    """
    found = {}
    for job, state, code in _accounts(ids):
        if state in DEAD:  # accounts may be minutes late, and still say RUNNING
            numbers = re.fullmatch(r"(\d+):(\d+)", code)
            found[job] = Job(state, "", *map(int, numbers.groups())) if numbers else Job(state)
    return found


def _accounts(ids: Iterable[str], *more: str) -> Iterator[tuple[str, str, str]]:
    """Yield job, state and exit code of each line of sacct."""
    arrays = sorted({job.split("_", maxsplit=1)[0] for job in ids})
    if not arrays or shutil.which("sacct") is None:
        return
    options = ("-n", "-P", "-o", "JobID,State,ExitCode", "-j", ",".join(arrays))
    with suppress(SlurmSilent):
        for line in ask("sacct", "-X", *more, *options):
            job, state, code = line.split("|", 2)
            yield job, state.split(" ", maxsplit=1)[0], code  # "CANCELLED by 1000"


def find_preempted(ids: Iterable[str]) -> set[str]:
    """Return the jobs whose last run was pre-empted, waiting again or not.

    On a cluster without accounting, none.
    """
    wanted = set(ids)
    runs = _accounts(wanted, "-D")  # one line for each run of a job, the last one last
    last = {job: state for job, state, _ in runs if state in DEAD or state == "REQUEUED"}
    return {job for job in wanted if last.get(job) == "PREEMPTED"}


def describe(job: Job) -> str:
    """Return the state, with the signal or the exit code if there is one."""
    if job.signal:
        return f"{job.state}, signal {job.signal}"
    if job.code:
        return f"{job.state}, exit code {job.code}"
    return job.state


def max_array_size() -> int:
    """Return how many jobs an array may have. Raises SlurmSilent."""
    for line in ask("scontrol", "show", "config"):
        if line.startswith("MaxArraySize"):
            return max(1, int(line.split("=", 1)[1]))
    raise SlurmSilent("`scontrol show config` names no MaxArraySize")


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs that wait or run. Raises SlurmSilent."""
    for start in range(0, len(ids), CANCELLED_AT_ONCE):
        ask("scancel", *ids[start : start + CANCELLED_AT_ONCE])


def clean_environment() -> dict[str, str]:
    """Return the environment without what describes the job that this process may be part of."""
    dropped = OF_A_JOBS_GPUS if "SLURM_JOB_ID" in os.environ else ()
    return {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not _describes_a_job(name)
    }


def _describes_a_job(name: str) -> bool:
    if name in OF_THE_CLUSTER:
        return False
    return name.startswith((*OF_A_JOB, *OF_A_COMMAND)) or name in OF_THE_LAUNCHER


@contextmanager
def outside_of_a_job() -> Iterator[None]:
    """Give this process the clean environment inside the block, for libraries that use its own."""
    before: Mapping[str, str] = dict(os.environ)
    clean = clean_environment()
    for name in before.keys() - clean.keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def ask(*command: str) -> list[str]:
    """Return the lines that a command of SLURM prints. Raises SlurmSilent."""
    name = command[0]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
            env=clean_environment(),
        )
    except FileNotFoundError as error:
        raise SlurmSilent(f"`{name}` is not on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmSilent(f"`{name}` gave no answer in {ANSWER_SECONDS} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no error message"]
        raise SlurmSilent(f"`{name}` failed: {lines[-1]}")
    return [line for line in done.stdout.splitlines() if line.strip()]
