"""Write progress.json: how far a running cell is, for those who watch from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from vlpeft.benchmark.cells.records import to_json, write_quickly

ReportProgress = Callable[[str, int, int], None]  # phase, step, total
EVERY_SECONDS = 1.0


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
        where = {
            "phase": phase,
            "step": step,
            "total": total,
            "updated": time.time(),
            "pid": os.getpid(),
            "left": left,
        }
        write_quickly(folder / "progress.json", to_json(where))

    return report
