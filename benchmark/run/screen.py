"""Progress of running cells: bars on a terminal, plain lines when piped."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

from vlpeft.benchmark.core.libraries.rich import TimeLeft
from vlpeft.benchmark.core.terminal import escape, print_message


class Bars:
    """A rich display on stderr that is silent when piped."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        # In a narrow terminal the label is cut, so that the numbers stay readable.
        cut = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self.live = console.is_terminal
        self.bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=cut),
            BarColumn(bar_width=12),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TimeLeft(),
            console=console,
            disable=not self.live,
            transient=True,
            expand=True,
        )

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def line(self, text: str) -> None:
        """Print a line for logs, on stderr: stdout holds results only."""
        if not self.live:
            print_message(text)

    def add(self, text: str, total: int | None, before: int | None = None) -> TaskID:
        """Add a bar, of which `before` was done in an earlier run.

        Labels and names of a sweep's file cannot act on the terminal.
        """
        if before is None:
            return self.bars.add_task(escape(text), total=total)
        return self.bars.add_task(escape(text), total=total, completed=before, before=before)

    def move(self, bar: TaskID, text: str, completed: int, total: int | None) -> None:
        """Move a bar, and change its text."""
        self.bars.update(bar, description=escape(text), completed=completed, total=total)


class PhaseProgress(Bars):
    """Progress of one thing that goes through phases."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.phase = name, ""
        self.bar = self.add(self.name, total=None)

    def __call__(self, phase: str, step: int, total: int | None) -> None:
        """Show that `step` of `total` steps of a phase are done; None is an unknown total."""
        self.move(self.bar, f"{phase} {self.name}", step, total)
        # Ten lines a phase are enough for a log; without a total, one for every 1000 steps.
        tenth = max(1, total // 10) if total else 1000
        if phase != self.phase or step % tenth == 0:
            shown = "?" if total is None else total
            self.line(f"{self.name}: {phase} {step}/{shown}")
            self.phase = phase
