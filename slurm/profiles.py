"""Profiles: the resources that jobs ask for, as a YAML of checked settings.

The shipped ones are examples to copy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from vlpeft.benchmark.core.config import (
    JSON,
    Config,
    NonNegative,
    Positive,
    PositiveFloat,
    dump,
    load_yaml,
    parse,
    yaml_names,
)
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.core.paths import YAML
from vlpeft.benchmark.plan.resources import Minutes, Word

PROFILES = Path(__file__).resolve().parent / "profiles"


def _check_line(text: str) -> str:
    if not text or "\n" in text:
        raise ValueError("write one line of text")
    return text


Line = Annotated[str, AfterValidator(_check_line)]

LEAST_GB = 1 / 1024  # SLURM counts in MB, and takes 0 as all memory of a node

# Options of sbatch that `sbatch:` may not set, each with the key of the profile that sets it.
KEYS = {
    **{name: name for name in ("partition", "account", "qos", "constraint", "time")},
    **dict.fromkeys(("mem", "mem-per-cpu", "mem-per-gpu"), "mem_gb"),
    **dict.fromkeys(("cpus-per-task", "cpus-per-gpu"), "cpus"),
    **dict.fromkeys(("requeue", "no-requeue"), "requeue"),
    "signal": "signal_seconds",
    "container": "container",
}
# Options that the launcher relies on, and for what.
RESERVED = {
    **dict.fromkeys(("array", "job-name"), "it makes the arrays"),
    **dict.fromkeys(("output", "error", "input", "open-mode"), "it reads the logs"),
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node"), "a job is one process that starts all"),
    **dict.fromkeys(
        ("ntasks-per-core", "ntasks-per-gpu", "ntasks-per-socket", "tasks-per-node"),
        "a job is one process that starts all",
    ),
    **dict.fromkeys(
        ("export", "export-file", "get-user-env"), "jobs need the environment of the launch"
    ),
    **dict.fromkeys(("chdir", "workdir"), "jobs run where the launch was made"),
    **dict.fromkeys(
        ("parsable", "quiet", "test-only", "wait", "help", "usage", "version"),
        "it reads what sbatch prints",
    ),
    "wrap": "it writes the script",
    **dict.fromkeys(("clusters", "cluster", "uid", "gid"), "it asks squeue for your jobs here"),
}


@dataclass(frozen=True)
class Profile(Config):
    """Settings of every job of a launch. A key that is left out has the cluster's default."""

    # What a job may take: minutes, HH:MM:SS or D-HH:MM:SS. A cell that needs more continues in
    # the next job.
    time: Minutes
    mem_gb: PositiveFloat
    summary: str = ""
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    # With 1 or more, cells run on a GPU or fail.
    gpus: NonNegative = 0
    # Processes that train a cell together, each on its own GPU or sharing the CPUs.
    ranks: Positive = 1
    # CPUs of a job. The cells that run at once, and their ranks, share them as threads, unless
    # --threads says otherwise.
    cpus: Positive = 1
    # Jobs of an array that run at a time.
    array_parallelism: Positive = 100
    cells_per_job: Positive = 1
    # Cells of a job that run at once. They share its GPUs (one a rank), its memory and its CPUs.
    cells_at_once: Positive = 1
    # Examples at once in evaluation, unless --eval-batch says otherwise.
    eval_batch: Positive | None = None
    # False on clusters that forbid it: jobs are then submitted again.
    requeue: bool = True
    # Seconds of warning before the time is over: enough for one step and a checkpoint.
    signal_seconds: Positive = 90
    # How often a job may be requeued because its time was over.
    time_outs: NonNegative = 100
    # Lines of shell to run before Python starts, such as `module load cuda`.
    setup: tuple[Line, ...] = ()
    # None: the Python that submits.
    python: Line | None = None
    # What goes before Python, such as `apptainer exec --nv vlpeft.sif`.
    container: Line | None = None
    # Any other option of sbatch, such as `exclude: n7`.
    sbatch: dict[Word, Word | int | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_time()
        self._check_memory()
        self._check_processes()
        for name, value in self.sbatch.items():
            _check_option(name, value)

    def _check_time(self) -> None:
        if self.signal_seconds >= 60 * self.time:
            raise ValueError(
                f"signal_seconds: {self.signal_seconds} leaves nothing of the "
                f"{self.time} minutes of `time`"
            )

    def _check_memory(self) -> None:
        if self.mem_gb < LEAST_GB:
            raise ValueError(f"mem_gb: {self.mem_gb} is less than 1 MB; a cell needs about 1 GB")

    def _check_processes(self) -> None:
        if self.cells_at_once > self.cells_per_job:
            raise ValueError(
                f"cells_at_once: {self.cells_at_once} is more than the job's cells; "
                "set `cells_per_job` to at least that"
            )
        if self.gpus and self.ranks > self.gpus:
            raise ValueError(f"ranks: {self.ranks} need a GPU each, `gpus` asks for {self.gpus}")
        if self.gpus > self.ranks:
            raise ValueError(
                f"gpus: {self.gpus} for ranks: {self.ranks} leaves GPUs idle: each cell uses one "
                "a rank, the first ones of its job; "
                f"set `gpus: {self.ranks}`, or `ranks: {self.gpus}`"
            )
        if self.threads < 1:
            processes = self.ranks * self.cells_at_once
            raise ValueError(
                f"cpus: {self.cpus} is less than one for each of the {processes} processes "
                "that run at once"
            )

    @property
    def threads(self) -> int:
        """CPU threads of one process."""
        return self.cpus // (self.ranks * self.cells_at_once)

    def with_resources(self, resources: Mapping[str, JSON], where: str) -> Profile:
        """Return the profile for cells that need these `Resources`.

        Raises UserError, which begins with `where`, if they do not fit the other keys.
        """
        if not resources:
            return self
        changes = dict(resources)
        if changes.get("gpus", self.gpus) != self.gpus:
            changes["ranks"] = max(1, changes["gpus"])
        return parse(Profile, {**dump(self), **changes}, where)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of submitit's AutoExecutor."""
        names = ("partition", "account", "qos", "constraint", "array_parallelism")
        requeue = "requeue" if self.requeue else "no-requeue"
        return {
            "timeout_min": self.time,
            # Whole MB, rounded up, because submitit would round down.
            "mem_gb": math.ceil(self.mem_gb * 1024) / 1024,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus or None,
            "nodes": 1,
            "tasks_per_node": 1,
            "stderr_to_stdout": True,
            **{f"slurm_{name}": getattr(self, name) for name in names},
            "slurm_signal_delay_s": self.signal_seconds,
            "slurm_additional_parameters": {requeue: True, **self.sbatch},
        }


def _check_option(name: str, value: Word | int | bool) -> None:
    """Raise ValueError for an option that the launcher sets, in any spelling of it."""
    option = name.replace("_", "-")
    if not re.fullmatch(r"[a-z][a-z0-9-]+", option):
        raise ValueError(
            f"sbatch: {name}: write the long name of an option of sbatch, without dashes in "
            "front, such as `exclude`"
        )
    # sbatch accepts the beginning of a name in place of the name.
    meant = [each for each in (*KEYS, *RESERVED) if each.startswith(option)]
    for each in sorted(meant, key=len):
        if each in KEYS:
            raise ValueError(
                f"sbatch: {name}: write `{KEYS[each]}` next to `sbatch`; remove it here"
            )
        raise ValueError(f"sbatch: {name}: the launcher sets it: {RESERVED[each]}; remove it here")
    if value is False:
        raise ValueError(f"sbatch: {name}: false: sbatch has no such option; leave it out")


def profile_names() -> tuple[str, ...]:
    """Return the names of the shipped profiles."""
    return yaml_names(PROFILES)


def load_profile(name_or_path: str) -> Profile:
    """Read a shipped profile or the user's own file.

    Raises UserError naming the file, the key and the fix.
    """
    own = name_or_path.endswith(YAML)
    path = Path(name_or_path) if own else PROFILES / f"{name_or_path}.yaml"
    if not own and not path.exists():
        hint = did_you_mean(name_or_path, profile_names())
        raise UserError(
            f"--profile {name_or_path}: no shipped profile{hint}; or the path of your own YAML file"
        )
    return parse(Profile, load_yaml(path), str(path))
