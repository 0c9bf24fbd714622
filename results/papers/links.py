"""Do published tables and their sweeps belong together? Every number has a cell or a reason; every cell has a number or is known.

Expanding a sweep loads methods and backbones, so this is for tests and for those who add a table.
"""

from __future__ import annotations

from collections.abc import Iterator

from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.sweep import sweep_names
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
    """The sweep that reproduces a table, or None where there is none."""
    sweep = load_published(name).sweep or name
    return sweep if sweep in sweep_names() else None


def places(sweep: str) -> dict[LinkedPlace, Planned]:
    """Every task of every cell of a sweep, seeds aside."""
    return {
        (cell.row, cell.backbone, part.name): cell
        for cell in expand(sweep)
        for part in cell.cell.parts
    }


def find_link_problems(name: str) -> list[str]:
    """What is wrong with the links of a table, one line each."""
    sweep = find_sweep(name)
    known = places(sweep) if sweep else {}
    return [
        problem
        for number in load_published(name).numbers()
        for problem in _problems(name, number, known)
    ]


def linked_places(name: str) -> set[LinkedPlace]:
    """The places that the numbers of a table are linked to; all tasks of those whose share of parameters stands there."""
    sweep = find_sweep(name)
    known = places(sweep) if sweep else {}
    table = load_published(name)
    found = {
        place
        for number in table.numbers()
        if not number.why_impossible
        for place, _ in _wanted(table, number)
    }
    return found & set(known)


def _problems(name: str, number: Number, known: dict[LinkedPlace, Planned]) -> Iterator[str]:
    where = f"{name}: {number.group.name}, {number.row.name}, {number.column.name}"
    if number.why_impossible:
        return
    if not number.column.is_linked and not number.why_not_comparable:
        yield f"{where}: neither a cell nor a reason"
    for place, metric in _wanted(load_published(name), number):
        if place[2] and place not in known:
            yield f"{where}: no cell {' / '.join(place)}"
        elif not place[2] and not any(place[:2] == other[:2] for other in known):
            yield f"{where}: no cell {' / '.join(place[:2])}"
        elif place[2] and metric not in _reported(known[place], place[2]):
            yield f"{where}: {' / '.join(place)} does not report {metric}"


def _wanted(table: PublishedTable, number: Number) -> Iterator[tuple[LinkedPlace, str]]:
    columns = [table.columns[table.names.index(name)] for name in number.column.mean_of] or [
        number.column
    ]
    for row in _rows(number.group, number.row):
        for column in columns:
            if column.is_linked:
                yield _place(number.group, row, column), column.measured


def _rows(group: PublishedGroup, row: PublishedRow) -> list[PublishedRow]:
    return (
        [row]
        if row.gain is None
        else [
            group.row(name) or PublishedRow(name, {}, method=name)
            for name in (row.gain.of, row.gain.over)
        ]
    )


def _place(group: PublishedGroup, row: PublishedRow, column: PublishedColumn) -> LinkedPlace:
    return row.method, group.backbone, "" if column.measured == SHARE else column.task


def _reported(cell: Planned, task: str) -> set[str]:
    part = next(part for part in cell.cell.parts if part.name == task)
    names = part.protocol.metrics or TASKS.load(part.task).metrics
    return {
        value
        for name in names
        for value in METRICS.load(name)().value_names(part.protocol.metric_tokenizer)
    }
