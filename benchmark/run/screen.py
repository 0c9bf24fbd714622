"""Progress of running cells: bars on a terminal, plain lines when piped."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from vlpeft.benchmark.libraries.rich import TimeLeft


class Bars:
    """A rich display on stderr that is silent when piped."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        label = TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        )
        numbers = (
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TimeLeft(),
        )
        self.live = console.is_terminal
        # Of a narrow terminal the label takes what is left, so that the numbers stay.
        self.bars = Progress(
            label,
            BarColumn(bar_width=12),
            *numbers,
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
        """A line for logs: on stderr, so that stdout holds results only."""
        if not self.live:
            print(text, file=sys.stderr, flush=True)


class PhaseProgress(Bars):
    """Progress of one thing that goes through phases."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.phase = name, ""
        self.bar = self.bars.add_task(self.name, total=None)

    def __call__(self, phase: str, step: int, total: int | None) -> None:
        """`step` of `total` (None: nobody knows) of a phase is done."""
        self.bars.update(self.bar, description=f"{phase} {self.name}", completed=step, total=total)
        tenth = max(1, total // 10) if total else 1000
        if phase != self.phase or step % tenth == 0:
            self.line(f"{self.name}: {phase} {step}/{'?' if total is None else total}")
            self.phase = phase
