"""Ctrl-C while cells run on this machine: those in training are saved at that step; a second one stops at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from vlpeft.benchmark.cells.attempts import progress
from vlpeft.benchmark.cells.records import Store

SAVE_SECONDS = 60.0  # for the step that is on, and for writing


class Patience:
    """Keeps an interrupt that comes while a cell trains until the cell is saved; any other is raised."""

    def __init__(self) -> None:
        self.heard = self.training = False

    def is_asked(self) -> bool:
        """True once there was an interrupt."""
        return self.heard

    def watch(self, report: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
        """A progress function that also listens whether the cell trains."""

        def listen(phase: str, step: int, total: int) -> None:
            self.training = phase == "train"
            report(phase, step, total)

        return listen

    def handle_signal(self, _number: int, _frame: FrameType | None) -> None:
        """The handler of the signal."""
        if self.heard or not self.training:
            raise KeyboardInterrupt
        self.heard = True
        print_notice(1)


def run_interruptible(
    cell_id: str, root: Path, runtime: Any, report: Callable[[str, int, int], None]
) -> str:
    """`run_cell` in this process; raises KeyboardInterrupt once an interrupted cell is saved."""
    from vlpeft.benchmark.run.runner import Stopped, run_cell

    with _listening() as patience:
        try:
            return run_cell(cell_id, root, runtime, patience.watch(report), patience.is_asked)
        except Stopped as error:
            raise KeyboardInterrupt from error


@contextmanager
def _listening() -> Iterator[Patience]:
    """In the place of Python's own handler; where interrupts are ignored (nohup) or heard elsewhere, that stays so."""
    patience = Patience()
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield patience
        return
    signal.signal(signal.SIGINT, patience.handle_signal)
    try:
        yield patience
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def save(controllers: Iterable[int], ids: Sequence[str], root: Path) -> None:
    """Have the workers below these processes that train a cell save it and end; returns when they have, or after SAVE_SECONDS."""
    store, workers = Store(root), dict[int, psutil.Process]()
    for pid in controllers:
        with suppress(psutil.NoSuchProcess):
            workers |= {child.pid: child for child in psutil.Process(pid).children(recursive=True)}
    found = (progress(store, cell_id) for cell_id in ids)
    training = [
        workers[each.pid]
        for each in found
        if each is not None and each.phase == "train" and each.pid in workers
    ]
    if training:
        print_notice(len(training))
    for worker in training:
        with suppress(psutil.NoSuchProcess):
            worker.send_signal(signal.SIGTERM)
    psutil.wait_procs(training, timeout=SAVE_SECONDS)


def print_notice(cells: int) -> None:
    """What is going on, for the person who has pressed Ctrl-C."""
    print(
        f"vlpeft: saving {'the cell' if cells == 1 else f'{cells} cells'} in training; Ctrl-C again stops at once",
        file=sys.stderr,
    )
