"""The ways to run a sweep's cells, as `--on` names them: in this process, in local workers, on a SLURM cluster."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmark.cell import Planned
from benchmark.errors import UserError
from benchmark.progress import SweepProgress
from slurm.launcher import check_workers, clear_failures, default_workers, launch_inline, launch_local, wait_for_others
from slurm.profiles import Profile, load_profile

ONLY = {  # option -> the ways that it is for
    "profile": ("slurm",),
    "detach": ("slurm",),
    "dry_run": ("slurm",),
    "workers": ("local",),
    "ranks": ("inline", "local"),  # a profile says how many GPUs to ask for, and so how many ranks
}


class Way(Protocol):
    """Runs cells and returns when they have ended, or, told to, when they are submitted."""

    def run(self, cells: Sequence[Planned], root: Path, progress: SweepProgress) -> None:
        """Run them. Raises UserError where it cannot begin."""


@dataclass(frozen=True)
class Inline:
    """One after another in this process."""

    runtime: Any

    def run(self, cells: Sequence[Planned], root: Path, progress: SweepProgress) -> None:
        """Run them."""
        clear_failures([cell.id for cell in cells], root)
        launch_inline(cells, root, self.runtime, progress.watch_cell, progress.watch)
        wait_for_others(cells, root, progress.watch)


@dataclass(frozen=True)
class Local:
    """In worker processes on this machine."""

    runtime: Any
    workers: int

    def run(self, cells: Sequence[Planned], root: Path, progress: SweepProgress) -> None:
        """Run them."""
        clear_failures([cell.id for cell in cells], root)
        if cells:
            launch_local(cells, root, self.runtime, self.workers, progress.watch)
        wait_for_others(cells, root, progress.watch)


@dataclass(frozen=True)
class Slurm:
    """In jobs of a SLURM cluster."""

    runtime: Any
    profile: Profile
    sweep: str  # as it was given
    detach: bool

    def run(self, cells: Sequence[Planned], root: Path, progress: SweepProgress) -> None:
        """Submit what no job has yet; unless detached, wait for all and submit again what SLURM has lost.

        Raises UserError where weights are not on this machine: jobs do not fetch any.
        """
        from slurm.supervise import Supervisor

        if not cells:
            return
        self._require_weights(cells)
        submitter, ids = self._submitter(root), [cell.id for cell in cells]
        sent = submitter.submit(ids, afresh=True)
        progress.line(f"{sent} cells submitted, {len(ids) - sent} were in the queue")
        if not self.detach:
            Supervisor(submitter, progress.watch).wait(ids)

    def dry_run(self, cells: Sequence[Planned], root: Path) -> str:
        """The script that would be submitted, and what SLURM says to it."""
        self._require_weights(cells)
        text: str = self._submitter(root).dry_run([cell.id for cell in cells])
        return text

    def _submitter(self, root: Path) -> Any:
        from slurm.submit import Submitter

        return Submitter.make(root, self.profile, self.runtime, Path(self.sweep).stem)

    def _require_weights(self, cells: Sequence[Planned]) -> None:
        from benchmark.prefetch import require_weights

        require_weights((cell.cell for cell in cells), self.sweep)


def select_way(options: argparse.Namespace, runtime: Callable[[], Any]) -> Way:
    """The way that the options ask for. Raises UserError for options that do not belong to it."""
    for name, ways in ONLY.items():
        if getattr(options, name) and options.on not in ways:
            hint = "; write `ranks` into the profile" if name == "ranks" else ""
            raise UserError(f"--{name.replace('_', '-')} is for --on {' or '.join(ways)}, not for --on {options.on}{hint}")
    if options.on == "slurm":
        if options.profile is None:
            raise UserError("--on slurm needs --profile NAME or FILE.yaml; one_gpu is an example (see slurm/profiles)")
        return Slurm(runtime(), load_profile(options.profile), options.sweep, options.detach)
    if options.on == "inline":
        return Inline(runtime())
    made = runtime()
    return Local(made, default_workers(made.ranks) if options.workers is None else check_workers(options.workers))
