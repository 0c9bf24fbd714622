"""`vlpeft sweep --prune`: what a changed sweep has left in its result folder."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from vlpeft.benchmark.cli.printing import print_note
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.words import count_cells, count_things

if TYPE_CHECKING:
    from vlpeft.benchmark.cells.cell import Plan
    from vlpeft.benchmark.cells.records import Store

CELL_ID = re.compile("[0-9a-f]{12}")  # other names in the folder are not ours
LOCK_SECONDS = 60.0  # for a cancelled job to save its cell and end


def prune(options: argparse.Namespace) -> None:
    """Cancel and list the cells that no sweep of the folder has; with --delete, delete them.

    Raises UserError while a launcher of the sweep is at work: it would run them again. With
    --delete, also while a `tune:` is unfinished, and for cells that cannot be deleted.
    """
    from vlpeft.benchmark.cells.records import Store
    from vlpeft.benchmark.plan.check import save_plan
    from vlpeft.benchmark.plan.stages import first_stage
    from vlpeft.results.status import unplanned_ids
    from vlpeft.slurm.control import cancel_jobs_of

    store = Store(options.root)
    made = first_stage(options.handle, store).plan
    _refuse_too_early(options, made)
    save_plan(made, options.root, mixed=options.mixed_environments)
    left = [name for name in unplanned_ids(made, store) if CELL_ID.fullmatch(name)]
    unfinished = {cell_id for cell_id in left if not store.has_record(cell_id)}
    if jobs := cancel_jobs_of(options.root, unfinished):
        print_note(f"--prune: {count_things(jobs, 'job')} cancelled")
    for cell_id in left:
        state = "not done" if cell_id in unfinished else "done"
        print_note(f"--prune: {state}: {cell_id} {_describe(cell_id, store)}")
    if options.delete:
        _delete(left, store)
        print_note(f"--prune: {count_cells(len(left))} deleted")
    elif left:
        print_note(f"--prune: {count_cells(len(left))} left; --delete deletes their results")
    else:
        print_note("--prune: all cells of the folder belong to a sweep")


def _refuse_too_early(options: argparse.Namespace, made: Plan) -> None:
    """Raise UserError while the cells that would be pruned may still be run or needed."""
    from vlpeft.benchmark.launch.presence import launchers
    from vlpeft.benchmark.plan.stages import waits

    if at_work := launchers(options.root, made.sweep):
        first = at_work[0]
        raise UserError(
            f"--prune: the sweep runs (process {first.process} on {first.host}); "
            f"stop it first: `vlpeft cancel {options.handle.as_typed()}`"
        )
    if options.delete and waits(made):
        raise UserError(
            "--delete: which settings are the best is not known yet, and their results may be "
            "needed; leave it out until `tune:` is done"
        )


def _describe(cell_id: str, store: Store) -> str:
    from vlpeft.results.status import describe_unplanned

    try:
        cell = describe_unplanned(cell_id, store)
    except UserError:  # of settings that this version does not know, or damaged
        return "its cell.json cannot be read"
    return f"{cell.method} | {cell.backbone} | {cell.task}/{cell.dataset} | seed {cell.seed}"


def _delete(cells: Collection[str], store: Store) -> None:
    """Delete the results of all cells that can be deleted; then raise UserError for the others."""
    problems = []
    for cell_id in cells:
        problem = _delete_cell(store.folder(cell_id))
        if problem:
            problems.append(problem)
    if problems:
        raise UserError(f"--delete: {'; '.join(problems)}")


def _delete_cell(folder: Path) -> str:
    """Delete the folder of a cell once no process holds it. Returns why that is impossible."""
    from filelock import Timeout

    from vlpeft.benchmark.core.locks import hold

    if folder.is_symlink():
        return f"{folder} is a link; delete it by hand"
    lock = folder / "lock"
    try:
        with hold(lock, LOCK_SECONDS):
            for path in sorted(folder.iterdir()):
                if path != lock:
                    _remove(path)
        # Only now: a network disk keeps the file of a lock that is held.
        lock.unlink()
        folder.rmdir()
    except Timeout:
        return f"cell {folder.name} still runs; stop it where it does with `vlpeft cancel`"
    except OSError as error:
        return f"cannot delete {folder}: {error.strerror or error}; delete it by hand"
    return ""


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
