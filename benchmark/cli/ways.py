"""Choose the way to run a sweep's cells, which `--on` names."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.launch.local import check_workers, default_workers
from vlpeft.benchmark.launch.ways import Inline, Local, Way
from vlpeft.slurm.profiles import load_profile
from vlpeft.slurm.way import Slurm

# Each option, and the ways that it is for. On a cluster the profile says how many GPUs to ask
# for, and so how many ranks.
ONLY = {
    "profile": ("slurm",),
    "detach": ("slurm",),
    "dry_run": ("slurm",),
    "workers": ("local",),
    "ranks": ("inline", "local"),
}


def select_way(options: argparse.Namespace, runtime: Callable[[], Any]) -> Way:
    """Return the way that the options ask for.

    Args:
        options: The options of `sweep` or `retry`.
        runtime: Reads how cells run; it is called once the options are known to fit.

    Raises:
        UserError: For options that are for another way, a missing profile, or a number of
            workers that this machine cannot run.
    """
    _check_options(options)
    if options.on == "slurm":
        return Slurm(runtime(), load_profile(options.profile), options.sweep, options.detach)
    if options.on == "inline":
        return Inline(runtime())
    made = runtime()
    if options.workers is None:
        return Local(made, default_workers(made.ranks, made.torch_device().type))
    return Local(made, check_workers(options.workers))


def _check_options(options: argparse.Namespace) -> None:
    """Raise UserError for options that are for another way, and for a missing profile."""
    for name, ways in ONLY.items():
        given = getattr(options, name)
        if given is not None and given is not False and options.on not in ways:
            hint = ""
            if name == "ranks":
                hint = "; write `ranks` into the profile"
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{option} is for --on {' or '.join(ways)}, not for --on {options.on}{hint}"
            )
    if options.on == "slurm" and options.profile is None:
        raise UserError(
            "--on slurm needs --profile NAME or FILE.yaml; one_gpu is an example "
            "(see slurm/profiles)"
        )
