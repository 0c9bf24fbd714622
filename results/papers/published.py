"""Tables of papers as data: `published/PAPER/TABLE.yaml`.

Files are read strictly, and numbers that follow from others are recomputed. A number has its
paper, table, row, column, metric, split and source. The sweep of the same name has cells for it:
`backbone` and `method` are labels of that sweep, and a column's `task` and `measured` are a
task/dataset and a metric.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vlpeft.benchmark.core.config import (
    Config,
    Finite,
    NonNegative,
    NonNegativeFloat,
    load_yaml,
    parse,
)
from vlpeft.benchmark.plan.sweep_files import sweep_names

FOLDER = Path(__file__).resolve().parents[1] / "published"
# `measured:` of the trainable parameters in percent of all without the vision tower's.
SHARE = "share"
SLACK = 1e-6  # for binary fractions
NonEmptyText = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Citation(Config):
    """Where a number was read, and how. `primary`: its authors published it themselves."""

    url: NonEmptyText
    primary: bool
    read: NonEmptyText


@dataclass(frozen=True)
class PublishedColumn(Config):
    """A column: its name in the paper, and the value of a cell to compare with it.

    mean_of: the columns of which it is the mean.
    within: how far a printed mean may be from the recomputed one.
    tolerance: points by which a measurement may differ and still be a reproduction.
    not_comparable: why no measurement can be judged by it.
    note: what a reader needs to know about a measurement.
    """

    name: NonEmptyText
    metric: NonEmptyText
    split: str = ""
    decimals: NonNegative = 2
    task: str = ""
    measured: str = ""
    mean_of: tuple[str, ...] = ()
    within: NonNegativeFloat = 0.0
    tolerance: NonNegativeFloat = 0.0
    not_comparable: str = ""
    note: str = ""

    @property
    def is_linked(self) -> bool:
        """Whether a cell has a value to compare with it."""
        return bool(self.measured or self.mean_of)


@dataclass(frozen=True)
class Gain(Config):
    """A row that is one row minus another, or with `relative` the gain in percent.

    of, over: rows of the group, or methods of the sweep for which the paper prints no row.
    """

    of: str
    over: str
    relative: bool = False

    def between(self, of: float, over: float) -> float:
        """Return the gain in points, or in percent of `over`: NaN where that is 0."""
        if self.relative:
            return 100 * (of / over - 1) if over else math.nan
        return of - over


@dataclass(frozen=True)
class PublishedRow(Config):
    """A row of printed numbers.

    values: in the order of the columns, or by column; null where `unknown` says why.
    again: whether these are the same printed numbers, compared with other cells.
    derived: whether the numbers are not printed, but follow from printed ones.
    qualifier: a word before the number, such as "over".
    cannot: why no cell can reproduce it.
    within: as for a column, where this row is rounded differently.
    not_comparable: as for a column, for single numbers of the row, by column.
    """

    name: NonEmptyText
    values: tuple[Finite | None, ...] | dict[str, Finite | None]
    std: tuple[NonNegativeFloat | None, ...] = ()
    method: str = ""
    gain: Gain | None = None
    again: bool = False
    derived: bool = False
    qualifier: str = ""
    cannot: str = ""
    unknown: str = ""
    source: str = ""
    within: NonNegativeFloat | None = None
    not_comparable: Mapping[str, NonEmptyText] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedGroup(Config):
    """Rows under one heading, all of one backbone."""

    name: NonEmptyText
    rows: Annotated[tuple[PublishedRow, ...], Field(min_length=1)]
    backbone: str = ""
    cannot: str = ""

    def row(self, name: str) -> PublishedRow | None:
        """Return the row of this name, or None."""
        return next((row for row in self.rows if row.name == name), None)

    def row_or_method(self, name: str) -> PublishedRow:
        """Return the row of this name, or an empty row for the method of this name.

        A gain may refer to a method for which the paper prints no row.
        """
        return self.row(name) or PublishedRow(name, {}, method=name)


@dataclass(frozen=True)
class Number:
    """One number with its place in the table. `value` is None if it is not known."""

    group: PublishedGroup
    row: PublishedRow
    column: PublishedColumn
    value: float | None
    std: float | None
    source: Citation

    @property
    def why_impossible(self) -> str:
        """Why no cell can reproduce it, or ""."""
        return self.row.cannot or self.group.cannot

    @property
    def why_not_comparable(self) -> str:
        """Why no measurement can be judged by it, or ""."""
        return self.row.not_comparable.get(self.column.name) or self.column.not_comparable


@dataclass(frozen=True)
class PublishedTable(Config):
    """A file in `published/`.

    sources: by name; the first is the source of rows that name none.
    tolerance: where the tolerances of the columns come from.
    sweep: the sweep that reproduces the table, if it has another name.
    """

    paper: NonEmptyText
    table: NonEmptyText
    sources: dict[str, Citation]
    tolerance: NonEmptyText
    columns: Annotated[tuple[PublishedColumn, ...], Field(min_length=1)]
    groups: Annotated[tuple[PublishedGroup, ...], Field(min_length=1)]
    sweep: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _unique("columns", self.names)
        _unique("groups", [group.name for group in self.groups])
        for column in self.columns:
            _known(f"column '{column.name}': mean_of", column.mean_of, self.names)
        for group in self.groups:
            _unique(f"rows of '{group.name}'", [row.name for row in group.rows])
            for row in group.rows:
                self._check(group, row, f"row '{group.name}, {row.name}'")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def title(self) -> str:
        """The names of paper and table."""
        return f"{self.paper}, {self.table}"

    def values(self, row: PublishedRow) -> dict[str, float | None]:
        """Return the numbers of a row by column."""
        if isinstance(row.values, Mapping):
            return dict(row.values)
        return dict(zip(self.names, row.values, strict=True))

    def column(self, name: str) -> PublishedColumn:
        """Return the column of this name."""
        return self.columns[self.names.index(name)]

    def numbers(self) -> Iterator[Number]:
        """Yield every number, row by row, including those of `again` rows."""
        for group in self.groups:
            for row in group.rows:
                yield from self._row_numbers(group, row)

    def _row_numbers(self, group: PublishedGroup, row: PublishedRow) -> Iterator[Number]:
        source = next(iter(self.sources.values()))
        if row.source:
            source = self.sources[row.source]
        stds = dict(zip(self.names, row.std, strict=False))
        for name, value in self.values(row).items():
            yield Number(group, row, self.column(name), value, stds.get(name), source)

    def _check(self, group: PublishedGroup, row: PublishedRow, where: str) -> None:
        """Raise ValueError for a row that does not fit the table."""
        width = len(self.columns)
        if isinstance(row.values, tuple) and len(row.values) != width:
            raise ValueError(f"{where}: {len(row.values)} values for {width} columns")
        if row.std and len(row.std) != width:
            raise ValueError(f"{where}: {len(row.std)} std for {width} columns")
        _known(f"{where}: values", self.values(row), self.names)
        _known(f"{where}: not_comparable", row.not_comparable, self.values(row))
        _known(f"{where}: source", [row.source] if row.source else [], self.sources)
        if (None in self.values(row).values()) != bool(row.unknown):
            raise ValueError(f"{where}: give `unknown` where, and only where, a value is null")
        given = sum(map(bool, (row.method, row.gain, row.cannot or group.cannot)))
        gain_of_impossible = row.gain and group.cannot
        if given != 1 and not gain_of_impossible:
            raise ValueError(f"{where}: give one of `method`, `gain` and `cannot`")


@dataclass(frozen=True)
class Recomputed:
    """A printed average or gain, and its value recomputed from the other printed numbers."""

    number: Number
    value: float
    within: float

    @property
    def agrees(self) -> bool:
        """Whether the printed number is as near as the file says."""
        printed = self.number.value
        if printed is None:
            return False
        return abs(printed - self.value) <= self.within + SLACK


def sweep_name_of(name: str) -> str:
    """Return the sweep of a published table; any other name is returned as it is."""
    if name in sweep_names() or name not in published_names():
        return name
    return load_published(name).sweep or name


def published_names() -> tuple[str, ...]:
    """Return the names of all tables, as `paper/table`, sorted."""
    paths = (path.relative_to(FOLDER).with_suffix("") for path in FOLDER.glob("*/*.yaml"))
    return tuple(sorted(path.as_posix() for path in paths))


@cache
def load_published(name: str) -> PublishedTable:
    """Read a shipped table. Raises UserError with the file and the place in it."""
    return read_published(FOLDER / f"{name}.yaml")


def read_published(path: Path) -> PublishedTable:
    """Read the file of a table. Raises UserError with the file and the place in it."""
    return parse(PublishedTable, load_yaml(path), str(path))


def recompute_numbers(table: PublishedTable) -> Iterator[Recomputed]:
    """Yield every printed average and gain whose parts are printed too.

    A mean may be off by the row's or the column's `within`, because papers round or cut off. A
    relative gain may be off by the column's. A difference of printed numbers must be equal.
    """
    for number in table.numbers():
        if number.value is None:
            continue
        if number.row.gain is not None:
            found = _gain(table, number, number.row.gain)
        else:
            found = _mean(table, number)
        if found is not None:
            yield found


def _mean(table: PublishedTable, number: Number) -> Recomputed | None:
    """Recompute a mean of columns; None if a part is not printed."""
    values = table.values(number.row)
    parts = [values.get(name) for name in number.column.mean_of]
    known = [part for part in parts if part is not None]
    if not parts or len(known) < len(parts):
        return None
    within = number.row.within
    if within is None:
        within = number.column.within
    return Recomputed(number, sum(known) / len(known), within)


def _gain(table: PublishedTable, number: Number, gain: Gain) -> Recomputed | None:
    """Recompute a gain; None if a part is not printed."""
    of = _printed(table, number, gain.of)
    over = _printed(table, number, gain.over)
    if of is None or over is None:
        return None
    within = number.column.within if gain.relative else 0.0
    return Recomputed(number, gain.between(of, over), within)


def _printed(table: PublishedTable, number: Number, name: str) -> float | None:
    """Return the number in another row of the same group and column, if it is printed."""
    row = number.group.row(name)
    if row is None:
        return None
    return table.values(row).get(number.column.name)


def _unique(what: str, names: Collection[str]) -> None:
    """Raise ValueError if a name occurs twice."""
    if len(set(names)) < len(names):
        raise ValueError(f"{what}: a name occurs twice")


def _known(what: str, names: Collection[str], known: Collection[str]) -> None:
    """Raise ValueError for a name that is not known."""
    for name in names:
        if name not in known:
            raise ValueError(f"{what}: no '{name}' here")
