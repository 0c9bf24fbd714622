"""Tables of papers as data: `published/PAPER/TABLE.yaml`, read strictly, and recomputed where a number follows from others.

A number has its paper, table, row, column, metric, split and source; the sweep of the same name has cells for it, which the
file names: `backbone` and `method` are that sweep's labels, a column's `task` and `measured` are task/dataset and a metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from vlpeft.benchmark.plan.sweep import sweep_names

FOLDER = Path(__file__).resolve().parents[1] / "published"
SHARE = "share"  # `measured:` of trainable parameters in per cent of all, those of the vision tower left out
SLACK = 1e-6  # of binary fractions
NonEmpty = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Citation(Config):
    """Where a number was read, and how; `primary` is what its authors published themselves."""

    url: NonEmpty
    primary: bool
    read: NonEmpty


@dataclass(frozen=True)
class PublishedColumn(Config):
    """A column: what the paper calls it, and what of a cell stands beside it.

    mean_of: the columns of which it is the mean; `within` is how far a printed mean may be from the recomputed one.
    tolerance: points by which a measurement may differ and still be a reproduction.
    not_comparable: why no measurement can be judged by it.  note: what else is to be known beside a measurement.
    """

    name: NonEmpty
    metric: NonEmpty
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
        """Whether anything a cell leaves stands beside it."""
        return bool(self.measured or self.mean_of)


@dataclass(frozen=True)
class Gain(Config):
    """A row that is one row minus another, or with `relative` by how many per cent it is more.

    `of` and `over` are rows of the group, or methods of the sweep for which the paper prints no row.
    """

    of: str
    over: str
    relative: bool = False

    def between(self, of: float, over: float) -> float:
        """Points, or per cent of `over`."""
        return 100 * (of / over - 1) if self.relative else of - over


@dataclass(frozen=True)
class PublishedRow(Config):
    """A row: its numbers in the order of the columns, or some of them by column; null where `unknown` says why.

    again: the same printed numbers beside other cells.  derived: not printed, but following from what is.
    cannot: why no cell can reproduce it.  within: as the columns', where this row is printed otherwise.
    not_comparable: as the columns', for the row's own number in a column.
    """

    name: NonEmpty
    values: tuple[Finite | None, ...] | dict[str, Finite | None]
    std: tuple[NonNegativeFloat | None, ...] = ()
    method: str = ""
    gain: Gain | None = None
    again: bool = False
    derived: bool = False
    qualifier: str = ""  # such as "over", before the number
    cannot: str = ""
    unknown: str = ""
    source: str = ""
    within: NonNegativeFloat | None = None
    not_comparable: Mapping[str, NonEmpty] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedGroup(Config):
    """Rows under one heading, all of one backbone."""

    name: NonEmpty
    rows: Annotated[tuple[PublishedRow, ...], Field(min_length=1)]
    backbone: str = ""
    cannot: str = ""

    def row(self, name: str) -> PublishedRow | None:
        """The row of this name."""
        return next((row for row in self.rows if row.name == name), None)


@dataclass(frozen=True)
class Number:
    """One number in its place; `value` is None where it is not known."""

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
    """A file; the first source is that of rows which name none. `tolerance` says where the columns' tolerances come from."""

    paper: NonEmpty
    table: NonEmpty
    sources: dict[str, Citation]
    tolerance: NonEmpty
    columns: Annotated[tuple[PublishedColumn, ...], Field(min_length=1)]
    groups: Annotated[tuple[PublishedGroup, ...], Field(min_length=1)]
    sweep: str = ""  # the sweep that reproduces it, if it is not of the same name
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
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def title(self) -> str:
        """Paper and table."""
        return f"{self.paper}, {self.table}"

    def values(self, row: PublishedRow) -> dict[str, float | None]:
        """The row's numbers by column."""
        return (
            dict(row.values)
            if isinstance(row.values, Mapping)
            else dict(zip(self.names, row.values, strict=True))
        )

    def numbers(self) -> Iterator[Number]:
        """Every number, row by row; those of `again` rows too."""
        default = next(iter(self.sources.values()))
        for group in self.groups:
            for row in group.rows:
                stds = dict(zip(self.names, row.std, strict=False))
                source = self.sources[row.source] if row.source else default
                for name, value in self.values(row).items():
                    yield Number(
                        group,
                        row,
                        self.columns[self.names.index(name)],
                        value,
                        stds.get(name),
                        source,
                    )

    def _check(self, group: PublishedGroup, row: PublishedRow, where: str) -> None:
        if isinstance(row.values, tuple) and len(row.values) != len(self.columns):
            raise ValueError(f"{where}: {len(row.values)} values for {len(self.columns)} columns")
        if row.std and len(row.std) != len(self.columns):
            raise ValueError(f"{where}: {len(row.std)} std for {len(self.columns)} columns")
        _known(f"{where}: values", self.values(row), self.names)
        _known(f"{where}: not_comparable", row.not_comparable, self.values(row))
        _known(f"{where}: source", [row.source] if row.source else [], self.sources)
        if (None in self.values(row).values()) != bool(row.unknown):
            raise ValueError(f"{where}: give `unknown` where, and only where, a value is null")
        if sum(map(bool, (row.method, row.gain, row.cannot or group.cannot))) != 1 and not (
            row.gain and group.cannot
        ):
            raise ValueError(f"{where}: give one of `method`, `gain` and `cannot`")


@dataclass(frozen=True)
class Recomputed:
    """A printed average or gain beside what the other printed numbers make of it."""

    number: Number
    value: float
    within: float

    @property
    def agrees(self) -> bool:
        """Whether the printed number is as near as the file says."""
        return (
            self.number.value is not None
            and abs(self.number.value - self.value) <= self.within + SLACK
        )


def sweep_name_of(name: str) -> str:
    """The sweep that belongs to a published table's name; any other name as it is."""
    return (
        (load_published(name).sweep or name)
        if name in published_names() and name not in sweep_names()
        else name
    )


def published_names() -> tuple[str, ...]:
    """Names of the tables, `paper/table`."""
    return tuple(
        sorted(
            path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.yaml")
        )
    )


@cache
def load_published(name: str) -> PublishedTable:
    """Read a table. Raises UserError naming file and place."""
    path = FOLDER / f"{name}.yaml"
    return parse(PublishedTable, load_yaml(path), str(path))


def recompute_numbers(table: PublishedTable) -> Iterator[Recomputed]:
    """Every printed average and gain whose parts are printed too.

    A mean may be off by the column's `within` (papers round or cut off), or by the row's own; a difference of printed numbers
    must be equal; a relative gain may be off by the column's `within`.
    """
    for number in table.numbers():
        found = (
            None
            if number.value is None
            else _gain(table, number)
            if number.row.gain
            else _mean(table, number)
        )
        if found is not None:
            yield found


def _mean(table: PublishedTable, number: Number) -> Recomputed | None:
    values = table.values(number.row)
    parts = [values.get(name) for name in number.column.mean_of]
    known = [part for part in parts if part is not None]
    if not parts or len(known) < len(parts):
        return None
    within = number.column.within if number.row.within is None else number.row.within
    return Recomputed(number, sum(known) / len(known), within)


def _gain(table: PublishedTable, number: Number) -> Recomputed | None:
    gain = number.row.gain
    rows = [number.group.row(name) for name in (gain.of, gain.over)] if gain else []
    of, over = [table.values(row).get(number.column.name) if row else None for row in rows]
    if gain is None or of is None or over is None:
        return None
    return Recomputed(
        number, gain.between(of, over), number.column.within if gain.relative else 0.0
    )


def _unique(what: str, names: tuple[str, ...] | list[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"{what}: a name stands twice")


def _known(
    what: str,
    names: Mapping[str, object] | tuple[str, ...] | list[str],
    known: tuple[str, ...] | Mapping[str, object],
) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what}: no '{name}' here")
