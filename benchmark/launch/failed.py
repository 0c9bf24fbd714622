"""Report the cells that failed in a launch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cells.attempts import last_failure
from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import disk_trouble
from vlpeft.benchmark.core.words import count_cells

CANCELLED = "cancelled"  # the cause of a cell whose job the user has cancelled; nothing to fix
FailedCell = tuple[Planned, dict[str, Any]]  # a cell, and what its failure.json holds


def failures(cells: Sequence[Planned], root: Path) -> Iterator[FailedCell]:
    """Yield the cells without a record, each with its failure.json.

    A cell that has neither was killed.
    """
    store = Store(root)
    for cell in cells:
        if not store.has_record(cell.id):
            yield cell, _read_cause(store, cell.id) or _guess_cause(root)


def _read_cause(store: Store, cell_id: str) -> dict[str, Any] | None:
    found = last_failure(store, cell_id)
    if found is None:
        return None
    return dump(found)


def _guess_cause(root: Path) -> dict[str, Any]:
    """Return the likely cause of a cell that left no failure.json: a full disk, or a kill."""
    try:
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(bytes(2**16))
    except OSError as error:
        cause = disk_trouble(error)
        if not cause:
            raise
        message = f"nothing can be written in {root}: {error.strerror}"
        return {"cause": cause, "message": message, "user": True}
    message = "its worker exited without an error message (out of memory?); see ROOT/jobs"
    return {"cause": "killed", "message": message, "user": False}


def group_by_cause(failed: Sequence[FailedCell]) -> Iterator[str]:
    """Yield one line for each cause, with its cell or the number of its cells."""
    groups: dict[tuple[str, str], list[FailedCell]] = {}
    for cell, failure in failed:
        cause, message = failure["cause"], failure["message"]
        # Messages of cancelled cells name their jobs, and differ for that reason alone.
        key = (cause, "" if cause == CANCELLED else message)
        groups.setdefault(key, []).append((cell, failure))
    for (cause, message), cells in groups.items():
        if len(cells) == 1:
            cell, failure = cells[0]
            yield f"{_title(cell)}: {cause}: {failure['message']}"
        else:
            fix = "their jobs were cancelled; `vlpeft retry --cause cancelled` runs them again"
            yield f"{len(cells)} cells: {cause}: {message or fix}"


def _title(cell: Planned) -> str:
    where = f"{cell.row} on {cell.backbone}, {cell.task}/{cell.dataset}"
    return f"{cell.id} {where}, seed {cell.seed}"


def count_failures(failed: Sequence[FailedCell], of: int) -> str:
    """Return how many of the cells failed or were cancelled, and what to do."""
    cancelled = sum(failure["cause"] == CANCELLED for _, failure in failed)
    if cancelled == len(failed):
        were = "was" if cancelled == 1 else "were"
        return (
            f"{cancelled} of {count_cells(of)} {were} cancelled; the same command runs them again"
        )
    more = f", {cancelled} were cancelled" if cancelled else ""
    number = len(failed) - cancelled
    return f"{number} of {count_cells(of)} failed{more}; fix the cause and rerun the same command"
