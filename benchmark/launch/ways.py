"""The ways to run a sweep's cells on this machine. `--on` names them: inline, local."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.launch.local import (
    clear_failures,
    launch_inline,
    launch_local,
    wait_for_others,
)
from vlpeft.benchmark.launch.screen import SweepProgress


class Way(Protocol):
    """A way to run cells, as a dataclass with a field `runtime`.

    name: as `--on` has it.
    waits: whether `run` returns when the cells have ended. If not, they are only submitted.
    """

    @property
    def name(self) -> str:
        """The name."""

    @property
    def runtime(self) -> Any:
        """How cells run: a `Runtime`."""

    @property
    def waits(self) -> bool:
        """Whether the cells have ended after `run`."""

    def device(self) -> str:
        """Return the type of the device to verify here before cells run."""

    def run(self, cells: Sequence[Planned], root: Path, progress: SweepProgress) -> None:
        """Run the cells. Raises UserError if it cannot begin."""


@dataclass(frozen=True)
class Inline:
    """Run cells one after another in this process."""

    runtime: Any
    name: ClassVar[str] = "inline"
    waits: ClassVar[bool] = True

    def device(self) -> str:
        """Return the device of the cells."""
        found: str = self.runtime.torch_device().type
        return found

    def run(self, cells: Sequence[Planned], root: Path, progress: SweepProgress) -> None:
        """Run the cells."""
        clear_failures([cell.id for cell in cells], root)
        launch_inline(cells, root, self.runtime, progress.watch_cell, progress.watch)
        wait_for_others(cells, root, progress.watch)


@dataclass(frozen=True)
class Local:
    """Run cells in worker processes on this machine."""

    runtime: Any
    workers: int
    name: ClassVar[str] = "local"
    waits: ClassVar[bool] = True

    def device(self) -> str:
        """Return the device of the cells."""
        found: str = self.runtime.torch_device().type
        return found

    def run(self, cells: Sequence[Planned], root: Path, progress: SweepProgress) -> None:
        """Run the cells."""
        clear_failures([cell.id for cell in cells], root)
        if cells:
            launch_local(cells, root, self.runtime, self.workers, progress.sweep, progress.watch)
        wait_for_others(cells, root, progress.watch)
