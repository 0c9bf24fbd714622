"""Run a sweep's cells in jobs of a SLURM cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.core.words import count_cells
from vlpeft.benchmark.launch.screen import SweepProgress
from vlpeft.slurm.profiles import Profile


@dataclass(frozen=True)
class Slurm:
    """Runs cells in jobs of a SLURM cluster.

    sweep: as the user named it.
    """

    runtime: Any
    profile: Profile
    sweep: str
    detach: bool
    name: ClassVar[str] = "slurm"

    @property
    def waits(self) -> bool:
        """Whether the cells have ended after `run`."""
        return not self.detach

    def device(self) -> str:
        """Return the CPU: a login node may lack the GPUs of the jobs, which verify their own."""
        return "cpu"

    def run(self, cells: Sequence[Planned], root: Path, progress: SweepProgress) -> None:
        """Submit the cells that are in no job yet.

        Unless detached, wait for all cells, and submit those again that SLURM has lost. Raises
        UserError where weights are missing on this machine: jobs do not fetch any.
        """
        from vlpeft.slurm.supervise import Supervisor

        if not cells:
            return
        self._require_weights(cells)
        submitter, ids = self._submitter(root, cells), [cell.id for cell in cells]
        sent = submitter.submit(ids, forget=True)
        progress.line(f"{count_cells(sent)} submitted, {len(ids) - sent} were in the queue")
        if not self.detach:
            Supervisor(submitter, progress.watch).wait(ids)

    def dry_run(self, cells: Sequence[Planned], root: Path) -> str:
        """Return the script that would be submitted, and SLURM's answer to it."""
        self._require_weights(cells)
        text: str = self._submitter(root, cells).dry_run([cell.id for cell in cells])
        return text

    def _submitter(self, root: Path, cells: Sequence[Planned]) -> Any:
        from vlpeft.slurm.submit import Submitter

        own = {cell.id: self._profile_of(cell) for cell in cells if cell.resources}
        return Submitter.make(root, self.profile, self.runtime, Path(self.sweep).stem, own)

    def _profile_of(self, cell: Planned) -> Profile:
        """Return the profile with what a cell needs. Raises UserError if the two do not fit."""
        where = f"--profile with the resources of '{cell.row}' on '{cell.backbone}'"
        return self.profile.with_resources(cell.resources, where)

    def _require_weights(self, cells: Sequence[Planned]) -> None:
        from vlpeft.benchmark.plan.prefetch import require_weights

        require_weights((cell.cell for cell in cells), self.sweep)
