"""What SLURM says of jobs: squeue for those it knows, sacct, where there is one, for those it has forgotten."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

DEAD = frozenset(
    (
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
    )
)
ANSWER_SECONDS = 60


class SlurmSilent(Exception):
    """SLURM does not answer, for now or on this machine; the message says why."""


@dataclass(frozen=True)
class Job:
    """A job's state in SLURM's words; `reason` why it waits; exit code and signal are known of ended ones only, by sacct."""

    state: str
    reason: str = ""
    code: int | None = None
    signal: int | None = None

    @property
    def is_live(self) -> bool:
        """It runs or may still run."""
        return self.state not in DEAD


def jobs() -> dict[str, Job]:
    """This user's jobs that SLURM still knows: waiting, running, and ended some minutes ago. Keys: 123, or 123_4 in an array."""
    found = {}
    for line in ask("squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%F|%K|%T|%r"):
        job, index, state, reason = line.split("|", 3)
        found[job if index == "N/A" else f"{job}_{index}"] = Job(
            state, "" if reason == "None" else reason
        )
    return found


def read_accounting(ids: Iterable[str]) -> dict[str, Job]:
    """How jobs ended, exit codes included. Empty where there is no accounting; without those that it has not heard of yet."""
    found = {}
    for job, state, code in _accounts(ids):
        if state in DEAD:  # the accounts may be minutes behind
            numbers = re.fullmatch(r"(\d+):(\d+)", code)
            found[job] = Job(state, "", *map(int, numbers.groups())) if numbers else Job(state)
    return found


def _accounts(ids: Iterable[str], *more: str) -> Iterator[tuple[str, str, str]]:
    """Job, state and exit code of each line of sacct."""
    arrays = sorted({job.split("_", maxsplit=1)[0] for job in ids})
    if not arrays or shutil.which("sacct") is None:
        return
    with suppress(SlurmSilent):
        for line in ask(
            "sacct", "-X", *more, "-n", "-P", "-o", "JobID,State,ExitCode", "-j", ",".join(arrays)
        ):
            job, state, code = line.split("|", 2)
            yield job, state.split(" ", maxsplit=1)[0], code  # CANCELLED by 1000


def find_preempted(ids: Iterable[str]) -> set[str]:
    """Those jobs that ended last by being pre-empted, whether or not they wait again. Empty where there is no accounting."""
    wanted = set(ids)
    rounds = _accounts(wanted, "-D")  # a line for each time that a job ran
    last = {job: state for job, state, _ in rounds if state in DEAD or state == "REQUEUED"}
    return {job for job, state in last.items() if job in wanted and state == "PREEMPTED"}


def describe(job: Job) -> str:
    """State, with exit code or signal if there is one."""
    more = f", signal {job.signal}" if job.signal else f", exit code {job.code}" if job.code else ""
    return f"{job.state}{more}"


def max_array_size() -> int:
    """How many jobs an array may have. Raises SlurmSilent."""
    for line in ask("scontrol", "show", "config"):
        if line.startswith("MaxArraySize"):
            return max(1, int(line.split("=", 1)[1]))
    raise SlurmSilent("`scontrol show config` names no MaxArraySize")


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs that wait or run. Raises SlurmSilent."""
    for start in range(0, len(ids), 500):  # a command line has an end
        ask("scancel", *ids[start : start + 500])


def ask(*command: str) -> list[str]:
    """The lines that a command of SLURM prints. Raises SlurmSilent."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise SlurmSilent(f"`{command[0]}` is not on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmSilent(f"`{command[0]}` gave no answer in {ANSWER_SECONDS} s") from error
    if done.returncode:
        raise SlurmSilent(
            f"`{command[0]}` failed: {(done.stderr.strip().splitlines() or ['without a word'])[-1]}"
        )
    return [line for line in done.stdout.splitlines() if line.strip()]
