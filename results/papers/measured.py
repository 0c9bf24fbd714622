"""What the cells of a sweep have measured for the numbers of a published table, seed by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.leaderboard import JOINT, Leaderboard, leaderboard
from vlpeft.results.papers.published import (
    SHARE,
    PublishedColumn,
    PublishedGroup,
    PublishedRow,
    PublishedTable,
)
from vlpeft.results.scale import scale_notes

MISSING = "missing"


@dataclass(frozen=True)
class MeasuredValue:
    """What stands beside a number.

    values: by seed, of the seeds that have it.  planned: how many seeds the plan asks for.
    state: as in `vlpeft.results.leaderboard`; "done" only where every planned seed has a finite value.
    small: what makes the cells small (`vlpeft.results.scale`).
    """

    values: Mapping[int, float] = field(default_factory=dict)
    planned: int = 0
    state: str = MISSING
    small: tuple[str, ...] = ()

    @property
    def mean(self) -> float | None:
        """Over the seeds, once all are there."""
        return statistics.fmean(self.values.values()) if self.state == "done" else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (ddof=1); None for one seed."""
        return (
            statistics.stdev(self.values.values())
            if self.state == "done" and len(self.values) > 1
            else None
        )


@dataclass(frozen=True)
class Measurements:
    """Looks up what a plan's cells have measured; without a plan everything is missing."""

    table: PublishedTable
    plan: Plan | None
    store: Store | None
    mixed: bool = False

    @cached_property
    def board(self) -> Leaderboard | None:
        """The leaderboard of the plan's cells, None without a plan. Raises UserError as `leaderboard` does."""
        if self.plan is None or self.store is None:
            return None
        return leaderboard(self.plan, self.store, mixed=self.mixed)

    def outcome(
        self, group: PublishedGroup, row: PublishedRow, column: PublishedColumn
    ) -> MeasuredValue:
        """Of one number: a cell's, a mean of columns, or the gain of one row over another; means and gains seed by seed."""
        if row.gain is not None:
            gain, (of, over) = (
                row.gain,
                (self._referred(group, name) for name in (row.gain.of, row.gain.over)),
            )
            pair = [self.outcome(group, of, column), self.outcome(group, over, column)]
            return _joined(pair, lambda values: gain.between(values[0], values[1]))
        if column.mean_of:
            parts = [
                self.outcome(group, row, self.table.columns[self.table.names.index(name)])
                for name in column.mean_of
            ]
            return _joined(parts, statistics.fmean)
        return self._measured(row.method, group.backbone, column)

    def _referred(self, group: PublishedGroup, name: str) -> PublishedRow:
        """A row of the group, or one that stands for a method for which the paper prints none."""
        return group.row(name) or PublishedRow(name, {}, method=name)

    def _measured(self, method: str, backbone: str, column: PublishedColumn) -> MeasuredValue:
        cells = self._cells.get(
            (method, backbone, column.task if column.measured != SHARE else ""), []
        )
        found = {cell.seed: self._value(cell, part, column) for cell, part in cells}
        if len(found) < len(cells):
            what = column.task or column.name
            raise UserError(
                f"{method}, {backbone}, {what}: more than one cell a seed could be meant; give each its own label"
            )
        values = {seed: value for seed, (value, state) in found.items() if state == "done"}
        states = sorted((state for _, state in found.values() if state != "done"), key=_severity)
        labels = dict.fromkeys(label for cell, _ in cells for label in scale_notes(cell.cell))
        return MeasuredValue(
            values, len(found), states[0] if states else "done" if found else MISSING, tuple(labels)
        )

    def _value(self, cell: Planned, part: int, column: PublishedColumn) -> tuple[float, str]:
        if column.measured == SHARE:
            return self._share(cell)
        where = cell.cell.parts[part]
        metrics = self._values.get((cell.id, where.task, where.dataset.name), {})
        names = [
            name
            for name in metrics
            if _same(name, column.measured, loosely=bool(scale_notes(cell.cell)))
        ]
        value, state = (
            metrics[names[0]]
            if names
            else (math.nan, f"absent: the cell does not report {column.measured}")
        )
        return (
            (value, state)
            if state != "done" or math.isfinite(value)
            else (value, f"absent: the value is {value}")
        )

    def _share(self, cell: Planned) -> tuple[float, str]:
        """Trainable parameters, task head included, of all but the vision tower's, in per cent."""
        if cell.skipped:
            return math.nan, f"skipped: {cell.skipped}"
        if self.store is None or not self.store.has_record(cell.id):
            return math.nan, MISSING
        cost = self.store.record(cell.id).cost
        if not {"trainable", "total", "vision"} <= set(cost):
            return math.nan, "absent: the record does not count parameters"
        return 100 * cost["trainable"] / (cost["total"] - cost["vision"]), "done"

    @cached_property
    def _cells(self) -> dict[tuple[str, str, str], list[tuple[Planned, int]]]:
        """Cells and the place of the task in them, by method, backbone and task/dataset; under "" each cell once."""
        found: dict[tuple[str, str, str], list[tuple[Planned, int]]] = {}
        for cell, names in _named(self.plan) if self.plan else ():
            for part, name in enumerate(names):
                found.setdefault((cell.row, cell.backbone, name), []).append((cell, part))
        for (method, backbone, _), cells in list(found.items()):
            found.setdefault((method, backbone, ""), cells)  # of several tasks the first
        return found

    @cached_property
    def _values(self) -> dict[tuple[str, str, str], dict[str, tuple[float, str]]]:
        """Value and state of each metric, by cell, task and dataset."""
        if self.board is None:
            return {}
        frame = self.board.frame
        found: dict[tuple[str, str, str], dict[str, tuple[float, str]]] = {}
        columns = (
            frame[name].tolist() for name in ("id", "task", "dataset", "metric", "value", "state")
        )
        for cell, task, dataset, metric, value, state in zip(*columns, strict=True):
            name = dataset.partition(JOINT)[0]
            found.setdefault((cell, task, name), {})[metric] = (value, state)
        return found


def _severity(state: str) -> int:
    """What will not mend itself comes first: a seed that failed, a metric that could not be computed, then what is only missing."""
    kinds = ("skipped", "failed", "absent", MISSING)
    return kinds.index(state.partition(": ")[0])


def _same(name: str, wanted: str, *, loosely: bool) -> bool:
    """Whether a metric is the wanted one; loosely, with another tokenizer too, which small cells have."""
    return name == wanted or (loosely and name.partition(" (")[0] == wanted)


def _named(plan: Plan) -> Iterator[tuple[Planned, tuple[str, ...]]]:
    """Cells, and their tasks as the sweep names them: at another scale the data that stands for a dataset says so behind its name."""
    for cell in plan.cells:
        yield cell, tuple(part.name.partition(" (")[0] for part in cell.cell.parts)


def _joined(
    parts: Sequence[MeasuredValue], compute: Callable[[Sequence[float]], float]
) -> MeasuredValue:
    """One outcome of several, over the seeds that all of them have."""
    seeds = [seed for seed in parts[0].values if all(seed in part.values for part in parts)]
    labels = dict.fromkeys(label for part in parts for label in part.small)
    state = next((part.state for part in parts if part.state != "done"), "done")
    values = {seed: compute([part.values[seed] for part in parts]) for seed in seeds}
    if state == "done" and not values:
        state = "absent: no seed is common to all parts"
    return MeasuredValue(values, min(part.planned for part in parts), state, tuple(labels))
