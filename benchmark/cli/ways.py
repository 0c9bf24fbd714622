"""Choose the way to run a sweep's cells that `--on` names."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.launch.local import check_workers, default_workers
from vlpeft.benchmark.launch.ways import Inline, Local, Way
from vlpeft.slurm.profiles import load_profile
from vlpeft.slurm.way import Slurm

ONLY = {  # option -> the ways that it is for
    "profile": ("slurm",),
    "detach": ("slurm",),
    "dry_run": ("slurm",),
    "workers": ("local",),
    "ranks": ("inline", "local"),  # a profile says how many GPUs to ask for, and so how many ranks
}


def select_way(options: argparse.Namespace, runtime: Callable[[], Any]) -> Way:
    """The way that the options ask for. Raises UserError for options that do not belong to it."""
    for name, ways in ONLY.items():
        if getattr(options, name) and options.on not in ways:
            hint = "; write `ranks` into the profile" if name == "ranks" else ""
            raise UserError(
                f"--{name.replace('_', '-')} is for --on {' or '.join(ways)}, not for --on {options.on}{hint}"
            )
    if options.on == "slurm":
        if options.profile is None:
            raise UserError(
                "--on slurm needs --profile NAME or FILE.yaml; one_gpu is an example (see slurm/profiles)"
            )
        return Slurm(runtime(), load_profile(options.profile), options.sweep, options.detach)
    if options.on == "inline":
        return Inline(runtime())
    made = runtime()
    return Local(
        made,
        default_workers(made.ranks) if options.workers is None else check_workers(options.workers),
    )
