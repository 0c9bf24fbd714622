"""Check a sweep before anything runs: its settings, its combinations, and its data.

Models are built on torch's meta device: at full size, but without memory for their weights.
So what cannot be built is found here, and the parameters are counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vlpeft.benchmark.cells.cell import Cell, Part, Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.core.config import dump, parse_json
from vlpeft.benchmark.core.errors import DataError, UserError, error_context
from vlpeft.benchmark.core.files import read_bytes, to_json, write_atomically
from vlpeft.benchmark.core.words import count_cells
from vlpeft.benchmark.plan.changes import refuse_other_code, refuse_other_images
from vlpeft.benchmark.plan.compatibility import (
    check_names,
    check_recipe,
    reason_to_skip,
    skip_unfit,
    without_optimizer,
)
from vlpeft.benchmark.plan.counts import count_parameters, describe_cut_texts
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.sweep import (
    PlanOrigin,
    SweepHandle,
    name_file,
    plan_file,
    refuse_other_sweep,
    relative_origin,
    sweep_name,
)
from vlpeft.benchmark.run.inputs import Inputs

UNREADABLE = "data: "  # the reason begins so if a cell is skipped because its data is unreadable
CHECKED = ("trainable", "head", "total", "data", "cut")  # what a check adds to a planned cell


def plan(sweep: SweepHandle, *, need_data: bool, results: Results | None = None) -> Plan:
    """Expand a sweep and check all its cells.

    With `results`, the cells of stage 2 of a `tune:` get the best setting that is on record there.

    Four kinds of cells are marked as skipped, with the reason: those that a backbone or method
    rules out; those whose data cannot be read, unless `need_data`; those that a scale makes equal
    to an earlier cell; and those that wait for the first stage of a `tune:`.

    Raises:
        UserError: For settings that cannot work, in any cell of the grid. With `need_data`, for
            data that cannot be read. If nothing can run, unless that is because a dataset's
            whole folder is not on this machine.
    """
    path = str(sweep.path)
    checker = _Checker(need_data, path)
    cells = tuple(checker.check(cell) for cell in expand(sweep, results))
    if sweep.scale:
        cells = tuple(_skip_repeated(cells))
    _refuse_equal_cells(cells, path)
    elsewhere = not need_data and any(_has_no_folder(cell) for cell in cells)
    if all(cell.skipped for cell in cells) and not elsewhere:
        raise UserError(
            f"{path}: nothing to run: {count_cells(len(cells))}, all skipped; "
            f"the first: {cells[0].skipped}"
        )
    return _make_plan(sweep, cells)


def plan_cell(sweep: SweepHandle, beginning: str) -> tuple[Plan, Planned]:
    """Expand a sweep, and check only the cell whose id starts with `beginning`.

    The other cells of the plan have their reason to skip, but no parameter counts.

    Raises:
        UserError: If no cell or several cells match, if the cell is skipped, if its settings
            cannot work, or if its data cannot be read.
    """
    path = str(sweep.path)
    cells = tuple(map(skip_unfit, expand(sweep, Store(sweep.root))))
    if sweep.scale:
        cells = tuple(_skip_repeated(cells))
    _refuse_equal_cells(cells, path)
    chosen = _make_plan(sweep, cells).find(beginning)
    checked = _Checker(need_data=True, where=path).check(chosen)
    cells = tuple(checked if cell is chosen else cell for cell in cells)
    return _make_plan(sweep, cells), checked


def _make_plan(sweep: SweepHandle, cells: tuple[Planned, ...]) -> Plan:
    """Build the plan of a sweep; another scale is part of its name and title."""
    content = sweep.sweep
    title = content.title or sweep_name(sweep.path)
    if sweep.scale:
        title = f"{title} (scale: {sweep.scale})"
    file = name_file(sweep.path)
    return Plan(sweep.name, title, content.notes, sweep.fingerprint(), cells, file)


def _has_no_folder(planned: Planned) -> bool:
    """True if a dataset of the cell has a folder which is not on this machine."""
    roots = [part.dataset.root for part in planned.cell.parts]
    return any(root and not Path(root).exists() for root in roots)


def save_plan(plan_: Plan, root: Path, *, mixed: bool = False) -> None:
    """Write a plan and its cells to a result folder, where workers and tables find them.

    Raises UserError if a dataset has changed since one of the cells was run, if the folder holds
    another sweep of the same name, or (unless `mixed`) if the code has changed since some seeds of
    a row were run and others are still to run.
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
            cells.append(_copy_check(counted[cell.id], cell, CHECKED))
        else:
            cells.append(cell)
    return replace(plan_, cells=tuple(cells))


def _copy_check(source: Planned, target: Planned, names: Sequence[str]) -> Planned:
    """Return `target` with these results of the check of `source`."""
    return replace(target, **{name: getattr(source, name) for name in names})


class _Checker:
    """Checks cells, and remembers the data, models and methods that many of them share."""

    def __init__(self, need_data: bool, where: str) -> None:
        self.need_data, self.where = need_data, where
        self.answers: dict[str, int | str] = {}
        self.counts: dict[str, dict[str, int]] = {}
        self.cut: dict[str, str] = {}
        self.data: dict[str, str] = {}
        self.last: Planned | None = None

    def check(self, planned: Planned) -> Planned:
        """Fill in the reason to skip a cell, or its parameter counts and data.

        The seed changes none of these, so a cell that differs from the last one only by its
        seed is not checked again.
        """
        last = self.last
        if last is not None and replace(planned.cell, seed=last.seed) == last.cell:
            return _copy_check(last, planned, ("skipped", *CHECKED))
        self.last = self._check(planned)
        return self.last

    def _check(self, planned: Planned) -> Planned:
        cell = planned.cell
        reason = reason_to_skip(cell)
        if reason:
            return replace(planned, skipped=reason)
        place = (
            f"{self.where}: '{planned.row}' on '{planned.backbone}', "
            f"{planned.task}/{planned.dataset}"
        )
        with error_context(place):
            check_recipe(cell)
            for part in cell.parts:
                check_names(part)
        if planned.skipped:
            return planned  # it waits for other cells, and the tested split stays closed
        keys = [json.dumps(without_optimizer(part), sort_keys=True) for part in cell.parts]
        found = [self._answers(*each) for each in zip(keys, cell.parts, strict=True)]
        for answers in found:
            if isinstance(answers, str):
                # The data is unreadable. What cannot be built is an error nonetheless.
                with error_context(place):
                    self._count(cell, keys, cell.protocol.max_answers)
                return replace(planned, skipped=answers)
        with error_context(place):
            counts = self._count(cell, keys, int(found[0]))
            cut = self._cut(cell, keys)
        data = "+".join(self._data(part) for part in cell.parts)
        return replace(
            planned,
            trainable=counts["trainable"],
            head=counts["head"],
            total=counts["total"],
            data=data,
            cut=cut,
        )

    def _data(self, part: Part) -> str:
        """Return the fingerprint of a dataset as it is now."""
        key = json.dumps({**part.dataset.identity(), "root": part.dataset.root}, sort_keys=True)
        if key not in self.data:
            self.data[key] = part.dataset.open().fingerprint()
        return self.data[key]

    def _answers(self, key: str, part: Part) -> int | str:
        """Return the size of the answer list, or the reason why the data cannot be read."""
        if key not in self.answers:
            self.answers[key] = self._read_answers(part)
        return self.answers[key]

    def _read_answers(self, part: Part) -> int | str:
        try:
            inputs = Inputs.open(part)
            size = len(inputs.answers)
        except DataError as error:
            if self.need_data:
                raise
            return f"{UNREADABLE}{error}"
        selects = part.protocol.select == "best"
        if not inputs.training or not inputs.test or (selects and not inputs.selection):
            raise UserError(
                f"dataset '{part.dataset.name}': an empty split; "
                "check `train_split`, `eval_split`, `select_split` and the limits"
            )
        with error_context(self.where):
            inputs.check()
        return size

    def _count(self, cell: Cell, parts: Sequence[str], answers: int) -> dict[str, int]:
        """Return the parameter counts of a cell with an answer list of this size."""
        choices = [vars(cell.method), vars(cell.backbone)]
        key = json.dumps([choices, answers, *parts], sort_keys=True)
        if key not in self.counts:
            self.counts[key] = count_parameters(cell, answers)
        return self.counts[key]

    def _cut(self, cell: Cell, parts: Sequence[str]) -> str:
        """Return which training texts are cut; "" if none is, or no tokenizer is available."""
        key = json.dumps([vars(cell.backbone), *parts], sort_keys=True)
        if key not in self.cut:
            self.cut[key] = describe_cut_texts(cell)
        return self.cut[key]


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


def _refuse_equal_cells(cells: Sequence[Planned], where: str) -> None:
    """Raise UserError for two runnable cells with the same id."""
    seen: dict[str, Planned] = {}
    for cell in cells:
        if cell.id in seen and not cell.skipped:
            first = seen[cell.id]
            if (first.row, first.backbone) == (cell.row, cell.backbone):
                raise UserError(
                    f"{where}: '{cell.row}' on {cell.backbone}, {cell.task}/{cell.dataset}, "
                    f"seed {cell.seed} appears twice; remove the task or seed that is repeated"
                )
            raise UserError(
                f"{where}: '{first.row}' on {first.backbone} and '{cell.row}' on {cell.backbone} "
                f"are the same cell {cell.id}; remove one"
            )
        seen[cell.id] = cell
