"""The progress of cells and sweeps, on the screen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.progress import TaskID

from vlpeft.benchmark.cells.attempts import AttemptProgress, progress
from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.words import count_cells
from vlpeft.benchmark.run.screen import Bars, PhaseProgress

QUIET_SECONDS = 60.0  # a log without new lines for so long gets one about the cells at work
NAMED_CELLS = 4  # in such a line; the others are counted


class CellProgress(PhaseProgress):
    """The progress of one cell run in this process; `run_cell` calls it."""

    def __init__(self, cell: Planned) -> None:
        super().__init__(cell_title(cell))


class SweepProgress(Bars):
    """The progress of a sweep: how many cells are done, and how far the running ones are."""

    def __init__(self, plan: Plan, cells: Sequence[Planned], root: Path) -> None:
        super().__init__()
        self.store = Store(root)
        self.sweep = plan.sweep
        self.waiting = list(cells)
        self.running = dict[str, TaskID]()
        self.total = len(plan.runnable())
        self.done = self.total - len(cells)
        self.bar = self.add(plan.sweep, self.total, self.done)
        self.last_line = time.monotonic()
        skipped = len(plan.cells) - self.total
        self.line(
            f"{plan.sweep}: {count_cells(self.total)}, {self.done} done before, "
            f"{len(cells)} to run; {skipped} skipped (see `vlpeft plan`)"
        )

    def watch(self) -> None:
        """Look at the result folder and show what has changed."""
        for cell in [cell for cell in self.waiting if self._has_ended(cell)]:
            self._end(cell)
        if self.live:
            for cell, where in self._at_work():
                self._show(cell, where.phase, where.step, where.total)
        self._break_silence()
        self.bars.update(self.bar, completed=self.done)

    def watch_cell(self, cell: Planned, phase: str, step: int, total: int) -> None:
        """Show the progress of a cell that runs in this process."""
        self._show(cell, phase, step, total)
        self._break_silence()

    def _end(self, cell: Planned) -> None:
        self.waiting.remove(cell)
        self.done += 1
        if cell.id in self.running:
            self.bars.remove_task(self.running.pop(cell.id))
        state = "done" if self.store.has_record(cell.id) else "FAILED"
        self.line(f"[{self.done}/{self.total}] {state} {cell.id} {cell_title(cell)}")
        self.last_line = time.monotonic()

    def _at_work(self) -> Iterator[tuple[Planned, AttemptProgress]]:
        """Yield the cells that have begun and not ended, with where they are."""
        for cell in self.waiting:
            where = progress(self.store, cell.id)
            if where is not None:
                yield cell, where

    def _break_silence(self) -> None:
        """Print where some of the cells are, to a log without a new line for a minute."""
        if self.live or time.monotonic() - self.last_line < QUIET_SECONDS:
            return
        self.last_line = time.monotonic()
        alive = [(cell, where) for cell, where in self._at_work() if self._is_alive(cell, where)]
        texts = [
            f"{where.phase} {where.step}/{where.total} {cell_title(cell)}"
            for cell, where in alive[:NAMED_CELLS]
        ]
        if len(alive) > NAMED_CELLS:
            texts.append(f"{len(alive) - NAMED_CELLS} more")
        self.line(f"[{self.done}/{self.total}] at work: {'; '.join(texts) or 'none yet'}")

    def _is_alive(self, cell: Planned, where: AttemptProgress) -> bool:
        """Return whether the cell has reported lately or holds its lock.

        To compute features may take an hour without a report.
        """
        if time.time() - where.updated < 2 * QUIET_SECONDS:
            return True
        return self.store.is_held(cell.id)

    def _show(self, cell: Planned, phase: str, step: int, total: int) -> None:
        # The terminal may cut the end, so the phase comes first.
        where = f"{cell.row} | {cell.backbone} | {cell.task}/{cell.dataset}"
        text = f"  {phase}: seed {cell.seed} | {where}"
        if cell.id not in self.running:
            self.running[cell.id] = self.add(text, total)
        self.move(self.running[cell.id], text, step, total)

    def _has_ended(self, cell: Planned) -> bool:
        folder = self.store.folder(cell.id)
        return (folder / "record.json").exists() or (folder / "failure.json").exists()


def cell_title(cell: Planned) -> str:
    """Return one line that names a cell."""
    return f"{cell.row} | {cell.backbone} | {cell.task}/{cell.dataset} | seed {cell.seed}"
