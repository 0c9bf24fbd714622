"""Ctrl-C, SIGTERM and a closed terminal while cells run on this machine.

The first signal saves the cells in training at their current step. A second Ctrl-C stops at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from vlpeft.benchmark.cells.attempts import progress
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.processes import END_SIGNALS, EndSignals, ignore_end_signals
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

    def handle_signal(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal. Only Ctrl-C is a wish to stop at once if it comes again."""
        if not self.training:
            raise KeyboardInterrupt
        if not self.received:
            self.received = True
            print_notice(1)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


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
    """Handle the signals that would interrupt this process.

    Where they are ignored (nohup) or handled by other code, they stay so.
    """
    patience = Patience()
    before = {}
    for number in (signal.SIGINT, *END_SIGNALS):
        if _would_interrupt(number):
            before[number] = signal.signal(number, patience.handle_signal)
    try:
        yield patience
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _would_interrupt(number: signal.Signals) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    handler = signal.getsignal(number)
    if number == signal.SIGINT:
        return handler is signal.default_int_handler
    return handler is signal.SIG_DFL or isinstance(handler, EndSignals)


def save(pids: Collection[int], ids: Sequence[str], root: Path) -> None:
    """Ask these workers to end, and to save first what they train.

    Returns when they have ended, or after SAVE_SECONDS.
    """
    if training := _count_training(pids, ids, Store(root)):
        print_notice(training)
    workers = []
    with ignore_end_signals():
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                worker = psutil.Process(pid)
                worker.send_signal(signal.SIGTERM)
                worker.send_signal(signal.SIGCONT)  # it may be suspended
                workers.append(worker)
        psutil.wait_procs(workers, timeout=SAVE_SECONDS)


def _count_training(pids: Collection[int], ids: Sequence[str], store: Store) -> int:
    """Return how many of these workers train a cell."""
    found = [progress(store, cell_id) for cell_id in ids]
    return sum(
        where is not None and where.phase == "train" and where.pid in pids for where in found
    )


def print_notice(cells: int) -> None:
    """Print, for the person who pressed Ctrl-C, what happens now."""
    what = "the cell" if cells == 1 else f"{cells} cells"
    with suppress(OSError):  # the terminal may be closed; the cells must still be saved
        print_message(f"vlpeft: saving {what} in training; Ctrl-C again stops at once")
