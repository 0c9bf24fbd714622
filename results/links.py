"""Do published tables and their sweeps belong together? Every number has a cell or a reason; every cell has a number or is known.

Expanding a sweep loads methods and backbones, so this is for tests and for those who add a table.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.cell import Planned
from benchmark.grid import expand
from benchmark.metrics import METRICS
from benchmark.sweep import sweep_names
from benchmark.tasks import TASKS
from results.published import SHARE, Column, Group, Number, PublishedTable, Row, load_published

Place = tuple[str, str, str]  # method, backbone, task/dataset


def sweep_of(name: str) -> str | None:
    """The sweep that reproduces a table, or None where there is none."""
    sweep = load_published(name).sweep or name
    return sweep if sweep in sweep_names() else None


def places(sweep: str) -> dict[Place, Planned]:
    """Every task of every cell of a sweep, seeds aside."""
    return {(cell.row, cell.backbone, part.name): cell for cell in expand(sweep) for part in cell.cell.parts}


def unlinked(name: str) -> list[str]:
    """What is wrong with the links of a table, one line each."""
    sweep = sweep_of(name)
    known = places(sweep) if sweep else {}
    return [problem for number in load_published(name).numbers() for problem in _problems(name, number, known)]


def used(name: str) -> set[Place]:
    """The places that the numbers of a table are linked to; all tasks of those whose share of parameters stands there."""
    sweep = sweep_of(name)
    known = places(sweep) if sweep else {}
    table = load_published(name)
    found = {place for number in table.numbers() if not number.cannot for place, _ in _wanted(table, number)}
    return found & set(known)


def _problems(name: str, number: Number, known: dict[Place, Planned]) -> Iterator[str]:
    where = f"{name}: {number.group.name}, {number.row.name}, {number.column.name}"
    if number.cannot:
        return
    if not number.column.linked and not number.not_comparable:
        yield f"{where}: neither a cell nor a reason"
    for place, metric in _wanted(load_published(name), number):
        if place[2] and place not in known:
            yield f"{where}: no cell {' / '.join(place)}"
        elif not place[2] and not any(place[:2] == other[:2] for other in known):
            yield f"{where}: no cell {' / '.join(place[:2])}"
        elif place[2] and metric not in _reported(known[place], place[2]):
            yield f"{where}: {' / '.join(place)} does not report {metric}"


def _wanted(table: PublishedTable, number: Number) -> Iterator[tuple[Place, str]]:
    columns = [table.columns[table.names.index(name)] for name in number.column.mean_of] or [number.column]
    for row in _rows(number.group, number.row):
        for column in columns:
            if column.linked:
                yield _place(number.group, row, column), column.measured


def _rows(group: Group, row: Row) -> list[Row]:
    return [row] if row.gain is None else [group.row(name) or Row(name, {}, method=name) for name in (row.gain.of, row.gain.over)]


def _place(group: Group, row: Row, column: Column) -> Place:
    return row.method, group.backbone, "" if column.measured == SHARE else column.task


def _reported(cell: Planned, task: str) -> set[str]:
    part = next(part for part in cell.cell.parts if part.name == task)
    names = part.protocol.metrics or TASKS.load(part.task).metrics
    return {value for name in names for value in METRICS.load(name)().value_names(part.protocol.metric_tokenizer)}
