"""progress.json: where a running cell is, for those who watch from outside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from vlpeft.benchmark.cells.records import to_json, write_quickly

ReportProgress = Callable[[str, int, int], None]  # phase, step, total
EVERY_SECONDS = 1.0


def unwatched(phase: str, step: int, total: int) -> None:
    """Progress that nobody follows."""
    del phase, step, total


def reporter(folder: Path, progress: ReportProgress) -> ReportProgress:
    """Pass progress on, and leave it in the cell's folder about once a second."""
    last = 0.0
    began = ("", 0, 0.0)  # the phase that is on, the step at which it was first heard of, and when

    def report(phase: str, step: int, total: int) -> None:
        nonlocal last, began
        progress(phase, step, total)
        now = time.monotonic()
        if phase != began[0] or step < began[1]:
            began = (phase, step, now)
        if now - last >= EVERY_SECONDS:
            last = now
            left = (
                (now - began[2]) * (total - step) / (step - began[1]) if step > began[1] else None
            )
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
