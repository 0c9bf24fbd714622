"""Plan + records -> what the report shows, as plain values.

These are scores with their seeds and costs, curves, and p and mu; failures and provenance are in
`vlpeft.results.report.origins`. Everything is an aggregate over seeds with at most POINTS points a
curve. So the size of the page follows the number of methods and tables, not that of records. Each
record is read once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from vlpeft.benchmark.cells.attempts import failure
from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Record
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.cells.scores import ImageScores
from vlpeft.benchmark.core.paths import hide_folders
from vlpeft.results.leaderboard import Leaderboard, leaderboard
from vlpeft.results.report.origins import FailedAttempt, failures_and_reasons, provenance_block
from vlpeft.results.states import parse_states
from vlpeft.results.summaries import SummaryEntry, costs, scores
from vlpeft.results.tables.blocks import Block

POINTS = 60
FLOW = {"self": 0, "cross": 1, "ffn": 2}  # the order of the sites of a layer
ResultPlace = tuple[str, str, str]  # backbone, task, dataset
ReportSetting = tuple[str, str, str]  # backbone, data, method
RecordedCell = tuple[Planned, Record]
Points = tuple[tuple[float, float], ...]
T = TypeVar("T")


@dataclass(frozen=True)
class ReadOnce:
    """`Results` whose records are kept in memory, because several tables are made from each.

    inner: a result folder or evidence.
    kept: the records that were read, by id.
    """

    inner: Results
    kept: dict[str, Record] = field(default_factory=dict)

    def folder(self, cell_id: str) -> Path:
        """Return the folder of a cell."""
        return self.inner.folder(cell_id)

    def has_record(self, cell_id: str) -> bool:
        """Return True once the cell is finished."""
        return cell_id in self.kept or self.inner.has_record(cell_id)

    def record(self, cell_id: str) -> Record:
        """Return the record of a cell, from memory the second time."""
        if cell_id not in self.kept:
            self.kept[cell_id] = self.inner.record(cell_id)
        return self.kept[cell_id]

    def records(self) -> Iterator[Record]:
        """Yield all records, sorted by id."""
        return self.inner.records()

    def scores(self, cell_id: str) -> tuple[ImageScores, ...]:
        """Return the scores of a cell by image."""
        return self.inner.scores(cell_id)


@dataclass(frozen=True)
class Score:
    """One metric of one method on one backbone, task and dataset.

    values: of the finished seeds, in the plan's order.
    seconds: mean training time; None where not measured.
    memory: mean peak memory in MB; None where not measured.
    """

    entry: SummaryEntry
    values: tuple[float, ...]
    seconds: float | None
    memory: float | None

    @property
    def place(self) -> ResultPlace:
        """Backbone, task and dataset."""
        return self.entry.backbone, self.entry.task, self.entry.dataset


@dataclass(frozen=True)
class CurveLine:
    """A mean curve over the `n` seeds that have it, at the steps that all of them have."""

    points: Points
    n: int


@dataclass(frozen=True)
class SiteCurve:
    """A quantity that a method tracks at one site, such as its p.

    line: over the steps of training.
    last: the last value of each seed.
    """

    name: str
    line: CurveLine
    last: tuple[float, ...]


@dataclass(frozen=True)
class TrackedCurves:
    """One tracked quantity (`p`, `mu`) of one method on one backbone and data.

    The sites are in the model's order.
    """

    backbone: str
    data: str
    method: str
    quantity: str
    sites: tuple[SiteCurve, ...]


@dataclass(frozen=True)
class Curves:
    """Learning curves of the methods on one backbone and data. `name` is the quantity."""

    backbone: str
    data: str
    name: str
    lines: Mapping[str, CurveLine]  # by method


@dataclass(frozen=True)
class ReportModel:
    """All that the page shows, except tables and examples.

    scores: including breakdowns by question type.
    unfinished: settings with some, but not all seeds done; no mean of them is shown.
    states: the number of cells by state: done, failed, missing, skipped.
    """

    board: Leaderboard
    methods: tuple[str, ...]
    scores: tuple[Score, ...]
    curves: tuple[Curves, ...]
    followed: tuple[TrackedCurves, ...]
    unfinished: tuple[str, ...]
    states: Mapping[str, int]
    problems: tuple[Block, ...]
    made: Block

    @property
    def main(self) -> list[Score]:
        """The scores without breakdowns."""
        return [score for score in self.scores if "/" not in score.entry.metric]


def gather(plan: Plan, store: ReadOnce, *, mixed: bool = False, stage: str = "") -> ReportModel:
    """Read the results of a plan's cells of one stage. Raises UserError as `leaderboard` does."""
    board = leaderboard(plan, store, mixed=mixed, stage=stage)
    plan = plan.at_stage(stage)
    # At another scale a cell may repeat an earlier one and have the same id.
    distinct = {cell.id: cell for cell in plan.runnable()}
    undone = [cell for cell in distinct.values() if cell.id not in store.kept]
    failed = list(_failures(undone, store))
    finished = [(cell, store.kept[cell.id]) for cell in plan.runnable() if cell.id in store.kept]
    complete, unfinished = _split_complete(finished, plan.runnable())
    records = [store.kept[cell_id] for cell_id in distinct if cell_id in store.kept]
    return ReportModel(
        board=board,
        methods=tuple(dict.fromkeys(cell.row for cell in plan.cells)),
        scores=tuple(_scores(board)),
        curves=tuple(_curves(complete)),
        followed=tuple(_tracked(complete)),
        unfinished=unfinished,
        states={
            "done": len(distinct) - len(undone),
            "failed": len(failed),
            "missing": len(undone) - len(failed),
            "skipped": sum(bool(cell.skipped) for cell in plan.cells),
        },
        problems=tuple(failures_and_reasons(failed, board)),
        made=provenance_block(records),
    )


def _failures(cells: Iterable[Planned], store: Results) -> Iterator[FailedAttempt]:
    """Yield the cells whose last attempt failed, with cause and message."""
    for cell in cells:
        found = failure(store, cell.id)
        if found is not None:
            roots = [part.dataset.root for part in cell.cell.parts]
            yield FailedAttempt(cell, found.cause, hide_folders(found.message, *roots))


def _split_complete(
    finished: Sequence[RecordedCell], planned: Iterable[Planned]
) -> tuple[list[RecordedCell], tuple[str, ...]]:
    """Return the cells of settings with every seed done, and the names of partial settings."""
    wanted = Counter(map(_setting, planned))
    done = Counter(_setting(cell) for cell, _ in finished)
    complete = [each for each in finished if done[_setting(each[0])] == wanted[_setting(each[0])]]
    partial = [setting for setting in done if done[setting] < wanted[setting]]
    names = tuple(f"{method} on {backbone}, {data}" for backbone, data, method in partial)
    return complete, names


def _setting(cell: Planned) -> ReportSetting:
    return cell.backbone, dataset_label(cell), cell.row


def dataset_label(cell: Planned) -> str:
    """Return what a cell was trained on: task/dataset, several for a joint cell."""
    return " + ".join(part.name for part in cell.cell.parts)


def _scores(board: Leaderboard) -> Iterator[Score]:
    """Yield the scores with the values of their seeds and their costs."""
    names = ("backbone", "method", "task", "dataset", "metric", "value")
    columns = [board.frame[name].tolist() for name in names]
    columns.append(parse_states(board.frame["state"]))
    values: dict[tuple[str, ...], list[float]] = {}
    for *key, value, state in zip(*columns, strict=True):
        if state.is_done:
            values.setdefault(tuple(key), []).append(value)
    means = {_key(entry): entry.mean for entry in costs(board)}
    for entry in scores(board, details=True):
        name = _key(entry)
        seconds = means.get((*name[:4], "train_seconds"))
        memory = means.get((*name[:4], "peak_memory_mb"))
        yield Score(entry, tuple(values.get(name, ())), seconds, memory)


def _key(entry: SummaryEntry) -> tuple[str, ...]:
    return entry.backbone, entry.method, entry.task, entry.dataset, entry.metric


def _grouped(finished: Iterable[RecordedCell]) -> dict[ReportSetting, list[Record]]:
    """Group the records of the seeds of each setting."""
    found: dict[ReportSetting, list[Record]] = {}
    for cell, record in finished:
        found.setdefault(_setting(cell), []).append(record)
    return found


def _curves(finished: Iterable[RecordedCell]) -> Iterator[Curves]:
    """Yield the training losses, then the scores of epochs where epochs were compared."""
    losses: dict[tuple[str, str], dict[str, CurveLine]] = {}
    chosen: dict[tuple[str, str, str], dict[str, CurveLine]] = {}
    for (backbone, data, method), records in _grouped(finished).items():
        if any(record.curve for record in records):
            loss = line(record.curve for record in records)
            losses.setdefault((backbone, data), {})[method] = loss
        selected = [record.selection for record in records if record.selection is not None]
        if selected:
            name = f"{' + '.join(selected[0].metric)} on {selected[0].split}"
            ways = [list(enumerate(each.scores, start=1)) for each in selected]
            chosen.setdefault((backbone, data, name), {})[method] = line(ways)
    for (backbone, data), lines in losses.items():
        yield Curves(backbone, data, "training loss", lines)
    for (backbone, data, name), lines in chosen.items():
        yield Curves(backbone, data, name, lines)


def line(ways: Iterable[Sequence[tuple[int, float]]]) -> CurveLine:
    """Return the mean of several curves at their common steps.

    It is thinned to POINTS points, which include the first and the last.
    """
    curves = [dict(way) for way in ways if way]
    if not curves:
        return CurveLine((), 0)
    steps = thinned(sorted(set.intersection(*(set(curve) for curve in curves))), POINTS)
    means = tuple((step, fmean(curve[step] for curve in curves)) for step in steps)
    return CurveLine(means, len(curves))


def thinned(values: Sequence[T], limit: int) -> list[T]:
    """Return at most `limit` of the values, evenly spread, with the first and the last."""
    if len(values) <= limit:
        return list(values)
    last = len(values) - 1
    return [values[round(i * last / (limit - 1))] for i in range(limit)]


def _tracked(finished: Iterable[RecordedCell]) -> Iterator[TrackedCurves]:
    """Yield the quantities that methods track, such as p and mu."""
    for (backbone, data, method), records in _grouped(finished).items():
        by_quantity: dict[str, list[str]] = {}
        for name in _tracked_names(records):
            by_quantity.setdefault(name.rpartition(".")[2], []).append(name)
        for quantity in sorted(by_quantity, reverse=True):  # p before mu
            names = sorted(by_quantity[quantity], key=_natural)
            sites = tuple(_site(name, records) for name in names)
            yield TrackedCurves(backbone, data, method, quantity, sites)


def _tracked_names(records: Iterable[Record]) -> list[str]:
    names: dict[str, None] = {}
    for record in records:
        names |= dict.fromkeys(record.scalars)
    return list(names)


def _site(name: str, records: Iterable[Record]) -> SiteCurve:
    ways = [record.scalars[name] for record in records if record.scalars.get(name)]
    last = tuple(way[-1][1] for way in ways)
    return SiteCurve(name.rpartition(".")[0], line(ways), last)


def _natural(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sort names of sites as the data flows.

    The encoder precedes the decoder, layer 9 precedes layer 10, self-attention precedes
    cross-attention.
    """
    parts = name.split(".")
    return parts[0] == "decoder", list(map(_natural_part, parts))


def _natural_part(part: str) -> tuple[int, str]:
    if part.isdecimal():
        return int(part), ""
    return FLOW.get(part, len(FLOW)), part
