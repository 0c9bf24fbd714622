"""Checks that published tables and their sweeps belong together.

Every number needs a cell or a reason. Expanding a sweep loads methods and backbones, so this is
for tests and for authors of tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.core.errors import did_you_mean
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.sweep_files import sweep_names
from vlpeft.benchmark.tasks import TASKS
from vlpeft.results.papers.published import (
    SHARE,
    Number,
    PublishedColumn,
    PublishedGroup,
    PublishedRow,
    PublishedTable,
    load_published,
)

LinkedPlace = tuple[str, str, str]  # method, backbone, task/dataset


def find_sweep(name: str) -> str | None:
    """Return the sweep that reproduces a table, or None."""
    sweep = load_published(name).sweep or name
    if sweep in sweep_names():
        return sweep
    return None


def places(cells: Iterable[Planned]) -> dict[LinkedPlace, Planned]:
    """Return every task of the cells of a sweep, with one cell for all seeds."""
    found = {}
    for cell in cells:
        for part in cell.cell.parts:
            found[cell.row, cell.backbone, part.name] = cell
    return found


def find_link_problems(name: str) -> list[str]:
    """Return what is wrong with the links of a shipped table, one line each."""
    return link_problems(load_published(name), _known_places(name))


def link_problems(table: PublishedTable, known: dict[LinkedPlace, Planned]) -> list[str]:
    """Return what is wrong with the links of a table, one line each.

    known: the places of its sweep.
    """
    problems: list[str] = []
    for number in table.numbers():
        problems += _problems(table, number, known)
    return problems


def linked_places(name: str) -> set[LinkedPlace]:
    """Return the places in the sweep that the numbers of a table are linked to."""
    table = load_published(name)
    found: set[LinkedPlace] = set()
    for number in table.numbers():
        if not number.why_impossible:
            found.update(place for place, _ in _wanted(table, number))
    return found & set(_known_places(name))


def _known_places(name: str) -> dict[LinkedPlace, Planned]:
    """Return the places of a table's sweep; none if there is no sweep."""
    sweep = find_sweep(name)
    if sweep is None:
        return {}
    return places(expand(SweepHandle(sweep)))


def _problems(
    table: PublishedTable, number: Number, known: dict[LinkedPlace, Planned]
) -> Iterator[str]:
    where = f"{number.group.name}, {number.row.name}, {number.column.name}"
    if number.why_impossible:
        return
    if not number.column.is_linked and not number.why_not_comparable:
        yield f"{where}: neither a cell nor a reason"
    pairs = {place[:2] for place in known}  # method, backbone
    for place, metric in _wanted(table, number):
        *_, task = place
        if not task:  # the share of parameters: a cell of any task has it
            if place[:2] not in pairs:
                yield f"{where}: {_no_cell(place[:2], pairs)}"
        elif place not in known:
            yield f"{where}: {_no_cell(place, known)}"
        elif metric not in _reported(known[place], task):
            yield f"{where}: {' / '.join(place)} does not report {metric}"


def _no_cell(place: tuple[str, ...], known: Iterable[tuple[str, ...]]) -> str:
    """Say that the sweep has no such cell, with the nearest name of the part that is wrong."""
    said = f"no cell {' / '.join(place)}"
    for side, word in enumerate(place):
        names = {each[side] for each in known}
        if word not in names:
            return f"{said}{did_you_mean(word, names)}"
    return said


def _wanted(table: PublishedTable, number: Number) -> Iterator[tuple[LinkedPlace, str]]:
    """Yield the places and metrics that a number needs: several for a mean or a gain."""
    columns = [table.column(name) for name in number.column.mean_of] or [number.column]
    for row in _rows(number.group, number.row):
        for column in columns:
            if column.is_linked:
                yield _place(number.group, row, column), column.measured


def _rows(group: PublishedGroup, row: PublishedRow) -> list[PublishedRow]:
    """Return the row, or the two rows of a gain."""
    if row.gain is None:
        return [row]
    return [group.row_or_method(row.gain.of), group.row_or_method(row.gain.over)]


def _place(group: PublishedGroup, row: PublishedRow, column: PublishedColumn) -> LinkedPlace:
    task = "" if column.measured == SHARE else column.task
    return row.method, group.backbone, task


def _reported(cell: Planned, task: str) -> set[str]:
    """Return the names of all values that a cell reports for a task."""
    part = next(part for part in cell.cell.parts if part.name == task)
    values: set[str] = set()
    for name in part.protocol.metrics or TASKS.load(part.task).metrics:
        values.update(METRICS.load(name)().value_names(part.protocol.metric_tokenizer))
    return values
