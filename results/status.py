"""How far a sweep is, read from the result folder alone, so it works anywhere; what launchers and SLURM say may be added.

done          has its record
running       a process holds it
failed        the last attempt left a cause
preempted     its job had to make room for another; it waits again, or is gone for good
pending       waits: a launcher is at work, or a job of a cluster has it
missing       nothing will bring it: `vlpeft sweep` runs it
stale         made for settings that the sweep does not have any more, and not done
skipped       the grid rules it out
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal

from rich.cells import cell_len, set_cell_size

from vlpeft.benchmark.cells.attempts import failure, progress
from vlpeft.benchmark.cells.cell import Cell, Plan, Planned
from vlpeft.benchmark.cells.records import Store, read_json
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.plan.sweep import launched_plans
from vlpeft.results.tables.table import Block, Table, Text, one_line

State = Literal["done", "running", "failed", "preempted", "pending", "missing", "stale", "skipped"]
STYLES: dict[State, str] = {
    "done": "green",
    "running": "cyan",
    "failed": "bold red",
    "preempted": "yellow",
    "pending": "",
    "missing": "yellow",
    "stale": "magenta",
    "skipped": "dim",
}
ROWS = 1000  # of the table; --json has all
HEADER = ("state", "method", "backbone", "task", "dataset", "seed", "id", "detail")
GAPS = 3 * (len(HEADER) - 1)  # columns of the screen between those of the table
LEAST, PIPED = (
    40,
    120,
)  # columns of a detail: with fewer it stands below; where the text goes to no terminal
TWO_LINES: dict[str, Any] = {
    "max_lines": 2,
    "subsequent_indent": "  ",
    "placeholder": "…",
}  # of a detail below
COMING: tuple[State, ...] = ("running", "preempted", "pending")  # what may change by itself


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
    """State of every planned cell, in the plan's order; what waits is missing. Raises UserError for a damaged status file."""
    return [_status(planned, store, time.time() if now is None else now) for planned in plan.cells]


def add_cluster_notes(
    cells: Iterable[CellStatus],
    notes: Mapping[str, tuple[State, str]],
    *,
    launched_plans: bool = False,
) -> list[CellStatus]:
    """With what a cluster says of cells that are not done, behind what they say themselves. `launched`: a launcher is at work."""
    default: tuple[State, str] = ("pending" if launched_plans else "missing", "")
    return [
        _noted(cell, *notes.get(cell.id, default), launched=launched_plans)
        if cell.state == "missing"
        else cell
        for cell in cells
    ]


def _noted(cell: CellStatus, state: State, note: str, launched: bool) -> CellStatus:
    return replace(
        cell,
        state="pending" if launched and state == "missing" else state,
        reason=_joined(cell.reason, note),
    )


def mark_stale(cells: Iterable[CellStatus], reason: str) -> list[CellStatus]:
    """With those marked stale that wait, where the sweep has changed since."""
    waits = ("missing", "pending", "preempted")
    return [
        replace(cell, state="stale", reason=_joined(reason, cell.reason))
        if cell.state in waits
        else cell
        for cell in cells
    ]


def _joined(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))


def has_begun(cell: CellStatus) -> bool:
    """Has it been attempted: there is something to go on from, or it was interrupted."""
    return cell.state == "missing" and bool(cell.reason)


def find_unplanned(plan: Plan, store: Store) -> list[CellStatus]:
    """Cells of the folder that are not done and in no plan that lies there: a sweep was changed after its launch.

    Raises UserError for a damaged plan or cell.
    """
    folder = store.root / "cells"
    unknown = set(_names(folder)) - {cell.id for cell in plan.cells}
    for other in launched_plans(store.root) if unknown else ():
        unknown -= {cell.id for cell in other.cells}
    return [
        _stranger(cell_id, store) for cell_id in sorted(unknown) if not store.has_record(cell_id)
    ]


def _stranger(cell_id: str, store: Store) -> CellStatus:
    path, reason = (
        store.folder(cell_id) / "cell.json",
        "of settings that no sweep here has any more",
    )
    values = read_json(path)
    if values is None:
        return CellStatus(cell_id, "?", "?", "?", "?", 0, "stale", reason=reason)
    cell = parse(Cell, values, str(path))
    return CellStatus(
        cell_id,
        cell.method.name,
        cell.backbone.name,
        cell.task,
        cell.dataset.name,
        cell.seed,
        "stale",
        reason=reason,
    )


def summary(cells: Iterable[CellStatus]) -> dict[State, int]:
    """How many cells are in each state; all states are named."""
    counts = Counter(cell.state for cell in cells)
    return {state: counts[state] for state in STYLES}


def as_dicts(cells: Iterable[CellStatus]) -> list[dict[str, Any]]:
    """Plain values, for --json."""
    return [asdict(cell) for cell in cells]


def is_active(cell: CellStatus) -> bool:
    """Is there anything to see of the cell: it runs, has failed, or waits for a reason."""
    return cell.state in ("running", "failed", "preempted") or (
        cell.state not in ("done", "skipped") and bool(cell.reason)
    )


def select_shown(cells: Sequence[CellStatus]) -> list[CellStatus]:
    """All of them; of thousands those of which there is anything to see, and of these no more than a person reads."""
    return list(cells) if len(cells) <= ROWS else [cell for cell in cells if is_active(cell)][:ROWS]


def status_table(
    title: str,
    cells: Sequence[CellStatus],
    shown: Sequence[CellStatus] | None = None,
    width: int | None = None,
) -> Table:
    """For `vlpeft.results.tables.render.render`: the summary of `cells` in the caption, one row for each of `shown` (all of them).

    width: columns of the terminal, if there is one. Details that do not fit are cut, and stand below where there is no room
    beside the rest; --json has them whole.
    """
    counts = ", ".join(f"{number} {state}" for state, number in summary(cells).items() if number)
    rows = cells if shown is None else shown
    room = PIPED if width is None else width - _others(rows)
    beside = room >= LEAST
    header = HEADER if beside else HEADER[:-1]
    texts = (
        _row(cell, (detail,) if beside else ())
        for cell, detail in zip(rows, _fitted(rows, room), strict=True)
    )
    block = Block("", "l" * len(header), (header,), tuple(texts))
    caption = f"{len(cells)} cells: {counts}" if cells else "no cells"
    if shown is not None and len(shown) < len(cells):
        caption += f"; {len(shown)} of them below, all with --json"
    notes = (
        ()
        if beside
        else tuple(
            line for text in _below(rows) for line in wrap(text, width or PIPED, **TWO_LINES)
        )
    )
    return Table(one_line(title), (caption,), (block,), tuple(as_dicts(cells)), notes=notes)


def _others(cells: Sequence[CellStatus]) -> int:
    """Columns of the screen that all but the details take."""
    return GAPS + sum(
        max(map(cell_len, column)) for column in zip(HEADER[:-1], *map(_texts, cells), strict=True)
    )


def _fitted(cells: Sequence[CellStatus], room: int) -> list[str]:
    """The details of a table's rows; what several cells say at length is said once."""
    first: dict[str, str] = {}
    return [
        _short(cell.detail, cell.id, first.setdefault(cell.detail, cell.id), room) for cell in cells
    ]


def _short(detail: str, cell_id: str, first: str, room: int) -> str:
    if cell_len(detail) <= room:
        return detail
    if first != cell_id:
        return f"{_cut(detail.split(': ', maxsplit=1)[0], LEAST // 2)}: as {first}"
    return _cut(detail, room)


def _below(cells: Sequence[CellStatus]) -> Iterator[str]:
    """The details as lines of their own, each once."""
    said: dict[str, list[str]] = {}
    for cell in cells:
        said.setdefault(cell.detail, []).append(cell.id)
    for detail, ids in said.items():
        if detail:
            yield f"{ids[0]}{f' and {len(ids) - 1} more' if len(ids) > 1 else ''}: {detail}"


def _cut(text: str, room: int) -> str:
    return text if cell_len(text) <= room else f"{set_cell_size(text, room - 1).rstrip()}…"


def _texts(cell: CellStatus) -> tuple[str, ...]:
    return (
        cell.state,
        *map(
            one_line, (cell.method, cell.backbone, cell.task, cell.dataset, str(cell.seed), cell.id)
        ),
    )


def _row(cell: CellStatus, detail: tuple[str, ...]) -> tuple[Text, ...]:
    state, *texts = _texts(cell)
    return (Text(state, style=STYLES[cell.state]), *map(Text, (*texts, *detail)))


def _status(planned: Planned, store: Store, now: float) -> CellStatus:
    cell = (planned.id, planned.row, planned.backbone, planned.task, planned.dataset, planned.seed)
    if planned.skipped:
        return CellStatus(*cell, "skipped", reason=planned.skipped)
    there = _names(store.folder(planned.id))
    if "record.json" in there:
        return CellStatus(*cell, "done")
    failed = failure(store, planned.id) if "failure.json" in there else None
    if failed is not None:
        return CellStatus(*cell, "failed", reason=failed.reason)
    where = progress(store, planned.id) if "progress.json" in there else None
    saved = "checkpoint.pt" in there
    if where is None:
        return CellStatus(*cell, "missing", reason="goes on from its checkpoint" if saved else "")
    if not store.is_held(planned.id):
        next_time = "goes on from its checkpoint" if saved else "starts afresh"
        return CellStatus(
            *cell,
            "missing",
            reason=f"interrupted in {where.phase} {where.step}/{where.total}; {next_time}",
        )
    # Clocks of two machines may disagree by a little; an update is never in the future.
    seconds = max(0.0, now - where.updated)
    return CellStatus(*cell, "running", where.step, where.total, where.phase, seconds, where.left)


def _names(folder: Path) -> Collection[str]:
    """One look at a folder in place of one a file: there may be thousands of cells, and the disk far away."""
    try:
        return {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return ()
