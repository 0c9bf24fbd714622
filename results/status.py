"""How far a sweep is, read from the result folder alone: nothing is asked of SLURM, so it works anywhere."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from benchmark.cell import Plan, Planned
from benchmark.config import Config, parse
from benchmark.errors import UserError
from benchmark.records import Store, read_json
from results.tables import Block, Table, Text, one_line

T = TypeVar("T")
State = Literal["done", "running", "failed", "pending", "skipped"]
STYLES: dict[State, str] = {"done": "green", "running": "cyan", "failed": "bold red", "pending": "", "skipped": "dim"}


@dataclass(frozen=True)
class Progress(Config):
    """progress.json: where a running attempt is; `updated` is Unix time."""

    step: int
    total: int
    phase: str
    updated: float
    pid: int


@dataclass(frozen=True)
class Failure(Config):
    """failure.json: why the last attempt failed; `user` if the user can mend it."""

    cause: str
    message: str
    user: bool


@dataclass(frozen=True)
class CellStatus:
    """State of one planned cell.

    step, total, phase: of a running attempt, `seconds` since it last said so: a large number means that it died unheard.
    reason: why it failed or is skipped.
    """

    id: str
    method: str
    backbone: str
    task: str
    dataset: str
    seed: int
    state: State
    step: int | None = None
    total: int | None = None
    phase: str | None = None
    seconds: float | None = None
    reason: str = ""

    @property
    def detail(self) -> str:
        """What there is to say beside the state, on one line."""
        if self.seconds is None:
            return one_line(self.reason)
        return f"{self.phase} {self.step}/{self.total}, {self.seconds:.0f} s ago"


def status(plan: Plan, store: Store, *, now: float | None = None) -> list[CellStatus]:
    """State of every planned cell, in the plan's order. Raises UserError for a status file that is damaged."""
    return [_status(planned, store, time.time() if now is None else now) for planned in plan.cells]


def summary(cells: Iterable[CellStatus]) -> dict[State, int]:
    """How many cells are in each state; all states are named."""
    counts = Counter(cell.state for cell in cells)
    return {state: counts[state] for state in STYLES}


def as_dicts(cells: Iterable[CellStatus]) -> list[dict[str, Any]]:
    """Plain values, for --json."""
    return [asdict(cell) for cell in cells]


def status_table(title: str, cells: Sequence[CellStatus]) -> Table:
    """For `results.render.render`: the summary in the caption, one row a cell."""
    counts = ", ".join(f"{number} {state}" for state, number in summary(cells).items() if number)
    header = ("state", "method", "backbone", "task", "dataset", "seed", "id", "detail")
    block = Block("", "l" * len(header), (header,), tuple(map(_row, cells)))
    return Table(one_line(title), (f"{len(cells)} cells: {counts}" if cells else "no cells",), (block,), tuple(as_dicts(cells)))


def _row(cell: CellStatus) -> tuple[Text, ...]:
    texts = (cell.method, cell.backbone, cell.task, cell.dataset, str(cell.seed), cell.id)
    return (Text(cell.state, style=STYLES[cell.state]), *(Text(one_line(text)) for text in texts), Text(cell.detail))


def _status(planned: Planned, store: Store, now: float) -> CellStatus:
    cell = (planned.id, planned.row, planned.backbone, planned.task, planned.dataset, planned.seed)
    if planned.skipped:
        return CellStatus(*cell, "skipped", reason=planned.skipped)
    if store.has_record(planned.id):
        return CellStatus(*cell, "done")
    folder = store.folder(planned.id)
    failure = _read(folder / "failure.json", Failure)
    if failure is not None:
        return CellStatus(*cell, "failed", reason=f"{failure.cause}: {failure.message}")
    progress = _read(folder / "progress.json", Progress)
    if progress is None:
        return CellStatus(*cell, "pending")
    if not store.is_held(planned.id):
        return CellStatus(*cell, "pending", reason=f"interrupted in {progress.phase} {progress.step}/{progress.total}")
    # Clocks of two machines may disagree by a little; an update is never in the future.
    seconds = max(0.0, now - progress.updated)
    return CellStatus(*cell, "running", progress.step, progress.total, progress.phase, seconds)


def _read(path: Path, cls: type[T]) -> T | None:
    try:
        values = read_json(path)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not readable ({error}); delete it, the next attempt writes it anew") from error
    return None if values is None else parse(cls, values, str(path))
