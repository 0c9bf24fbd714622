"""Start a command, end it in the ways in which it may end, and find what it has left."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "VLPEFT_TEST_MARK"  # a variable that all processes of a command inherit


class Started:
    """A command in a session of its own, with a terminal or a file for its output."""

    def __init__(
        self, command: Sequence[str], log: Path, variables: Mapping[str, str], *, terminal: bool
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.master = -1
        target = log.open("wb")
        source: int = subprocess.DEVNULL
        if terminal:
            self.master, source = pty.openpty()
            self.closing = threading.Event()
            self.reader = threading.Thread(target=self._copy, args=(log,), daemon=True)
            self.reader.start()
        self.process = subprocess.Popen(
            command,
            stdin=source,
            stdout=source if terminal else target,
            stderr=source if terminal else target,
            env={**os.environ, **variables, MARK: self.mark},
            start_new_session=True,
            preexec_fn=_take_terminal if terminal else _reset_signals,  # noqa: PLW1509
        )
        target.close()
        if terminal:
            os.close(source)

    def end(self, kind: str) -> None:
        """End the command by a signal to it or to its group, or by closing its terminal."""
        if kind == "terminal":
            self._close_terminal()
        elif kind.startswith("group "):
            os.killpg(self.process.pid, signal.Signals[kind.removeprefix("group ")])
        else:
            self.process.send_signal(signal.Signals[kind])

    def left(self) -> list[psutil.Process]:
        """Return the processes that the command has started and that still run."""
        self.process.poll()
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def is_gone_within(self, seconds: float) -> bool:
        """Wait until no process is left; return whether that was so in time."""
        return wait_until(lambda: not self.left(), seconds)

    def clean_up(self) -> None:
        """Kill what is left."""
        for process in self.left():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        if self.master >= 0:
            self._close_terminal()

    def _copy(self, log: Path) -> None:
        """Read the terminal until it is closed: a full buffer would block the command."""
        with log.open("wb", buffering=0) as file, suppress(OSError):
            while not self.closing.is_set():
                if select.select([self.master], [], [], 0.05)[0]:
                    file.write(os.read(self.master, 2**16))

    def _close_terminal(self) -> None:
        """Close the terminal, which hangs up on the command.

        The system waits with that for a thread that reads, so the reader ends first.
        """
        self.closing.set()
        self.reader.join()
        os.close(self.master)
        self.master = -1

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return process.environ().get(MARK) == self.mark
        except psutil.Error:
            return False


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Return whether a condition became true in time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _reset_signals() -> None:
    """Hear interrupts even if the tests run with them ignored (nohup)."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _take_terminal() -> None:
    _reset_signals()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
