"""From a sweep to its cells: methods crossed with backbones, tasks and seeds.

`benchmark/plan/sweep.py` reads the file, `benchmark/plan/resolved.py` fills in the settings of its
entries, and `benchmark/plan/crossing.py` builds the cells of one combination. What is here goes
through all combinations, and through both stages of a `tune:`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from vlpeft.benchmark.cells.cell import Planned, Tuned
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError, error_context
from vlpeft.benchmark.plan.best import Tried, check_metric, choose
from vlpeft.benchmark.plan.compatibility import reason_to_skip
from vlpeft.benchmark.plan.crossing import Crossed, build_cells, data_layers
from vlpeft.benchmark.plan.entries import (
    Tasks,
)
from vlpeft.benchmark.plan.recipes import Layer
from vlpeft.benchmark.plan.resolved import (
    Grid,
    Resolved,
    allows,
    read_grid,
    resolve_tried,
)
from vlpeft.benchmark.plan.search import Search, Study, study_name
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.tuning import STAGE, Tuning


def expand(sweep: SweepHandle, results: Results | None = None) -> list[Planned]:
    """Return all cells of a sweep in its order, resolved but not yet checked.

    Args:
        sweep: The sweep.
        results: Where the cells of a `tune:` have their records. Without all of them, the cells
            that test the best setting are marked as skipped, because they have to wait.

    Raises:
        UserError: For the first bad setting.
    """
    return [each.planned for each in cross_layers(sweep, results)]


def cross_layers(sweep: SweepHandle, results: Results | None = None) -> list[Crossed]:
    """Return the cells of `expand`, each with the layers of its settings."""
    grid = read_grid(sweep, results)
    return list(_cross(grid))


def _cross(grid: Grid) -> Iterator[Crossed]:
    """Build the cells of every combination that `on:` allows."""
    # The layers of a dataset are the same in all its cells, so they are read once.
    data = [tuple(data_layers(place, grid.size) for place in tasks.places) for tasks in grid.tasks]
    for backbone, number, method in _combinations(grid):
        build = _tuned if method.tried else build_cells
        yield from build(grid, backbone, grid.tasks[number], method, data[number])


def _combinations(grid: Grid) -> Iterator[tuple[Resolved, int, Resolved]]:
    """Yield the backbone, the number of the task and the method of what `on:` allows."""
    for backbone, number, method in product(grid.backbones, range(len(grid.tasks)), grid.methods):
        if allows(grid.tasks[number].on, backbone) and allows(method.entry.on, backbone):
            yield backbone, number, method


@dataclass(frozen=True)
class ComparedSettings:
    """The settings of a method that are compared on one backbone and task.

    methods: the method with each setting.
    crossed: the cells of each, one a seed.
    study: the search that chooses the settings; None for a list.
    """

    tuning: Tuning
    methods: tuple[Resolved, ...]
    crossed: tuple[tuple[Crossed, ...], ...]
    study: Study | None

    def list_tried(self) -> list[Tried]:
        """Return the settings with their cells."""
        found = []
        for method, cells in zip(self.methods, self.crossed, strict=True):
            settings = {key: method.entry.varied[key] for key in self.tuning.settings[0]}
            found.append(Tried(settings, tuple(each.planned for each in cells)))
        return found


def list_searches(sweep: SweepHandle, results: Results) -> Iterator[ComparedSettings]:
    """Yield the comparisons whose settings a search chooses, where method and backbone fit."""
    grid = read_grid(sweep, results)
    for backbone, number, method in _combinations(grid):
        tasks, tuning = grid.tasks[number], method.entry.tuning
        if tuning is None or tuning.search is None:
            continue
        (first, *_) = build_cells(grid, backbone, tasks, method.tried[0], (), tuning)
        if not reason_to_skip(first.planned.cell):
            yield _compare(grid, backbone, tasks, method, ())


def _compare(
    grid: Grid,
    backbone: Resolved,
    tasks: Tasks,
    method: Resolved,
    data: tuple[tuple[Layer, ...], ...],
) -> ComparedSettings:
    """Build the cells that compare the settings of a method."""
    tuning = method.entry.tuning
    assert tuning is not None  # there are settings to try
    methods, study = method.tried, None
    if tuning.search is not None:
        study = _study(grid, backbone, tasks, method, tuning.search)
        where = f"{grid.where}: method '{method.entry.label}'"
        methods = tuple(resolve_tried(method.entry, each, where) for each in study.list_settings())
    crossed = []
    for each in methods:
        cells = build_cells(grid, backbone, tasks, each, data, tuning)
        searched = study is not None
        crossed.append(tuple(_at_stage(one, searched=searched) for one in cells))
    return ComparedSettings(tuning, methods, tuple(crossed), study)


def _study(grid: Grid, backbone: Resolved, tasks: Tasks, method: Resolved, search: Search) -> Study:
    """Return the search for one combination.

    Its name changes with all that its scores depend on: the ranges, and the cell at their lowest
    values, which holds every other setting.
    """
    tuning = method.entry.tuning
    assert tuning is not None
    _check_limits(grid, backbone, tasks, method, search)
    (first, *_) = build_cells(grid, backbone, tasks, method.tried[0], (), tuning)
    at, options = first.planned, search.options
    name = study_name(at.id, search.written, options.sampler, options.seed, dump(tuning.options))
    return Study(name, search, grid.trials.studies.get(name, ()))


def _check_limits(
    grid: Grid, backbone: Resolved, tasks: Tasks, method: Resolved, search: Search
) -> None:
    """Raise UserError for a range with a value that cannot work, before there is a trial."""
    where = f"{grid.where}: method '{method.entry.label}'"
    for values in search.limits():
        try:
            tried = resolve_tried(method.entry, values, where)
            list(build_cells(grid, backbone, tasks, tried, (), method.entry.tuning))
        except UserError as error:
            if "integer" not in str(error):
                raise
            raise UserError(f"{error}; write whole numbers as choice(A, B, ...)") from error


def _tuned(
    grid: Grid,
    backbone: Resolved,
    tasks: Tasks,
    method: Resolved,
    data: tuple[tuple[Layer, ...], ...],
) -> Iterator[Crossed]:
    """Build the cells that compare the settings of a method, then those that test the best."""
    compared = _compare(grid, backbone, tasks, method, data)
    for cells in compared.crossed:
        yield from cells
    number, chosen = _choose(grid, backbone, tasks, method, compared)
    best = (compared.methods or method.tried)[number]
    entry = replace(
        best.entry,
        label=method.entry.label,
        varied=method.entry.varied,
        family=method.entry.family,
    )
    for crossed in build_cells(grid, backbone, tasks, replace(best, entry=entry), data):
        if isinstance(chosen, str):
            planned = replace(crossed.planned, skipped=chosen)
        else:
            planned = replace(crossed.planned, tuned=chosen)
        yield replace(crossed, planned=planned)


def _choose(
    grid: Grid, backbone: Resolved, tasks: Tasks, method: Resolved, compared: ComparedSettings
) -> tuple[int, Tuned | str]:
    """Return the number of the best setting and how it was chosen, or 0 and why there is none."""
    (first, *_) = build_cells(grid, backbone, tasks, method.tried[0], (), compared.tuning)
    if reason := reason_to_skip(first.planned.cell):
        return 0, reason
    study = compared.study
    is_complete = study is None or study.is_complete()
    with error_context(f"{grid.where}: method '{method.entry.label}'"):
        check_metric(compared.tuning, first.planned)
        return choose(compared.tuning, compared.list_tried(), grid.results, is_complete=is_complete)


def _at_stage(crossed: Crossed, *, searched: bool) -> Crossed:
    return replace(crossed, planned=replace(crossed.planned, stage=STAGE, searched=searched))
