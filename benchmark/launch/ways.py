"""The ways to run a sweep's cells, as `--on` names them: in this process, in local workers, on a SLURM cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.launch.local import (
    clear_failures,
    launch_inline,
    launch_local,
    wait_for_others,
)
from vlpeft.benchmark.launch.screen import SweepProgress


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
