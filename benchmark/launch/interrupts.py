"""Ctrl-C while cells run on this machine.

The first one saves the cells in training at their current step; a second one stops at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from vlpeft.benchmark.cells.attempts import progress
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.terminal import print_message

SAVE_SECONDS = 60.0  # to finish the current step and to write


class Patience:
    """Holds back an interrupt that comes while a cell trains, until the cell is saved.

    At any other time an interrupt raises KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.received = False
        self.training = False

    def is_asked(self) -> bool:
        """Return whether there was an interrupt."""
        return self.received

    def watch(self, report: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
        """Return a progress function that also notes whether the cell trains."""

        def listen(phase: str, step: int, total: int) -> None:
            self.training = phase == "train"
            report(phase, step, total)

        return listen

    def handle_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Handle SIGINT."""
        if self.received or not self.training:
            raise KeyboardInterrupt
        self.received = True
        print_notice(1)


def run_interruptible(
    cell_id: str, root: Path, runtime: Any, report: Callable[[str, int, int], None]
) -> str:
    """Run a cell in this process. Raises KeyboardInterrupt once an interrupted cell is saved."""
    from vlpeft.benchmark.run.runner import Stopped, run_cell

    with _listening() as patience:
        try:
            return run_cell(cell_id, root, runtime, patience.watch(report), patience.is_asked)
        except Stopped as error:
            raise KeyboardInterrupt from error


@contextmanager
def _listening() -> Iterator[Patience]:
    """Handle SIGINT in place of Python's own handler.

    Where interrupts are ignored (nohup) or handled by other code, they stay so.
    """
    patience = Patience()
    if not _has_default_handler():
        yield patience
        return
    signal.signal(signal.SIGINT, patience.handle_signal)
    try:
        yield patience
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _has_default_handler() -> bool:
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def save(controllers: Iterable[int], ids: Sequence[str], root: Path) -> None:
    """Ask the workers of these controllers that train a cell to save it and end.

    Returns when they have ended, or after SAVE_SECONDS.
    """
    training = _training(_children(controllers), ids, Store(root))
    if training:
        print_notice(len(training))
    for worker in training:
        with suppress(psutil.NoSuchProcess):
            worker.send_signal(signal.SIGTERM)
    psutil.wait_procs(training, timeout=SAVE_SECONDS)


def _children(controllers: Iterable[int]) -> dict[int, psutil.Process]:
    found = dict[int, psutil.Process]()
    for pid in controllers:
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(pid).children(recursive=True)
            found |= {child.pid: child for child in children}
    return found


def _training(
    workers: dict[int, psutil.Process], ids: Sequence[str], store: Store
) -> list[psutil.Process]:
    found = []
    for cell_id in ids:
        where = progress(store, cell_id)
        if where is not None and where.phase == "train" and where.pid in workers:
            found.append(workers[where.pid])
    return found


def print_notice(cells: int) -> None:
    """Print, for the person who pressed Ctrl-C, what happens now."""
    what = "the cell" if cells == 1 else f"{cells} cells"
    print_message(f"vlpeft: saving {what} in training; Ctrl-C again stops at once")
