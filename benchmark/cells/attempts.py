"""What running and failed attempts leave beside a cell: progress.json and failure.json, read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vlpeft.benchmark.cells.records import Store, read_json
from vlpeft.benchmark.core.config import Config, parse

T = TypeVar("T")


@dataclass(frozen=True)
class AttemptProgress(Config):
    """progress.json: where a running attempt is; `updated` is Unix time, `left` the seconds that the phase will take at its pace."""

    step: int
    total: int
    phase: str
    updated: float
    pid: int
    left: float | None = None


@dataclass(frozen=True)
class Failure(Config):
    """failure.json: why the last attempt failed; `user` if the user can mend it."""

    cause: str
    message: str
    user: bool

    @property
    def reason(self) -> str:
        """Cause and message."""
        return f"{self.cause}: {self.message}"


def progress(store: Store, cell_id: str) -> AttemptProgress | None:
    """Where the last attempt was, if it says so. Raises UserError for a damaged file."""
    return _read(store.folder(cell_id) / "progress.json", AttemptProgress)


def failure(store: Store, cell_id: str) -> Failure | None:
    """Why the last attempt failed, if it did; being interrupted is no failure. Raises UserError for a damaged file."""
    found = _read(store.folder(cell_id) / "failure.json", Failure)
    return None if found is not None and found.cause == "interrupted" else found


def _read(path: Path, cls: type[T]) -> T | None:
    values = read_json(path)
    return None if values is None else parse(cls, values, str(path))
