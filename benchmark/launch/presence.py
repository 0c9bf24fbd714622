"""Who is at work in a result folder: every launcher holds a lock file ROOT/launchers/SWEEP~WAY~HOST~PROCESS while it waits for cells.

The kernel frees the lock when the launcher dies, so a file that is left behind says nothing.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from vlpeft.benchmark.cells.records import is_locked, write_errors


class Launcher(NamedTuple):
    """A `vlpeft sweep` or `retry` that is at work."""

    way: str  # inline, local or slurm
    host: str
    process: int

    @property
    def is_local(self) -> bool:
        """It runs on this machine."""
        return self.host == platform.node()


@contextmanager
def show_presence(root: Path, sweep: str, way: str) -> Iterator[None]:
    """Be seen while this lasts. Raises UserError where the folder cannot be written."""
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
    """Those that are at work on a sweep, on any machine that shares the folder."""
    found = []
    folder = root / "launchers"
    for path in sorted(folder.rglob("*~*~*~*")):  # shipped sweeps have names like p_adapter/table1
        name, *about = path.relative_to(folder).as_posix().rsplit("~", 3)
        if name == sweep and is_locked(path):
            found.append(Launcher(about[0], about[1], int(about[2])))
    return found
