"""Which differences between the methods of a column are more than noise: the column's best against every other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.cells.scores import DECIMALS, ImageScores
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.leaderboard import JOINT, Leaderboard
from vlpeft.results.statistics.paired import Difference, Floats, differences, ranks

ColumnPlace = tuple[str, str, str, str]  # backbone, task, dataset, metric
MISSING = "a value is missing"
TOLERANCE = 10.0**-DECIMALS


@dataclass(frozen=True)
class TestedColumn:
    """The methods of one column of a table, all of whose cells are done, and what may be said of them.

    sums: (methods, images), means over seeds of the sums of scores by image.  examples: (images,).
    means: (methods,).  seeds: of each method, its value by seed.
    """

    methods: tuple[str, ...]
    sums: Floats
    examples: Floats
    seeds: tuple[Mapping[int, float], ...]

    @cached_property
    def means(self) -> Floats:
        """In per cent."""
        return np.asarray(self.sums.sum(1) / self.examples.sum())

    @cached_property
    def best(self) -> str:
        """The method of the highest mean; of several the first."""
        return self.methods[int(np.argmax(self.means))]

    @cached_property
    def below(self) -> dict[str, Difference]:
        """The best minus each other method, corrected together."""
        best = self.methods.index(self.best)
        others = [i for i in range(len(self.methods)) if i != best]
        found = differences(self.sums[best], self.sums[others], self.examples) if others else []
        return {self.methods[i]: difference for i, difference in zip(others, found, strict=True)}

    def is_beaten(self, method: str) -> bool:
        """Whether the best is significantly above it, and above it with every seed.

        A test over images alone knows nothing of how training scatters: what another seed turns round is not clear.
        """
        if method not in self.below or not self.below[method].significant:
            return False
        ahead = self.differences_by_seed(method)
        return bool(ahead) and min(ahead) > 0

    def differences_by_seed(self, method: str) -> list[float]:
        """The best minus this method, with each seed that both have."""
        best, other = (self.seeds[self.methods.index(name)] for name in (self.best, method))
        return [best[seed] - other[seed] for seed in best if seed in other]

    @cached_property
    def clear(self) -> bool:
        """Whether the best has beaten every other method, of which there is one at least."""
        return bool(self.below) and all(map(self.is_beaten, self.below))

    @property
    def ranks(self) -> dict[str, int]:
        """By method; those that the best has not beaten share its rank."""
        tied = [not self.is_beaten(method) for method in self.methods]
        return dict(zip(self.methods, ranks(list(self.means), tied), strict=True))


@dataclass(frozen=True)
class Significance:
    """Of a leaderboard: its columns that can be tested, and why the others cannot."""

    columns: Mapping[ColumnPlace, TestedColumn]
    reasons: Mapping[ColumnPlace, str]

    def bold(self, place: ColumnPlace, method: str) -> bool:
        """Whether a table may set the method's value in bold."""
        column = self.columns.get(place)
        return column is not None and column.clear and column.best == method

    def rank(self, place: ColumnPlace, method: str) -> int | None:
        """The method's rank in its column; None where there was no test."""
        return self._ranks[place].get(method) if place in self.columns else None

    @cached_property
    def _ranks(self) -> dict[ColumnPlace, dict[str, int]]:
        return {place: column.ranks for place, column in self.columns.items()}


UNTESTED = Significance({}, {})


def significance(board: Leaderboard, store: Store) -> Significance:
    """Test every column (backbone, task, dataset, metric) that has two methods or more. Raises UserError for damaged or foreign scores."""
    columns, reasons, reader = (
        dict[ColumnPlace, TestedColumn](),
        dict[ColumnPlace, str](),
        _Reader(store),
    )
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
    state: str


def _places(board: Leaderboard) -> Iterator[tuple[ColumnPlace, list[_Cell]]]:
    """Columns of the scores, breakdowns aside, with the cells that the grid does not rule out."""
    names = ["backbone", "task", "dataset", "metric", "method", "seed", "id", "value", "state"]
    found: dict[ColumnPlace, list[_Cell]] = {}
    for backbone, task, dataset, metric, *cell in zip(
        *(board.frame[name].tolist() for name in names), strict=True
    ):
        if "/" not in metric and not cell[-1].startswith("skipped"):
            found.setdefault((backbone, task, dataset, metric), []).append(_Cell(*cell))
    yield from found.items()


class _Reader:
    """Reads each cell's scores once."""

    def __init__(self, store: Store) -> None:
        self.store, self.read = store, dict[str, dict[str, ImageScores]]()

    def scores(self, cell_id: str, task: str) -> ImageScores | None:
        """Of one task of a cell; None where none were kept."""
        if cell_id not in self.read:
            self.read[cell_id] = {part.task: part for part in self.store.scores(cell_id)}
        return self.read[cell_id].get(task)


def _column(place: ColumnPlace, cells: Sequence[_Cell], reader: _Reader) -> TestedColumn | str:
    """A column, or why there is none; "" where there is nothing to compare."""
    methods = tuple(dict.fromkeys(cell.method for cell in cells))
    if len(methods) < 2:
        return ""
    if any(cell.state != "done" for cell in cells):
        return MISSING
    parts = list[ImageScores]()
    for cell in cells:
        part = reader.scores(cell.id, _task(place))
        if part is None:
            return "of some cells no scores by image were kept; cells of this version keep them"
        parts.append(part)
    if any(place[3] not in part.sums for part in parts):
        return "it is no mean over examples"
    if len({(part.images, part.examples) for part in parts}) > 1:
        return "its cells were tested on different examples"
    return _averaged(methods, place[3], cells, parts)


def _averaged(
    methods: tuple[str, ...], metric: str, cells: Sequence[_Cell], parts: Sequence[ImageScores]
) -> TestedColumn:
    rows: dict[str, list[tuple[float, ...]]] = {method: [] for method in methods}
    for cell, part in zip(cells, parts, strict=True):
        _check(cell, metric, part)
        rows[cell.method].append(part.sums[metric])
    seeds = tuple(
        {cell.seed: cell.value for cell in cells if cell.method == method} for method in methods
    )
    return TestedColumn(
        methods,
        np.array([np.mean(rows[method], 0) for method in methods]),
        np.array(parts[0].examples, float),
        seeds,
    )


def _check(cell: _Cell, metric: str, part: ImageScores) -> None:
    """The scores are those that the record's value is the mean of."""
    mean = part.mean(metric)
    if abs(mean - cell.value) > TOLERANCE:
        raise UserError(
            f"cell {cell.id}: its scores by image give {metric} {mean:.4f}, its record says {cell.value:.4f}; "
            "they are not of one run: delete scores.json, or record.json to run the cell again"
        )


def _task(place: ColumnPlace) -> str:
    return f"{place[1]}/{place[2].partition(JOINT)[0]}"
