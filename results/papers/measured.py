"""What the cells of a sweep measured for the numbers of a published table, seed by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.compatible import JOINT
from vlpeft.results.leaderboard import Leaderboard, leaderboard
from vlpeft.results.papers.published import (
    SHARE,
    Gain,
    PublishedColumn,
    PublishedGroup,
    PublishedRow,
    PublishedTable,
)
from vlpeft.results.scale import scale_notes
from vlpeft.results.states import DONE, MISSING, State, parse_states, worst_state

CellKey = tuple[str, str, str]  # method, backbone, task/dataset
ValueKey = tuple[str, str, str]  # cell id, task, dataset
ValueState = tuple[float, State]


@dataclass(frozen=True)
class MeasuredValue:
    """The measurement for one printed number.

    values: by seed, of the seeds that have it.
    planned: how many seeds the plan asks for.
    state: "done" only if every planned seed has a finite value.
    small: what makes the cells small (`vlpeft.results.scale`).
    """

    values: Mapping[int, float] = field(default_factory=dict)
    planned: int = 0
    state: State = MISSING
    small: tuple[str, ...] = ()

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None until all are done."""
        if not self.state.is_done:
            return None
        return statistics.fmean(self.values.values())

    @property
    def std(self) -> float | None:
        """Sample standard deviation (ddof=1); None for one seed."""
        if not self.state.is_done or len(self.values) < 2:
            return None
        return statistics.stdev(self.values.values())


@dataclass(frozen=True)
class Measurements:
    """Looks up what a plan's cells measured. Without a plan everything is missing."""

    table: PublishedTable
    plan: Plan | None
    store: Results | None
    mixed: bool = False

    @cached_property
    def board(self) -> Leaderboard | None:
        """The leaderboard of the plan's cells, None without a plan.

        Raises UserError as `leaderboard` does.
        """
        if self.plan is None or self.store is None:
            return None
        return leaderboard(self.plan, self.store, mixed=self.mixed)

    def outcome(
        self, group: PublishedGroup, row: PublishedRow, column: PublishedColumn
    ) -> MeasuredValue:
        """Return the measurement of one number.

        It is a cell's value, a mean of columns, or the gain of one row over another. Means and
        gains are computed seed by seed.
        """
        if row.gain is not None:
            return self._gain(group, row.gain, column)
        if column.mean_of:
            columns = map(self.table.column, column.mean_of)
            parts = [self.outcome(group, row, each) for each in columns]
            return _combine(parts, statistics.fmean)
        return self._measured(row.method, group.backbone, column)

    def _gain(self, group: PublishedGroup, gain: Gain, column: PublishedColumn) -> MeasuredValue:
        rows = (group.row_or_method(gain.of), group.row_or_method(gain.over))
        pair = [self.outcome(group, each, column) for each in rows]
        return _combine(pair, lambda values: gain.between(values[0], values[1]))

    def _measured(self, method: str, backbone: str, column: PublishedColumn) -> MeasuredValue:
        """Return the values of the cells of one method, backbone and task."""
        task = "" if column.measured == SHARE else column.task
        cells = self._cells.get((method, backbone, task), [])
        found = {cell.seed: self._value(cell, part, column) for cell, part in cells}
        if len(found) < len(cells):
            what = column.task or column.name
            raise UserError(
                f"{method}, {backbone}, {what}: more than one cell per seed matches; "
                "give each its own label"
            )
        values = {seed: value for seed, (value, state) in found.items() if state.is_done}
        states = [state for _, state in found.values()]
        labels: dict[str, None] = {}
        for cell, _ in cells:
            labels |= dict.fromkeys(scale_notes(cell.cell))
        return MeasuredValue(values, len(found), worst_state(states), tuple(labels))

    def _value(self, cell: Planned, part: int, column: PublishedColumn) -> ValueState:
        """Return one seed's value and state."""
        if column.measured == SHARE:
            return self._share(cell)
        where = cell.cell.parts[part]
        loosely = bool(scale_notes(cell.cell))
        metrics = self._values.get((cell.id, where.task, where.dataset.name), {})
        for name, (value, state) in metrics.items():
            if _is_same(name, column.measured, loosely=loosely):
                if state.is_done and not math.isfinite(value):
                    return value, State("absent", f"the value is {value}")
                return value, state
        return math.nan, State("absent", f"the cell does not report {column.measured}")

    def _share(self, cell: Planned) -> ValueState:
        """Return trainable parameters in percent of all but the vision tower's.

        Both counts include the task head.
        """
        if cell.skipped:
            return math.nan, State("skipped", cell.skipped)
        if self.store is None or not self.store.has_record(cell.id):
            return math.nan, self._state(cell)
        cost = self.store.record(cell.id).cost
        if not {"trainable", "total", "vision"} <= set(cost):
            return math.nan, State("absent", "the record does not count parameters")
        return 100 * cost["trainable"] / (cost["total"] - cost["vision"]), DONE

    def _state(self, cell: Planned) -> State:
        """Return why a cell has no record: that of its first metric."""
        first = cell.cell.parts[0]
        metrics = self._values.get((cell.id, first.task, first.dataset.name), {})
        return next((state for _, state in metrics.values()), MISSING)

    @cached_property
    def _cells(self) -> dict[CellKey, list[tuple[Planned, int]]]:
        """Cells, each with the index of the task in it.

        Under the task "" each method and backbone has the cells of its first task.
        """
        found: dict[CellKey, list[tuple[Planned, int]]] = {}
        if self.plan is None:
            return found
        for cell in self.plan.cells:
            for part, name in enumerate(_task_names(cell)):
                found.setdefault((cell.row, cell.backbone, name), []).append((cell, part))
        for (method, backbone, _), cells in list(found.items()):
            found.setdefault((method, backbone, ""), cells)
        return found

    @cached_property
    def _values(self) -> dict[ValueKey, dict[str, ValueState]]:
        """Value and state of each metric, by cell id, task and dataset."""
        found: dict[ValueKey, dict[str, ValueState]] = {}
        if self.board is None:
            return found
        frame = self.board.frame
        names = ("id", "task", "dataset", "metric", "value")
        columns = [frame[name].tolist() for name in names]
        columns.append(parse_states(frame["state"]))
        for cell, task, dataset, metric, value, state in zip(*columns, strict=True):
            name = dataset.partition(JOINT)[0]
            found.setdefault((cell, task, name), {})[metric] = (value, state)
        return found


def _is_same(name: str, wanted: str, *, loosely: bool) -> bool:
    """Return whether a metric is the wanted one.

    Small cells have another tokenizer, which follows the name in brackets; `loosely` ignores it.
    """
    if name == wanted:
        return True
    return loosely and name.partition(" (")[0] == wanted


def _task_names(cell: Planned) -> tuple[str, ...]:
    """Return the tasks of a cell as the sweep names them.

    At another scale, a dataset's replacement adds brackets to its name.
    """
    return tuple(part.name.partition(" (")[0] for part in cell.cell.parts)


def _combine(
    parts: Sequence[MeasuredValue], compute: Callable[[Sequence[float]], float]
) -> MeasuredValue:
    """Compute one value from several, over the seeds that all of them have."""
    values = {}
    for seed in parts[0].values:
        if all(seed in part.values for part in parts):
            values[seed] = compute([part.values[seed] for part in parts])
    labels: dict[str, None] = {}
    for part in parts:
        labels |= dict.fromkeys(part.small)
    state = next((part.state for part in parts if not part.state.is_done), DONE)
    if state.is_done and not values:
        state = State("absent", "no seed is common to all parts")
    if not all(map(math.isfinite, values.values())):
        values, state = {}, State("absent", "a gain over 0 is not defined")
    return MeasuredValue(values, min(part.planned for part in parts), state, tuple(labels))
