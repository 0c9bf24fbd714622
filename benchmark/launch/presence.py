"""Which launchers and local workers are at work in a result folder.

While it waits for cells, each launcher holds the lock of ROOT/launchers/SWEEP~WAY~HOST~PROCESS. So
does each local worker, in the way "worker". The kernel frees the lock when its holder dies, so a
file without a lock means nothing.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from vlpeft.benchmark.cells.records import is_locked
from vlpeft.benchmark.core.files import write_errors

WORKER = "worker"
RUN = "run"


class Launcher(NamedTuple):
    """A `vlpeft sweep`, `retry` or `run` that is at work, or a local worker."""

    way: str  # inline, local, slurm, RUN or WORKER
    host: str
    process: int

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == platform.node()


@contextmanager
def show_presence(root: Path, sweep: str, way: str) -> Iterator[None]:
    """Be listed by `launchers` inside this context.

    Raises UserError where the folder cannot be written.
    """
    path = root / "launchers" / "~".join((sweep, way, platform.node(), str(os.getpid())))
    lock = FileLock(path)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def launchers(root: Path, sweep: str) -> list[Launcher]:
    """Return the launchers at work on a sweep, on all machines that share the folder.

    Workers are listed, too: they may have outlived their launcher.
    """
    found = []
    folder = root / "launchers"
    for path in sorted(folder.rglob("*~*~*~*")):
        # The name of a shipped sweep may hold a slash: p_adapter/table1.
        name, way, host, process = path.relative_to(folder).as_posix().rsplit("~", 3)
        # A launcher's own file is a file, and its name ends with a number.
        if name == sweep and process.isdecimal() and path.is_file() and is_locked(path):
            found.append(Launcher(way, host, int(process)))
    return found
