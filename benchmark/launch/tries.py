"""How often a cell ended without an error message: killed, out of memory, its node gone.

Such a cell is tried again, but not without end. ROOT/cells/<id>/tries.json is written before an
attempt, and removed after one that reported its own end. So it describes attempts that did not.
Progress counts: after a new checkpoint the count starts again.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from vlpeft.benchmark.cells.attempts import Failure
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.config import Config, dump, parse
from vlpeft.benchmark.core.files import open_regular, read_json, remove, to_json, write_atomically

LIMIT = 3
TAIL_LINES = 3
TAIL_BYTES = 4096
MESSAGE_LENGTH = 1000
# What slurmstepd writes into the log of a job that used too much memory.
MEMORY = re.compile(r"oom.?kill|exceeded (job |step )?memory limit", re.IGNORECASE)


@dataclass(frozen=True)
class Tries(Config):
    """Attempts at a cell since its checkpoint last changed, and how the last one ended."""

    count: int
    checkpoint: int | None  # when it was written, in ns
    log: str
    end: str = "ended without a message"
    pid: int = 0  # of the worker that makes the attempt


def tries(store: Store, cell_id: str) -> Tries | None:
    """Read tries.json; None if there is none."""
    path = _path(store, cell_id)
    values = read_json(path)
    return None if values is None else parse(Tries, values, str(path))


def begin(store: Store, cell_id: str, log: str) -> None:
    """Count an attempt that begins now."""
    before = tries(store, cell_id)
    saved = checkpoint(store, cell_id)
    count = 0
    if before is not None and before.checkpoint == saved:
        count = before.count
    _write(store, cell_id, Tries(count + 1, saved, log, pid=os.getpid()))


def is_attempt_of(store: Store, cell_id: str, pid: int, log: str) -> bool:
    """Return whether that worker, of the job with that log, is at the cell or died at it."""
    last = tries(store, cell_id)
    return last is not None and (last.pid, last.log) == (pid, log)


def was_interrupted(store: Store, cell_id: str, log: str) -> bool:
    """Return whether the job with that log, or a worker of it, ended while it ran the cell."""
    last = tries(store, cell_id)
    return last is not None and last.log == log


def forget(store: Store, cell_id: str) -> None:
    """Forget the attempts: the last one reported its end, or the user wants a new start."""
    remove(_path(store, cell_id))


def note(store: Store, cell_id: str, end: str) -> None:
    """Write down how the last attempt ended, where another process saw it."""
    last = tries(store, cell_id)
    if last is not None:
        _write(store, cell_id, replace(last, end=end))


def last_if_exhausted(store: Store, cell_id: str) -> Tries | None:
    """Return the last attempt if there were too many; None if the cell may be tried again."""
    last = tries(store, cell_id)
    if last is None or last.count < LIMIT:
        return None
    return last if last.checkpoint == checkpoint(store, cell_id) else None


def give_up(store: Store, cell_id: str, cause: str, message: str, log: str) -> None:
    """Write failure.json with the last lines of the log.

    Sometimes only the log says that a process was killed for the memory it used.
    """
    if log:
        message = f"{message}; {log} ends: {tail(Path(log))}"
    if cause in ("killed", "job failed") and MEMORY.search(message):
        cause = "out of memory"
    failure = Failure(cause, message[:MESSAGE_LENGTH], user=False, log=log)
    store.write_failure(cell_id, dump(failure))
    forget(store, cell_id)


def tail(path: Path) -> str:
    """Return the last lines of a log, on one line."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(cannot be read: {error.strerror})"
    lines = [line.strip()[:200] for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-TAIL_LINES:]) or "(it is empty)"


def checkpoint(store: Store, cell_id: str) -> int | None:
    """Return when the cell was last saved, in ns; None if it was not."""
    path = store.folder(cell_id) / "checkpoint.pt"
    return path.stat().st_mtime_ns if path.exists() else None


def _path(store: Store, cell_id: str) -> Path:
    return store.folder(cell_id) / "tries.json"


def _write(store: Store, cell_id: str, values: Tries) -> None:
    write_atomically(_path(store, cell_id), to_json(dump(values)))
