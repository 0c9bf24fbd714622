"""Profiles: what a cluster is asked for, as a YAML of checked settings. Shipped ones are examples to copy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vlpeft.benchmark.core.config import (
    Config,
    NonNegative,
    Positive,
    PositiveFloat,
    load_yaml,
    parse,
)
from vlpeft.benchmark.core.errors import UserError, did_you_mean

PROFILES = Path(__file__).resolve().parent / "profiles"
Word = Annotated[
    str, Field(pattern=r"^[^\s]+$")
]  # one word: it goes into a line of the sbatch script
Line = Annotated[str, Field(pattern=r"^[^\n]+$")]


# Options of sbatch that `sbatch:` may not set: key of the profile that does, or "" for what the launcher counts on.
OWN = {
    **{name: name for name in ("partition", "account", "qos", "constraint", "time")},
    "mem": "mem_gb",
    "cpus-per-task": "cpus",
    "requeue": "requeue",
    "no-requeue": "requeue",
    **dict.fromkeys(
        (
            "array",
            "output",
            "error",
            "open-mode",
            "job-name",
            "nodes",
            "ntasks",
            "ntasks-per-node",
            "wait",
        ),
        "",
    ),
}


@dataclass(frozen=True)
class Profile(Config):
    """Settings of every job of a launch. What is left out is the cluster's default."""

    time: Positive  # minutes a job may take; a cell that takes longer goes on in the next one
    mem_gb: PositiveFloat
    summary: str = ""
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    gpus: NonNegative = 0  # with 1 or more, cells run on the GPU or fail
    ranks: Positive = 1  # processes that train a cell together: on a GPU each, or sharing the CPUs
    cpus: Positive = 1  # of a job; the cells that run at once and their ranks share them as threads, unless --threads says otherwise
    array_parallelism: Positive = 100  # jobs of an array at a time
    cells_per_job: Positive = 1
    cells_at_once: Positive = (
        1  # of a job's cells; they share its GPUs (each uses one a rank), its memory and its CPUs
    )
    requeue: bool = True  # false where the cluster forbids it: jobs are then submitted anew
    signal_seconds: Positive = (
        90  # warning before the time is over: enough for one step and a checkpoint
    )
    time_outs: NonNegative = 100  # how often a job may be requeued for want of time
    setup: tuple[Line, ...] = ()  # lines of shell before Python starts, such as `module load cuda`
    python: Line | None = None  # None: the Python that submits
    container: Line | None = (
        None  # what goes before Python, such as `apptainer exec --nv vlpeft.sif`
    )
    sbatch: dict[Word, Word | int | bool] = field(
        default_factory=dict
    )  # any other option of sbatch, such as `exclude: n7`

    def __post_init__(self) -> None:
        if self.signal_seconds >= 60 * self.time:
            raise ValueError(
                f"signal_seconds: {self.signal_seconds} leaves nothing of the {self.time} minutes of `time`"
            )
        if self.cells_at_once > self.cells_per_job:
            raise ValueError(
                f"cells_at_once: {self.cells_at_once} is more than the job's cells; set `cells_per_job` to at least that"
            )
        if self.gpus and self.ranks > self.gpus:
            raise ValueError(f"ranks: {self.ranks} need a GPU each, `gpus` asks for {self.gpus}")
        if self.gpus > self.ranks:
            idle = f"gpus: {self.gpus} for ranks: {self.ranks} leaves GPUs idle: each cell uses one a rank, the first ones of its job"
            raise ValueError(f"{idle}; set `gpus: {self.ranks}`, or `ranks: {self.gpus}`")
        if self.threads < 1:
            processes = self.ranks * self.cells_at_once
            raise ValueError(
                f"cpus: {self.cpus} is less than one for each of the {processes} processes that run at once"
            )
        for name, value in self.sbatch.items():
            key = OWN.get(name.replace("_", "-"))
            if key is not None:
                raise ValueError(
                    f"sbatch: {name}: {f'write `{key}` beside `sbatch`' if key else 'the launcher sets it'}; remove it here"
                )
            if value is False:
                raise ValueError(f"sbatch: {name}: false: sbatch has no such option; leave it out")

    @property
    def threads(self) -> int:
        """CPU threads of one process."""
        return self.cpus // (self.ranks * self.cells_at_once)

    def parameters(self) -> dict[str, Any]:
        """What submitit's AutoExecutor is told."""
        names = ("partition", "account", "qos", "constraint", "array_parallelism")
        return {
            "timeout_min": self.time,
            "mem_gb": self.mem_gb,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus or None,
            "nodes": 1,
            "tasks_per_node": 1,
            "stderr_to_stdout": True,
            **{f"slurm_{name}": getattr(self, name) for name in names},
            "slurm_signal_delay_s": self.signal_seconds,
            "slurm_additional_parameters": {
                "requeue" if self.requeue else "no-requeue": True,
                **self.sbatch,
            },
        }


def profile_names() -> list[str]:
    """The shipped profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name_or_path: str) -> Profile:
    """A shipped profile, or one's own file. Raises UserError naming the file, the key and the fix."""
    own = name_or_path.endswith((".yaml", ".yml"))
    path = Path(name_or_path) if own else PROFILES / f"{name_or_path}.yaml"
    if not own and not path.exists():
        hint = did_you_mean(name_or_path, profile_names())
        raise UserError(
            f"--profile {name_or_path}: no shipped profile{hint}; or the path of your own YAML file"
        )
    return parse(Profile, load_yaml(path), str(path))
