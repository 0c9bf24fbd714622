"""How far a sweep is, read from the result folder alone, so it works anywhere; what SLURM says of waiting cells may be added."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, Literal

from benchmark.cell import Plan, Planned
from benchmark.records import Store
from results.attempts import failure, progress
from results.tables import Block, Table, Text, one_line

State = Literal["done", "running", "failed", "pending", "skipped"]
STYLES: dict[State, str] = {"done": "green", "running": "cyan", "failed": "bold red", "pending": "", "skipped": "dim"}


@dataclass(frozen=True)
class CellStatus:
    """State of one planned cell.

    step, total, phase: of a running attempt, `seconds` since it last said so: a large number means that it died unheard;
    `left`: seconds that the phase will take at its pace.
    reason: why it failed, waits or is skipped.
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
    left: float | None = None
    reason: str = ""

    @property
    def detail(self) -> str:
        """What there is to say beside the state, on one line."""
        if self.seconds is None:
            return one_line(self.reason)
        left = "" if self.left is None else f", {timedelta(seconds=round(self.left))} left"
        return f"{self.phase} {self.step}/{self.total}, {self.seconds:.0f} s ago{left}"


def status(plan: Plan, store: Store, *, now: float | None = None) -> list[CellStatus]:
    """State of every planned cell, in the plan's order. Raises UserError for a status file that is damaged."""
    return [_status(planned, store, time.time() if now is None else now) for planned in plan.cells]


def noted(cells: Iterable[CellStatus], notes: Mapping[str, str]) -> list[CellStatus]:
    """With what the cluster says of cells that wait, behind what they say themselves."""
    return [_noted(cell, notes.get(cell.id, "")) if cell.state == "pending" else cell for cell in cells]


def _noted(cell: CellStatus, note: str) -> CellStatus:
    return replace(cell, reason="; ".join(filter(None, (cell.reason, note))))


def summary(cells: Iterable[CellStatus]) -> dict[State, int]:
    """How many cells are in each state; all states are named."""
    counts = Counter(cell.state for cell in cells)
    return {state: counts[state] for state in STYLES}


def as_dicts(cells: Iterable[CellStatus]) -> list[dict[str, Any]]:
    """Plain values, for --json."""
    return [asdict(cell) for cell in cells]


def busy(cell: CellStatus) -> bool:
    """Is there anything to see of the cell: it runs, has failed, or waits for a reason."""
    return cell.state in ("running", "failed") or (cell.state == "pending" and bool(cell.reason))


def status_table(title: str, cells: Sequence[CellStatus], shown: Sequence[CellStatus] | None = None) -> Table:
    """For `results.render.render`: the summary of `cells` in the caption, one row for each of `shown` (all of them)."""
    counts = ", ".join(f"{number} {state}" for state, number in summary(cells).items() if number)
    header = ("state", "method", "backbone", "task", "dataset", "seed", "id", "detail")
    block = Block("", "l" * len(header), (header,), tuple(map(_row, cells if shown is None else shown)))
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
    failed = failure(store, planned.id)
    if failed is not None:
        return CellStatus(*cell, "failed", reason=failed.reason)
    where = progress(store, planned.id)
    saved = (store.folder(planned.id) / "checkpoint.pt").exists()
    if where is None:
        return CellStatus(*cell, "pending", reason="goes on from its checkpoint" if saved else "")
    if not store.is_held(planned.id):
        next_time = "goes on from its checkpoint" if saved else "starts afresh"
        return CellStatus(*cell, "pending", reason=f"interrupted in {where.phase} {where.step}/{where.total}; {next_time}")
    # Clocks of two machines may disagree by a little; an update is never in the future.
    seconds = max(0.0, now - where.updated)
    return CellStatus(*cell, "running", where.step, where.total, where.phase, seconds, where.left)
