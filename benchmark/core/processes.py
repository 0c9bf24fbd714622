"""How processes end: by which signals, and together with the process that started them."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType, TracebackType

# A closed terminal sends SIGHUP; `kill`, service managers and batch systems send SIGTERM.
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
STARTER = "VLPEFT_STARTER"  # the process that a command must not outlive
POLL_SECONDS = 0.5
UNWRITTEN = 120  # Python's own exit code if its output could not be written
SLOW_EXIT = "VLPEFT_SLOW_EXIT"  # set it for profilers that write when Python ends
PR_SET_PDEATHSIG = 1  # of prctl(2)


class QuickExit:
    """A context for a whole program. It makes `sys.exit` leave the memory to the system.

    Python frees the modules of torch and transformers one by one, which takes about two seconds.
    As always, threads are waited for first, and functions of `atexit` run if they were registered
    inside this context. An error that nobody catches ends the program in the usual way.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        atexit.register(self._end)  # the first to be registered runs last

    def __enter__(self) -> None:
        """Begin the program."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Note the exit code."""
        if isinstance(error, SystemExit) and isinstance(error.code, int | None):
            self.code = error.code or 0

    def _end(self) -> None:
        if self.code is None or os.environ.get(SLOW_EXIT):
            return
        code = self.code
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # ValueError: it is closed
                code = UNWRITTEN
        os._exit(code)


class EndSignals:
    """A handler that turns the first of END_SIGNALS into KeyboardInterrupt.

    More of them are ignored. A closed terminal often sends two, and the second must not stop what
    the first has begun to save.
    """

    def __init__(self) -> None:
        self.replaced = [n for n in END_SIGNALS if signal.getsignal(n) is signal.SIG_DFL]
        for number in self.replaced:
            signal.signal(number, self)

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        for number in self.replaced:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    def restore(self) -> None:
        """Let the signals end this process again."""
        for number in self.replaced:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def interrupt_at_end_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt for SIGTERM and SIGHUP inside this context.

    A signal that is ignored (SIGHUP under nohup) or handled by other code stays so. Python handles
    signals in the main thread only, so in other threads this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = EndSignals()
    try:
        yield
    finally:
        handler.restore()


@contextmanager
def ignore_end_signals() -> Iterator[None]:
    """Ignore SIGTERM and SIGHUP inside this context: what they ask for is being done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # EndSignals would interrupt a second time; None was not set by Python.
            if handler is not None and not isinstance(handler, EndSignals):
                signal.signal(number, handler)


def end_with_parent() -> None:
    """End this process when the process that started it through multiprocessing ends.

    multiprocessing ends its processes only if the parent exits in order, and not if it is killed.
    """
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def starter_variables() -> Mapping[str, str]:
    """Return the environment of a command that must not outlive this process."""
    return {**os.environ, STARTER: str(os.getpid())}


def end_with_starter() -> None:
    """Interrupt this process when the process that `starter_variables` named is gone."""
    starter = os.environ.pop(STARTER, "")
    if starter:
        threading.Thread(target=_wait_for_starter, args=(int(starter),), daemon=True).start()


def _wait_for_starter(starter: int) -> None:
    while os.getppid() == starter:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def continue_without_parent() -> None:
    """Let this process continue, if it is suspended, when its parent ends (Linux only).

    A suspended process would otherwise never notice it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGCONT), 0, 0, 0)


def describe_end(code: int | None) -> str:
    """Describe the exit code of a process; a negative one is the number of a signal."""
    if code is None or code >= 0:
        return f"exited without an error message (exit code {code})"
    name = signal.Signals(-code).name
    if code == -signal.SIGKILL:
        return f"was killed by {name} (out of memory?)"
    return f"was killed by {name}"
