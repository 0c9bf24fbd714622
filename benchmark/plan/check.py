"""Check a sweep before anything runs: its settings, its combinations, and its data.

Models are built on torch's meta device: at full size, but without memory for their weights.
So what cannot be built is found here, and the parameters are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vlpeft.benchmark.backbones.weights import quiet
from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.core.config import dump, parse_json
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import read_bytes, to_json, write_atomically
from vlpeft.benchmark.core.words import count_cells
from vlpeft.benchmark.plan.changes import refuse_other_code, refuse_other_images
from vlpeft.benchmark.plan.checker import CHECKED, CellChecker, copy_check
from vlpeft.benchmark.plan.compatibility import (
    reason_to_skip,
    skip_unfit,
)
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.plan_files import (
    PlanOrigin,
    plan_file,
    refuse_other_sweep,
    relative_origin,
)
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.sweep_files import name_file, sweep_name
from vlpeft.benchmark.plan.tuning import WAITING


def plan(sweep: SweepHandle, *, need_data: bool, results: Results | None = None) -> Plan:
    """Expand a sweep and check all its cells.

    With `results`, the cells of stage 2 of a `tune:` get the best setting that is on record there.
    Done cells need no data any more.

    Four kinds of cells are marked as skipped, with the reason: those that a backbone or method
    rules out; those whose data cannot be read, unless `need_data`; those that a scale makes equal
    to an earlier cell; and those that wait for the first stage of a `tune:`.

    Raises:
        UserError: For settings that cannot work, in any cell of the grid. With `need_data`, for
            data that cannot be read. If nothing can run, unless that is because a dataset's
            whole folder is not on this machine.
    """
    # Before the files are read for the cells: an edit in between must show as a change later.
    source = sweep.fingerprint()
    path = str(sweep.path)
    checker = CellChecker(need_data, path)
    # Silenced once: to silence the libraries for each model empties a cache of Python's logging.
    with quiet():
        cells = tuple(checker.check(cell) for cell in expand(sweep, results))
    if sweep.scale:
        cells = tuple(_skip_repeated(cells))
    _refuse_equal_cells(cells, path)
    elsewhere = not need_data and any(_has_no_folder(cell) for cell in cells)
    # Before its first trial, a search has cells that wait alone.
    later = elsewhere or any(cell.skipped.startswith(WAITING) for cell in cells)
    is_done = results is not None and any(results.has_record(cell.id) for cell in cells)
    if all(cell.skipped for cell in cells) and not later and not is_done:
        raise UserError(
            f"{path}: nothing to run: {count_cells(len(cells))}, all skipped; "
            f"the first: {cells[0].skipped}"
        )
    return _make_plan(sweep, source, cells)


def plan_cell(sweep: SweepHandle, beginning: str) -> tuple[Plan, Planned]:
    """Expand a sweep, and check only the cell whose id starts with `beginning`.

    The other cells of the plan have their reason to skip, but no parameter counts.

    Raises:
        UserError: If no cell or several cells match, if the cell is skipped, if its settings
            cannot work, or if its data cannot be read.
    """
    source = sweep.fingerprint()
    path = str(sweep.path)
    cells = tuple(map(skip_unfit, expand(sweep, Store(sweep.root))))
    if sweep.scale:
        cells = tuple(_skip_repeated(cells))
    _refuse_equal_cells(cells, path)
    chosen = _make_plan(sweep, source, cells).find(beginning)
    checked = CellChecker(need_data=True, where=path).check(chosen)
    cells = tuple(checked if cell is chosen else cell for cell in cells)
    return _make_plan(sweep, source, cells), checked


def _make_plan(sweep: SweepHandle, source: str, cells: tuple[Planned, ...]) -> Plan:
    """Build the plan of a sweep; another scale is part of its name and title.

    source: the sweep's fingerprint.
    """
    content = sweep.sweep
    title = content.title or sweep_name(sweep.path)
    if sweep.scale:
        title = f"{title} (scale: {sweep.scale})"
    file = name_file(sweep.path)
    return Plan(sweep.name, title, content.notes, source, cells, file)


def _has_no_folder(planned: Planned) -> bool:
    """True if a dataset of the cell has a folder which is not on this machine."""
    roots = [part.dataset.root for part in planned.cell.parts]
    return any(root and not Path(root).exists() for root in roots)


def save_plan(plan_: Plan, root: Path, *, mixed: bool = False) -> None:
    """Write a plan and its cells to a result folder, where workers and tables find them.

    Raises UserError if a dataset has changed since one of the cells was run, or if the folder
    holds another sweep of the same name. Unless `mixed`, also if the images have changed, or if
    the code has changed since some seeds of a row were run and others are still to run.
    """
    _refuse_other_sweep(plan_, root)
    store = Store(root)
    if not mixed:
        refuse_other_code(plan_, store)
        refuse_other_images(plan_, store)
    store.reserve()
    for planned in plan_.runnable():
        _save_cell(store, planned)
    _write_plan(plan_, root)


def save_planned_cell(plan_: Plan, planned: Planned, root: Path) -> None:
    """Write one cell to a result folder, and the plan that `status` and `table` read.

    The plan lists all cells of the sweep. What an earlier launch has counted for the other
    cells is kept.
    """
    _refuse_other_sweep(plan_, root)
    store = Store(root)
    store.reserve()
    _save_cell(store, planned)
    _write_plan(_keep_counts(plan_, planned, root), root)


def _save_cell(store: Store, planned: Planned) -> None:
    """Write cell.json, unless the cell is done. Raises UserError if its data has changed since."""
    if not store.has_record(planned.id):
        store.write_cell(planned.id, dump(planned.cell))
    elif store.record(planned.id).provenance.get("data") != planned.data:
        raise UserError(
            f"dataset '{planned.dataset}' has changed since cell {planned.id} was run; "
            f"choose another --root, or delete {store.folder(planned.id)} and the folders of "
            "the other outdated cells to run them again"
        )


def _write_plan(plan_: Plan, root: Path) -> None:
    """Write the plan without indentation, which is ten times as fast."""
    if plan_.file is not None:
        plan_ = replace(plan_, file=relative_origin(plan_.file, root))
    write_atomically(plan_file(root, plan_.sweep), to_json(dump(plan_), indent=None))


def _refuse_other_sweep(plan_: Plan, root: Path) -> None:
    """Raise UserError if the folder holds the plan of another sweep of the same name."""
    if plan_.file is None:
        return
    path = plan_file(root, plan_.sweep)
    try:
        held = parse_json(PlanOrigin, read_bytes(path), str(path))
    except (OSError, UserError):
        return  # there is none, or a damaged one, which the new plan replaces
    refuse_other_sweep(held, plan_.file, plan_.source, root)


def _keep_counts(plan_: Plan, planned: Planned, root: Path) -> Plan:
    """Fill in what the plan in the result folder has counted, except for `planned` itself.

    Two processes that each run a cell may overwrite each other's plan. Then only the counts of
    one cell are lost, and its record has them, too.
    """
    file = plan_file(root, plan_.sweep)
    try:
        old = parse_json(Plan, read_bytes(file), str(file))
    except (OSError, UserError):
        return plan_  # there is none, or a damaged one, which the new plan replaces
    counted = {cell.id: cell for cell in old.cells if cell.total}
    counted.pop(planned.id, None)
    cells = []
    for cell in plan_.cells:
        if cell.id in counted and not cell.skipped:
            cells.append(copy_check(counted[cell.id], cell, CHECKED))
        else:
            cells.append(cell)
    return replace(plan_, cells=tuple(cells))


def combinations(sweep: SweepHandle) -> list[Planned]:
    """Return the first cell of each method on each backbone that it fits, in the sweep's order.

    Raises UserError if no method of the sweep fits a backbone and task of it.
    """
    first: dict[tuple[str, str], Planned] = {}
    for planned in expand(sweep):
        key = (planned.row, planned.backbone)
        if key not in first and not reason_to_skip(planned.cell):
            first[key] = planned
    if not first:
        raise UserError(
            f"{sweep.named}: no method of this sweep works with its backbones and tasks; "
            f"see `vlpeft plan {sweep.named}`"
        )
    return list(first.values())


def _skip_repeated(cells: Sequence[Planned]) -> Iterator[Planned]:
    """Skip cells that a scale makes equal to an earlier one, such as towers of two sizes."""
    first: dict[str, Planned] = {}
    for cell in cells:
        same = first.setdefault(cell.id, cell)
        if same is cell or cell.skipped:
            yield cell
        else:
            place = f"{same.row} on {same.backbone}, {same.task}/{same.dataset}"
            yield replace(cell, skipped=f"at this scale it is the cell of {place}")


def _is_chosen(*cells: Planned) -> bool:
    """Return whether scores chose the settings of a cell: then two may be equal."""
    return any(cell.searched or cell.tuned is not None for cell in cells)


def _refuse_equal_cells(cells: Sequence[Planned], where: str) -> None:
    """Raise UserError for two runnable cells with the same id.

    The best setting that an oracle chose is the same cell in both stages of a `tune:`.
    """
    seen: dict[tuple[str, str], Planned] = {}
    for cell in cells:
        key = cell.id, cell.stage
        if key in seen and not cell.skipped and not _is_chosen(cell, seen[key]):
            first = seen[key]
            if (first.row, first.backbone) == (cell.row, cell.backbone):
                raise UserError(
                    f"{where}: '{cell.row}' on {cell.backbone}, {cell.task}/{cell.dataset}, "
                    f"seed {cell.seed} appears twice; remove the task or seed that is repeated"
                )
            raise UserError(
                f"{where}: '{first.row}' on {first.backbone} and '{cell.row}' on {cell.backbone} "
                f"are the same cell {cell.id}; remove one"
            )
        seen[key] = cell
