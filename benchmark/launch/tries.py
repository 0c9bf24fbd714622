"""How often a cell has ended without a word: killed, out of memory, its node gone. Such a cell is tried again, but not for ever.

ROOT/cells/<id>/tries.json is written before an attempt and removed after one that could speak for itself, so that what
stands there is of attempts that could not. Progress counts: after a new checkpoint the count starts afresh.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from vlpeft.benchmark.cells.records import Store, read_json, to_json, write_atomically
from vlpeft.benchmark.core.config import Config, dump, parse

LIMIT = 3
TAIL_LINES = 3
TAIL_BYTES = 4096
MEMORY = re.compile(
    r"oom.?kill|exceeded (job |step )?memory limit", re.IGNORECASE
)  # what slurmstepd says


@dataclass(frozen=True)
class Tries(Config):
    """Attempts at a cell since its checkpoint last changed, and what is known of the last one."""

    count: int
    checkpoint: int | None  # when it was written, ns
    log: str
    end: str = "ended without a word"
    pid: int = 0  # of the worker that makes the attempt


def tries(store: Store, cell_id: str) -> Tries | None:
    """What tries.json says, or None."""
    values = read_json(_path(store, cell_id))
    return None if values is None else parse(Tries, values, str(_path(store, cell_id)))


def begin(store: Store, cell_id: str, log: str) -> None:
    """Count an attempt that begins now."""
    before, saved = tries(store, cell_id), checkpoint(store, cell_id)
    count = before.count if before is not None and before.checkpoint == saved else 0
    _write(store, cell_id, Tries(count + 1, saved, log, pid=os.getpid()))


def is_attempt_of(store: Store, cell_id: str, pid: int, log: str) -> bool:
    """Is the cell's last attempt, which has not ended, of that worker of the job with that log?"""
    last = tries(store, cell_id)
    return last is not None and (last.pid, last.log) == (pid, log)


def was_interrupted(store: Store, cell_id: str, log: str) -> bool:
    """Did the job with that log end, or a worker of it, while it was at the cell?"""
    last = tries(store, cell_id)
    return last is not None and last.log == log


def forget(store: Store, cell_id: str) -> None:
    """The attempt has said how it ended, or the user wants the cell tried afresh."""
    _path(store, cell_id).unlink(missing_ok=True)


def note(store: Store, cell_id: str, end: str) -> None:
    """Say how the last attempt ended, where someone else saw it."""
    last = tries(store, cell_id)
    if last is not None:
        _write(store, cell_id, replace(last, end=end))


def last_if_exhausted(store: Store, cell_id: str) -> Tries | None:
    """The last of too many attempts, or None where the cell may be tried again."""
    last = tries(store, cell_id)
    return (
        last
        if last is not None
        and last.count >= LIMIT
        and last.checkpoint == checkpoint(store, cell_id)
        else None
    )


def give_up(store: Store, cell_id: str, cause: str, message: str, log: str) -> None:
    """Leave failure.json, with the last lines of the log. What was killed for its memory is told by the log alone, sometimes."""
    said = f"{message}; {log} ends: {tail(Path(log))}" if log else message
    if cause in ("killed", "job failed") and MEMORY.search(said):
        cause = "out of memory"
    store.write_failure(cell_id, {"cause": cause, "message": said[:1000], "user": False})
    forget(store, cell_id)


def tail(path: Path) -> str:
    """The last lines of a log, on one line."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError as error:
        return f"(cannot be read: {error.strerror})"
    return " | ".join([line[:200] for line in lines if line][-TAIL_LINES:]) or "(it is empty)"


def _path(store: Store, cell_id: str) -> Path:
    return store.folder(cell_id) / "tries.json"


def checkpoint(store: Store, cell_id: str) -> int | None:
    """When the cell was last saved, in ns; None where it was not."""
    path = store.folder(cell_id) / "checkpoint.pt"
    return path.stat().st_mtime_ns if path.exists() else None


def _write(store: Store, cell_id: str, values: Tries) -> None:
    write_atomically(_path(store, cell_id), to_json(dump(values)))
