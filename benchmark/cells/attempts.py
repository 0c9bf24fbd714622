"""What running and failed attempts leave next to a cell: progress.json and failure.json.

Nothing here needs torch, so `vlpeft status` is fast and works on a login node.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.core.config import Config, dump, parse
from vlpeft.benchmark.core.files import read_json, to_json, write_quickly

DIVERGED = "diverged"  # the cause of a failure: a loss or a weight is not finite
T = TypeVar("T")
ReportProgress = Callable[[str, int, int], None]  # phase, step, total
EVERY_SECONDS = 1.0
HOST = platform.node()


@dataclass(frozen=True)
class AttemptProgress(Config):
    """progress.json: how far a running attempt is.

    Attributes:
        step: Steps done in this phase, of `total`.
        phase: Such as "train" or "evaluate".
        updated: When this was written, in Unix time.
        pid: The process that runs the cell.
        left: Seconds until the phase ends at its present pace; None if the pace is unknown.
        host: The machine of the process; "" in files of older versions.
    """

    step: int
    total: int
    phase: str
    updated: float
    pid: int
    left: float | None = None
    host: str = ""


@dataclass(frozen=True)
class Failure(Config):
    """failure.json: why the last attempt failed; `user` if the user can fix it.

    log: of a process that could not report its end itself; otherwise "".
    """

    cause: str
    message: str
    user: bool
    log: str = ""

    @property
    def reason(self) -> str:
        """Cause and message."""
        return f"{self.cause}: {self.message}"


def unwatched(phase: str, step: int, total: int) -> None:
    """Ignore progress that nobody follows."""
    del phase, step, total


def reporter(folder: Path, progress: ReportProgress) -> ReportProgress:
    """Return a function that passes progress on, and writes it to `folder` once a second."""
    last = 0.0
    began = ("", 0, 0.0)  # the present phase, the step at its first report, and that time

    def report(phase: str, step: int, total: int) -> None:
        nonlocal last, began
        progress(phase, step, total)
        now = time.monotonic()
        if phase != began[0] or step < began[1]:
            began = (phase, step, now)
        if now - last < EVERY_SECONDS:
            return
        last = now
        left = None
        if step > began[1]:  # one step at least, so the pace is known
            left = (now - began[2]) * (total - step) / (step - began[1])
        where = AttemptProgress(step, total, phase, time.time(), os.getpid(), left, HOST)
        write_quickly(folder / "progress.json", to_json(dump(where)))

    return report


def progress(store: Results, cell_id: str) -> AttemptProgress | None:
    """Return how far the last attempt was; None if it has left no file.

    Raises UserError for a damaged file.
    """
    return _read(store.folder(cell_id) / "progress.json", AttemptProgress)


def failure(store: Results, cell_id: str) -> Failure | None:
    """Return why the last attempt failed; None if it did not. An interrupt is not a failure.

    Raises UserError for a damaged file.
    """
    found = last_failure(store, cell_id)
    if found is not None and found.cause == "interrupted":
        return None
    return found


def last_failure(store: Results, cell_id: str) -> Failure | None:
    """Return what failure.json says, interrupts included; None if there is no such file.

    Raises UserError for a damaged file.
    """
    return _read(store.folder(cell_id) / "failure.json", Failure)


def _read(path: Path, cls: type[T]) -> T | None:
    """Read a status file into a dataclass; None if it does not exist."""
    values = read_json(path)
    if values is None:
        return None
    return parse(cls, values, str(path))
