"""Progress of cells and sweeps, on the screen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import TaskID

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store, read_json
from vlpeft.benchmark.run.screen import Bars, PhaseProgress

TOLD_EVERY = (
    60.0  # seconds between two lines about cells at work, for logs that would be silent for hours
)
TOLD_AT_ONCE = 4  # of the cells at work, in one such line


class CellProgress(PhaseProgress):
    """Progress of one cell run in this process; what run_cell calls."""

    def __init__(self, cell: Planned) -> None:
        super().__init__(cell_title(cell))


class SweepProgress(Bars):
    """Progress of a sweep: how many cells are done, and where the running ones are."""

    def __init__(self, plan: Plan, cells: Sequence[Planned], root: Path) -> None:
        super().__init__()
        self.store, self.waiting, self.running = Store(root), list(cells), dict[str, TaskID]()
        runnable = len(plan.runnable())
        self.done, self.total = runnable - len(cells), runnable
        self.bar = self.bars.add_task(
            plan.sweep, total=runnable, completed=self.done, before=self.done
        )
        skipped = len(plan.cells) - runnable
        self.told = time.monotonic()
        self.line(
            f"{plan.sweep}: {runnable} cells, {self.done} done before, {len(cells)} to run; {skipped} skipped (see `vlpeft plan`)"
        )

    def watch(self) -> None:
        """Look at the result folder and show what has changed."""
        ended = [cell for cell in self.waiting if self._ended(cell)]
        for cell in ended:
            self.waiting.remove(cell)
            self.done += 1
            if cell.id in self.running:
                self.bars.remove_task(self.running.pop(cell.id))
            state = "done" if self.store.has_record(cell.id) else "FAILED"
            self.line(f"[{self.done}/{self.total}] {state} {cell.id} {cell_title(cell)}")
            self.told = time.monotonic()
        if self.live:
            for cell, where in self._at_work():
                self._show(cell, where["phase"], where["step"], where["total"])
        self._tell()
        self.bars.update(self.bar, completed=self.done)

    def _at_work(self) -> Iterator[tuple[Planned, dict[str, Any]]]:
        """Cells that have begun and not ended, with where they are."""
        for cell in self.waiting:
            where = read_json(self.store.folder(cell.id) / "progress.json")
            if where is not None:
                yield cell, where

    def _tell(self) -> None:
        """For a log that has heard nothing for a minute: where some of the cells at work are."""
        if self.live or time.monotonic() - self.told < TOLD_EVERY:
            return
        self.told = time.monotonic()
        alive = [(cell, where) for cell, where in self._at_work() if self._alive(cell, where)]
        said = [
            f"{where['phase']} {where['step']}/{where['total']} {cell_title(cell)}"
            for cell, where in alive[:TOLD_AT_ONCE]
        ]
        more = [f"{len(alive) - TOLD_AT_ONCE} more"] if len(alive) > TOLD_AT_ONCE else []
        self.line(f"[{self.done}/{self.total}] at work: {'; '.join(said + more) or 'none yet'}")

    def _alive(self, cell: Planned, where: Mapping[str, Any]) -> bool:
        """Whether it has told something of late, or is still held: computing features may take an hour without a word."""
        return time.time() - where["updated"] < 2 * TOLD_EVERY or self.store.is_held(cell.id)

    def watch_cell(self, cell: Planned, phase: str, step: int, total: int) -> None:
        """The same for a cell that runs in this process."""
        self._show(cell, phase, step, total)
        self._tell()

    def _show(self, cell: Planned, phase: str, step: int, total: int) -> None:
        text = f"  {phase}: seed {cell.seed} | {cell.row} | {cell.backbone} | {cell.task}/{cell.dataset}"  # may be cut at the end
        if cell.id not in self.running:
            self.running[cell.id] = self.bars.add_task(text)
        self.bars.update(self.running[cell.id], description=text, completed=step, total=total)

    def _ended(self, cell: Planned) -> bool:
        folder = self.store.folder(cell.id)
        return (folder / "record.json").exists() or (folder / "failure.json").exists()


def cell_title(cell: Planned) -> str:
    """One line that names a cell."""
    return f"{cell.row} | {cell.backbone} | {cell.task}/{cell.dataset} | seed {cell.seed}"
