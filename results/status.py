"""How far a sweep is. The result folder alone says it; notes of launchers and SLURM can be added.

done          has its record
running       a process holds its lock
failed        the last attempt left a cause
preempted     another job took its place; it waits again, or does not come back
pending       waits: a launcher is at work, or a job of a cluster holds it
missing       nothing runs it: use `vlpeft sweep`
stale         not done, and made for settings that the sweep no longer has
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

from vlpeft.benchmark.cells.attempts import AttemptProgress, failure, progress
from vlpeft.benchmark.cells.cell import Cell, Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.files import read_json
from vlpeft.benchmark.core.words import count_cells
from vlpeft.benchmark.plan.plan_files import launched_plans
from vlpeft.results.tables.blocks import Block, Table, Text, one_line

CellState = Literal[
    "done", "running", "failed", "preempted", "pending", "missing", "stale", "skipped"
]
STYLES: dict[CellState, str] = {
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
LEAST = 40  # columns of a detail; with fewer, details are printed below the table
PIPED = 120  # columns of a detail where the output is not a terminal
# How a detail below the table is wrapped.
TWO_LINES: dict[str, Any] = {"max_lines": 2, "subsequent_indent": "  ", "placeholder": "…"}
# These may change without a new launch.
COMING: tuple[CellState, ...] = ("running", "preempted", "pending")


@dataclass(frozen=True)
class CellStatus:
    """The state of one planned cell.

    step, total, phase: where a running attempt is.
    seconds: since its last report; a large number means that it died.
    left: seconds until the phase ends, at its pace.
    reason: why it failed, waits or is skipped.
    """

    id: str
    method: str
    backbone: str
    task: str
    dataset: str
    seed: int
    state: CellState
    step: int | None = None
    total: int | None = None
    phase: str | None = None
    seconds: float | None = None
    left: float | None = None
    reason: str = ""

    @property
    def detail(self) -> str:
        """The rest of what is known, on one line."""
        if self.seconds is None:
            return one_line(self.reason)
        left = "" if self.left is None else f", {timedelta(seconds=round(self.left))} left"
        return f"{self.phase} {self.step}/{self.total}, {self.seconds:.0f} s ago{left}"


def status(plan: Plan, store: Store, *, now: float | None = None) -> list[CellStatus]:
    """Return the status of every planned cell, in the plan's order. A cell that waits is missing.

    now: Unix time; None: the clock's.

    Raises UserError for a damaged status file.
    """
    now = time.time() if now is None else now
    return [_status(planned, store, now) for planned in plan.cells]


def add_cluster_notes(
    cells: Iterable[CellStatus],
    notes: Mapping[str, tuple[CellState, str]],
    *,
    launched: bool = False,
) -> list[CellStatus]:
    """Add the cluster's notes to unfinished cells, after their own reasons.

    launched: whether a launcher is at work, so that missing cells are pending.
    """
    return [_add_note(cell, notes, launched=launched) for cell in cells]


def _add_note(
    cell: CellStatus, notes: Mapping[str, tuple[CellState, str]], *, launched: bool
) -> CellStatus:
    if cell.state != "missing":
        return cell
    state, note = notes.get(cell.id, ("missing", ""))
    if launched and state == "missing":
        state = "pending"
    return replace(cell, state=state, reason=_joined(cell.reason, note))


def mark_stale(cells: Iterable[CellStatus], reason: str) -> list[CellStatus]:
    """Mark the waiting cells stale: the sweep has changed since its launch."""
    return [_mark(cell, reason) for cell in cells]


def _mark(cell: CellStatus, reason: str) -> CellStatus:
    if cell.state not in ("missing", "pending", "preempted"):
        return cell
    return replace(cell, state="stale", reason=_joined(reason, cell.reason))


def _joined(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))


def has_begun(cell: CellStatus) -> bool:
    """Return whether the cell was attempted before: interrupted, or saved in a checkpoint."""
    return cell.state == "missing" and bool(cell.reason)


def find_unplanned(plan: Plan, store: Store) -> list[CellStatus]:
    """Return the unfinished cells of the folder that no plan in it has.

    They are left when a sweep is changed after its launch. Raises UserError for a damaged plan or
    cell.
    """
    unknown = unplanned_ids(plan, store)
    return [describe_unplanned(name, store) for name in unknown if not store.has_record(name)]


def unplanned_ids(plan: Plan, store: Store) -> list[str]:
    """Return the cells of the folder that no plan in it has, finished ones included."""
    unknown = set(_names(store.root / "cells")) - {cell.id for cell in plan.cells}
    for other in launched_plans(store.root) if unknown else ():
        unknown -= {cell.id for cell in other.cells}
    return sorted(unknown)


def describe_unplanned(cell_id: str, store: Store) -> CellStatus:
    """Return a stale cell. Raises UserError if its cell.json is damaged."""
    path = store.folder(cell_id) / "cell.json"
    reason = "belongs to settings that no sweep here has any more"
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


def summary(cells: Iterable[CellStatus]) -> dict[CellState, int]:
    """Return the number of cells in each state, zeros included."""
    counts = Counter(cell.state for cell in cells)
    return {state: counts[state] for state in STYLES}


def as_dicts(cells: Iterable[CellStatus]) -> list[dict[str, Any]]:
    """Return plain values, for --json."""
    return [asdict(cell) for cell in cells]


def is_active(cell: CellStatus) -> bool:
    """Return whether the cell runs, has failed, or waits for a known reason."""
    if cell.state in ("running", "failed", "preempted"):
        return True
    return cell.state not in ("done", "skipped") and bool(cell.reason)


def select_shown(cells: Sequence[CellStatus]) -> list[CellStatus]:
    """Return the cells to print: all, or of more than ROWS cells the first active ones."""
    if len(cells) <= ROWS:
        return list(cells)
    return [cell for cell in cells if is_active(cell)][:ROWS]


def status_table(
    title: str,
    cells: Sequence[CellStatus],
    shown: Sequence[CellStatus] | None = None,
    width: int | None = None,
) -> Table:
    """Return the table of a sweep's status: the summary in the caption, and one row for each cell.

    shown: the cells with a row; None: all.
    width: columns of the terminal; None if the output goes to a file or a pipe.

    Details that do not fit are cut. Where there is no room for a column of details, they are
    printed below the table. --json has them whole.
    """
    rows = cells if shown is None else shown
    room = PIPED if width is None else width - _other_columns(rows)
    caption = _caption(cells, rows)
    data = tuple(as_dicts(cells))
    if room >= LEAST:
        details = _fit_details(rows, room)
        texts = [_row(cell, detail) for cell, detail in zip(rows, details, strict=True)]
        return Table(one_line(title), (caption,), (_block(HEADER, texts),), data)
    block = _block(HEADER[:-1], [_row(cell) for cell in rows])
    return Table(one_line(title), (caption,), (block,), data, notes=_notes(rows, width or PIPED))


def _block(header: tuple[str, ...], rows: Iterable[tuple[Text, ...]]) -> Block:
    return Block("", "l" * len(header), (header,), tuple(rows))


def _caption(cells: Sequence[CellStatus], rows: Sequence[CellStatus]) -> str:
    if not cells:
        return "no cells"
    counts = ", ".join(f"{number} {state}" for state, number in summary(cells).items() if number)
    caption = f"{count_cells(len(cells))}: {counts}"
    if len(rows) < len(cells):
        caption += f"; {len(rows)} of them below, all with --json"
    return caption


def _notes(rows: Sequence[CellStatus], width: int) -> tuple[str, ...]:
    lines: list[str] = []
    for text in _detail_lines(rows):
        lines += wrap(text, width, **TWO_LINES)
    return tuple(lines)


def _other_columns(cells: Sequence[CellStatus]) -> int:
    """Return the width of the table without its details, in columns of the screen."""
    columns = zip(HEADER[:-1], *map(_texts, cells), strict=True)
    return GAPS + sum(max(map(cell_len, column)) for column in columns)


def _fit_details(cells: Sequence[CellStatus], room: int) -> list[str]:
    """Return the details of the rows. A long one that several cells share is printed once."""
    first: dict[str, str] = {}
    details = []
    for cell in cells:
        owner = first.setdefault(cell.detail, cell.id)
        details.append(_fit(cell.detail, room, "" if owner == cell.id else owner))
    return details


def _fit(detail: str, room: int, owner: str) -> str:
    """Cut a detail. `owner`: the cell that prints the same detail before, or ""."""
    if cell_len(detail) <= room:
        return detail
    if owner:
        kind = detail.partition(": ")[0]
        return f"{_cut(kind, LEAST // 2)}: as {owner}"
    return _cut(detail, room)


def _detail_lines(cells: Sequence[CellStatus]) -> Iterator[str]:
    """Yield each detail once, with the cells that have it."""
    owners: dict[str, list[str]] = {}
    for cell in cells:
        owners.setdefault(cell.detail, []).append(cell.id)
    for detail, ids in owners.items():
        if detail:
            more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
            yield f"{ids[0]}{more}: {detail}"


def _cut(text: str, room: int) -> str:
    if cell_len(text) <= room:
        return text
    return f"{set_cell_size(text, room - 1).rstrip()}…"


def _texts(cell: CellStatus) -> tuple[str, ...]:
    names = (cell.method, cell.backbone, cell.task, cell.dataset, str(cell.seed), cell.id)
    return (cell.state, *map(one_line, names))


def _row(cell: CellStatus, *detail: str) -> tuple[Text, ...]:
    state, *texts = _texts(cell)
    return (Text(state, style=STYLES[cell.state]), *map(Text, (*texts, *detail)))


def _status(planned: Planned, store: Store, now: float) -> CellStatus:
    cell = (planned.id, planned.row, planned.backbone, planned.task, planned.dataset, planned.seed)
    files = _names(store.folder(planned.id))
    if "record.json" in files:  # first: its data may have gone since, and then it is skipped, too
        return CellStatus(*cell, "done")
    if planned.skipped:
        return CellStatus(*cell, "skipped", reason=planned.skipped)
    failed = failure(store, planned.id) if "failure.json" in files else None
    if failed is not None:
        return CellStatus(*cell, "failed", reason=failed.reason)
    where = progress(store, planned.id) if "progress.json" in files else None
    if where is None or not store.is_held(planned.id):
        reason = _reason_missing(where, is_saved="checkpoint.pt" in files)
        return CellStatus(*cell, "missing", reason=reason)
    # The clocks of two machines may differ a little; an update is never in the future.
    seconds = max(0.0, now - where.updated)
    return CellStatus(*cell, "running", where.step, where.total, where.phase, seconds, where.left)


def _reason_missing(where: AttemptProgress | None, *, is_saved: bool) -> str:
    if where is None:
        return "continues from its checkpoint" if is_saved else ""
    next_time = "continues from its checkpoint" if is_saved else "starts over"
    return f"interrupted in {where.phase} {where.step}/{where.total}; {next_time}"


def _names(folder: Path) -> Collection[str]:
    """List a folder once, in place of one look for each file.

    There may be thousands of cells, on a slow shared disk.
    """
    try:
        return {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return ()
