"""Differences between the methods of a column that are more than noise.

The best method of a column is tested against every other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.cells.scores import DECIMALS, ImageScores
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.compatible import JOINT
from vlpeft.results.leaderboard import Leaderboard
from vlpeft.results.states import State, parse_states
from vlpeft.results.statistics.crossed import SEEDS, two_way
from vlpeft.results.statistics.paired import Difference, Floats, differences, holm, ranks

ColumnPlace = tuple[str, str, str, str]  # backbone, task, dataset, metric
Value = TypeVar("Value", float, Floats)
NO_VALUE = "a value is missing"
TOLERANCE = 10.0**-DECIMALS


def subtract_by_seed(first: Mapping[int, Value], other: Mapping[int, Value]) -> list[Value]:
    """Return the differences of what both have for a seed, in the order of the first."""
    return [first[seed] - other[seed] for seed in first if seed in other]


@dataclass(frozen=True)
class TestedColumn:
    """The methods of one column of a table, all of whose cells are done.

    examples: (images,), how many examples each image has.
    seeds: for each method, its value by seed.
    by_seed: for each method and seed, the sums of scores by image, (images,).

    With SEEDS seeds or more, differences are tested over seeds and images, with fewer over images.
    """

    methods: tuple[str, ...]
    examples: Floats
    seeds: tuple[Mapping[int, float], ...]
    by_seed: tuple[Mapping[int, Floats], ...]

    @cached_property
    def sums(self) -> Floats:
        """(methods, images), means over seeds of the sums of scores by image."""
        return np.array([np.mean(list(own.values()), 0) for own in self.by_seed])

    @cached_property
    def means(self) -> Floats:
        """(methods,), in percent."""
        return np.asarray(self.sums.sum(1) / self.examples.sum())

    @cached_property
    def best(self) -> str:
        """The method with the highest mean; of several, the first."""
        return self.methods[int(np.argmax(self.means))]

    @cached_property
    def below(self) -> dict[str, Difference]:
        """The best minus each other method, corrected together."""
        best = self.methods.index(self.best)
        others = [i for i in range(len(self.methods)) if i != best]
        if not others:
            return {}
        found = differences(self.sums[best], self.sums[others], self.examples)
        over_images = {self.methods[i]: each for i, each in zip(others, found, strict=True)}
        # A claim about other seeds, too, is never easier than one about other images alone.
        decides = {
            method: max(each.p, self.over_seeds.get(method, 0.0))
            for method, each in over_images.items()
        }
        corrected = dict(zip(decides, holm(list(decides.values())), strict=True))
        return {
            method: replace(
                each, corrected=float(corrected[method]), p_both=self.over_seeds.get(method)
            )
            for method, each in over_images.items()
        }

    @cached_property
    def over_seeds(self) -> dict[str, float]:
        """The p over seeds and images, for each method that shares enough seeds with the best."""
        best = self.by_seed[self.methods.index(self.best)]
        found: dict[str, float] = {}
        for method, own in zip(self.methods, self.by_seed, strict=True):
            sums = subtract_by_seed(best, own)
            if method != self.best and len(sums) >= SEEDS:
                (p,) = two_way(np.array(sums)[None], self.examples)
                found[method] = float(p)
        return found

    def is_beaten(self, method: str) -> bool:
        """Return whether the best is significantly above a method.

        A test over images alone does not see how training scatters. With too few seeds for a test
        over both, a difference that another seed reverses is not clear.
        """
        if method not in self.below or not self.below[method].significant:
            return False
        ahead = self.differences_by_seed(method)
        if method in self.over_seeds:
            return float(np.mean(ahead)) > 0  # not so if the best has seeds that this one lacks
        return bool(ahead) and min(ahead) > 0

    def differences_by_seed(self, method: str) -> list[float]:
        """Return the best minus this method, for each seed that both have."""
        best, other = self.methods.index(self.best), self.methods.index(method)
        return subtract_by_seed(self.seeds[best], self.seeds[other])

    @cached_property
    def clear(self) -> bool:
        """Whether there are other methods, and the best has beaten all of them."""
        return bool(self.below) and all(map(self.is_beaten, self.below))

    @property
    def has_enough_seeds(self) -> bool:
        """Whether all comparisons are over seeds and images."""
        return len(self.over_seeds) == len(self.methods) - 1

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each method. Methods that the best has not beaten share its rank."""
        tied = [not self.is_beaten(method) for method in self.methods]
        return dict(zip(self.methods, ranks(list(self.means), tied), strict=True))


@dataclass(frozen=True)
class Significance:
    """The columns of a leaderboard that can be tested, and why the others cannot."""

    columns: Mapping[ColumnPlace, TestedColumn]
    reasons: Mapping[ColumnPlace, str]

    def bold(self, place: ColumnPlace, method: str) -> bool:
        """Return whether a table may print the method's value in bold."""
        column = self.columns.get(place)
        if column is None:
            return False
        return column.clear and column.best == method

    def rank(self, place: ColumnPlace, method: str) -> int | None:
        """Return the method's rank in its column; None where there was no test."""
        if place not in self.columns:
            return None
        return self._ranks[place].get(method)

    @cached_property
    def _ranks(self) -> dict[ColumnPlace, dict[str, int]]:
        return {place: column.ranks for place, column in self.columns.items()}


UNTESTED = Significance({}, {})


def significance(board: Leaderboard, store: Results) -> Significance:
    """Test every column (backbone, task, dataset, metric) that has two methods or more.

    Raises UserError for scores by image that are damaged or of another run.
    """
    columns: dict[ColumnPlace, TestedColumn] = {}
    reasons: dict[ColumnPlace, str] = {}
    reader = _Reader(store)
    for place, cells in _places(board):
        found = _column(place, cells, reader)
        if isinstance(found, TestedColumn):
            columns[place] = found
        elif found:
            reasons[place] = found
    return Significance(columns, reasons)


@dataclass(frozen=True)
class _Cell:
    method: str
    seed: int
    id: str
    value: float
    state: State


def _places(board: Leaderboard) -> Iterator[tuple[ColumnPlace, list[_Cell]]]:
    """Yield the columns of the scores, with the cells that the grid does not rule out.

    Breakdowns by question type are left out.
    """
    names = ["backbone", "task", "dataset", "metric", "method", "seed", "id", "value"]
    values = [board.frame[name].tolist() for name in names]
    values.append(parse_states(board.frame["state"]))
    found: dict[ColumnPlace, list[_Cell]] = {}
    for backbone, task, dataset, metric, *cell in zip(*values, strict=True):
        made = _Cell(*cell)
        if "/" not in metric and not made.state.is_skipped:
            found.setdefault((backbone, task, dataset, metric), []).append(made)
    yield from found.items()


class _Reader:
    """Reads each cell's scores once."""

    def __init__(self, store: Results) -> None:
        self.store = store
        self.read: dict[str, dict[str, ImageScores]] = {}

    def scores(self, cell_id: str, task: str) -> ImageScores | None:
        """Return the scores of one task of a cell; None where none were kept."""
        if cell_id not in self.read:
            self.read[cell_id] = {part.task: part for part in self.store.scores(cell_id)}
        return self.read[cell_id].get(task)


def _column(place: ColumnPlace, cells: Sequence[_Cell], reader: _Reader) -> TestedColumn | str:
    """Return a column, or why it cannot be tested; "" if there is nothing to compare."""
    methods = tuple(dict.fromkeys(cell.method for cell in cells))
    if len(methods) < 2:
        return ""
    if any(not cell.state.is_done for cell in cells):
        return NO_VALUE
    parts: list[ImageScores] = []
    for cell in cells:
        part = reader.scores(cell.id, _task(place))
        if part is None:
            return "some cells have no scores by image; cells of this version keep them"
        parts.append(part)
    if any(place[3] not in part.sums for part in parts):
        return "the metric is not a mean over examples"
    if len({(part.images, part.examples) for part in parts}) > 1:
        return "its cells were tested on different examples"
    return _collect(methods, place[3], cells, parts)


def _collect(
    methods: tuple[str, ...], metric: str, cells: Sequence[_Cell], parts: Sequence[ImageScores]
) -> TestedColumn:
    """Collect the sums of scores of each method by seed."""
    rows: dict[str, dict[int, Floats]] = {method: {} for method in methods}
    seeds: dict[str, dict[int, float]] = {method: {} for method in methods}
    for cell, part in zip(cells, parts, strict=True):
        _check(cell, metric, part)
        rows[cell.method][cell.seed] = np.array(part.sums[metric], float)
        seeds[cell.method][cell.seed] = cell.value
    examples = np.array(parts[0].examples, float)
    return TestedColumn(methods, examples, tuple(seeds.values()), tuple(rows.values()))


def _check(cell: _Cell, metric: str, part: ImageScores) -> None:
    """Raise UserError unless the record's value is the mean of these scores."""
    mean = part.mean(metric)
    if abs(mean - cell.value) > TOLERANCE:
        raise UserError(
            f"cell {cell.id}: its scores by image give {metric} {mean:.4f}, its record says "
            f"{cell.value:.4f}; they come from different runs: "
            "delete scores.json, or record.json to run the cell again"
        )


def _task(place: ColumnPlace) -> str:
    """Return the task/dataset of a column, as scores by image name it."""
    return f"{place[1]}/{place[2].partition(JOINT)[0]}"
