"""`vlpeft sweep --prune`: what a changed sweep has left in its result folder."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vlpeft.benchmark.cli.printing import print_note
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.words import count_cells

if TYPE_CHECKING:
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.results.status import CellStatus

STOP_SECONDS = 60.0  # for a worker to save its cell; a deleted cell must have no process


def prune(options: argparse.Namespace) -> None:
    """Stop and list the cells that no sweep of the folder has; with --delete, delete them.

    Raises UserError if one of them goes on running: on another machine, or in a job that SLURM has
    not ended yet.
    """
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.plan.check import save_plan
    from vlpeft.benchmark.plan.stages import first_stage
    from vlpeft.results.status import find_all_unplanned
    from vlpeft.slurm.control import cancel_cells

    store = Store(options.root)
    made = first_stage(options.handle, store).plan
    save_plan(made, options.root, mixed=options.mixed_environments)
    left = find_all_unplanned(made, store)
    if not left:
        print_note("--prune: all cells of the folder belong to a sweep")
        return
    stopped = cancel_cells(options.root, {cell.id for cell in left})
    if stopped.jobs or stopped.workers:
        print_note(f"--prune: {stopped.jobs} jobs cancelled, {stopped.workers} workers stopped")
    for cell in left:
        state = "done" if store.has_record(cell.id) else "not done"
        where = f"{cell.method} | {cell.backbone} | {cell.task}/{cell.dataset} | seed {cell.seed}"
        print_note(f"--prune: {state}: {cell.id} {where}")
    if options.delete:
        _delete(left, store)
        print_note(f"--prune: {count_cells(len(left))} deleted")
    else:
        print_note(f"--prune: {count_cells(len(left))} left; --delete deletes their results")


def _delete(cells: Iterable[CellStatus], store: Store) -> None:
    for cell in cells:
        folder = store.folder(cell.id)
        _delete_cell(folder)


def _delete_cell(folder: Path) -> None:
    """Delete the folder of a cell once no process holds it."""
    from filelock import Timeout

    from vlpeft.benchmark.core.locks import hold

    try:
        with hold(folder / "lock", STOP_SECONDS):
            shutil.rmtree(folder)
    except Timeout as error:
        raise UserError(
            f"--delete: cell {folder.name} still runs; wait for it, or run `vlpeft cancel` where "
            "it does"
        ) from error
    except OSError as error:
        raise UserError(
            f"--delete: cannot delete {folder}: {error.strerror}; delete it by hand"
        ) from error
