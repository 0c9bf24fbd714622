"""Plan + records -> what the report shows, as plain values: scores with their seeds and costs, curves, p and mu, failures.

Everything here is an aggregate over seeds, thinned to at most POINTS points a curve, so that the page's size follows the number
of methods and tables, not that of records. Each record is read once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from vlpeft.benchmark.cells.attempts import failure
from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Record, Store
from vlpeft.benchmark.cells.scores import ImageScores
from vlpeft.results.leaderboard import Leaderboard, leaderboard
from vlpeft.results.summaries import SummaryEntry, costs, scores
from vlpeft.results.tables.table import Block, Text, one_line

POINTS = 60
FLOW = {"self": 0, "cross": 1, "ffn": 2}
ResultPlace = tuple[str, str, str]  # backbone, task, dataset
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class ReadOnce(Store):
    """Results whose records are kept once they are read: several tables are made from each."""

    inner: Store = field(kw_only=True)
    kept: dict[str, Record] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store) -> ReadOnce:
        """The same results, from a folder or from evidence."""
        return cls(store.root, inner=store)

    def has_record(self, cell_id: str) -> bool:
        """True once the cell is finished."""
        return cell_id in self.kept or self.inner.has_record(cell_id)

    def record(self, cell_id: str) -> Record:
        """As of a `Store`, from memory the second time."""
        if cell_id not in self.kept:
            self.kept[cell_id] = self.inner.record(cell_id)
        return self.kept[cell_id]

    def scores(self, cell_id: str) -> tuple[ImageScores, ...]:
        """Its scores by image."""
        return self.inner.scores(cell_id)


@dataclass(frozen=True)
class Score:
    """One metric of one method in one place: the leaderboard's entry, its finished seeds, and what its cells cost.

    values: in the order of the plan's seeds.  seconds, memory: means, of training and in MB; None where not measured.
    """

    entry: SummaryEntry
    values: tuple[float, ...]
    seconds: float | None
    memory: float | None

    @property
    def place(self) -> ResultPlace:
        """Where it stands."""
        return self.entry.backbone, self.entry.task, self.entry.dataset


@dataclass(frozen=True)
class CurveLine:
    """Mean over the `n` seeds that have it, at the steps that all of them have."""

    points: Points
    n: int


@dataclass(frozen=True)
class SiteCurve:
    """What a method follows at one site during training, such as its p: the way, and each seed's last value."""

    name: str
    line: CurveLine
    last: tuple[float, ...]


@dataclass(frozen=True)
class TrackedCurves:
    """One followed quantity (`p`, `mu`) of one method on one backbone and data, site by site in the model's order."""

    backbone: str
    data: str
    method: str
    quantity: str
    sites: tuple[SiteCurve, ...]


@dataclass(frozen=True)
class Curves:
    """Learning curves of the methods on one backbone and data. `name` is what the curve is of."""

    backbone: str
    data: str
    name: str
    lines: Mapping[str, CurveLine]  # by method


@dataclass(frozen=True)
class Model:
    """All that the page shows, but for the tables of `vlpeft.results.tables.table` and `vlpeft.results.papers.compare` and the examples."""

    board: Leaderboard
    methods: tuple[str, ...]
    scores: tuple[Score, ...]  # breakdowns by question type included
    curves: tuple[Curves, ...]
    followed: tuple[TrackedCurves, ...]
    unfinished: tuple[
        str, ...
    ]  # settings of which some seeds are done and some are not; no mean of them is shown
    states: Mapping[str, int]  # cells by state: done, failed, missing, skipped
    problems: tuple[Block, ...]
    made: Block

    @property
    def main(self) -> list[Score]:
        """Without breakdowns."""
        return [score for score in self.scores if "/" not in score.entry.metric]


def gather(plan: Plan, store: ReadOnce, *, mixed: bool = False) -> Model:
    """Read what a plan's cells have left. Raises UserError as `leaderboard` does, which takes `mixed`."""
    board = leaderboard(plan, store, mixed=mixed)
    runnable = {
        cell.id: cell for cell in plan.runnable()
    }  # at another scale a cell may repeat an earlier one
    done = [(cell, store.kept[cell.id]) for cell in plan.runnable() if cell.id in store.kept]
    undone = [cell for cell in runnable.values() if cell.id not in store.kept]
    failed = [
        (cell, found.cause, found.message) for cell in undone if (found := failure(store, cell.id))
    ]
    states = {
        "done": len(runnable) - len(undone),
        "failed": len(failed),
        "missing": len(undone) - len(failed),
        "skipped": sum(bool(cell.skipped) for cell in plan.cells),
    }
    methods = tuple(dict.fromkeys(cell.row for cell in plan.cells))
    made = _made([store.kept[name] for name in runnable if name in store.kept])
    problems = tuple(_problems(failed, board))
    whole, unfinished = _whole(done, plan.runnable())
    curves, ways = tuple(_curves(whole)), tuple(_followed(whole))
    return Model(
        board, methods, tuple(_scores(board)), curves, ways, unfinished, states, problems, made
    )


def _whole(
    done: Sequence[tuple[Planned, Record]], planned: Iterable[Planned]
) -> tuple[list[tuple[Planned, Record]], tuple[str, ...]]:
    """The finished cells of settings of which every seed is done, and the names of settings that are done in part."""
    wanted = Counter(map(_setting, planned))
    found = Counter(_setting(cell) for cell, _ in done)
    whole = [
        (cell, record) for cell, record in done if found[_setting(cell)] == wanted[_setting(cell)]
    ]
    partial = (setting for setting in found if found[setting] < wanted[setting])
    return whole, tuple(f"{method} on {backbone}, {data}" for backbone, data, method in partial)


def _setting(cell: Planned) -> tuple[str, str, str]:
    return cell.backbone, dataset_label(cell), cell.row


def dataset_label(cell: Planned) -> str:
    """What a cell was trained on: task/dataset, several of a joint cell."""
    return " + ".join(part.name for part in cell.cell.parts)


def _scores(board: Leaderboard) -> Iterator[Score]:
    frame = board.frame
    values: dict[tuple[str, ...], list[float]] = {}
    columns = (
        frame[name].tolist()
        for name in ("backbone", "method", "task", "dataset", "metric", "value", "state")
    )
    for *key, value, state in zip(*columns, strict=True):
        if state == "done":
            values.setdefault(tuple(key), []).append(value)
    spent = {_key(entry): entry.mean for entry in costs(board)}
    for entry in scores(board, details=True):
        name = _key(entry)
        seconds, memory = (
            spent.get((*name[:4], cost)) for cost in ("train_seconds", "peak_memory_mb")
        )
        yield Score(entry, tuple(values.get(name, ())), seconds, memory)


def _key(entry: SummaryEntry) -> tuple[str, ...]:
    return entry.backbone, entry.method, entry.task, entry.dataset, entry.metric


def _grouped(done: Iterable[tuple[Planned, Record]]) -> dict[tuple[str, str, str], list[Record]]:
    """Records by backbone, data and method: the seeds of one setting."""
    found: dict[tuple[str, str, str], list[Record]] = {}
    for cell, record in done:
        found.setdefault(_setting(cell), []).append(record)
    return found


def _curves(done: Iterable[tuple[Planned, Record]]) -> Iterator[Curves]:
    losses: dict[tuple[str, str], dict[str, CurveLine]] = {}
    chosen: dict[tuple[str, str, str], dict[str, CurveLine]] = {}
    for (backbone, data, method), records in _grouped(done).items():
        if any(record.curve for record in records):
            losses.setdefault((backbone, data), {})[method] = line(
                record.curve for record in records
            )
        selected = [record.selection for record in records if record.selection is not None]
        if selected:
            name = f"{' + '.join(selected[0].metric)} on {selected[0].split}"
            ways = (list(enumerate(each.scores, start=1)) for each in selected)
            chosen.setdefault((backbone, data, name), {})[method] = line(ways)
    yield from (Curves(*where, "training loss", lines) for where, lines in losses.items())
    yield from (Curves(*where, lines) for where, lines in chosen.items())


def line(ways: Iterable[Sequence[tuple[int, float]]]) -> CurveLine:
    """Mean of several curves at their common steps, thinned to POINTS points with the first and the last among them."""
    given = [dict(way) for way in ways if way]
    steps = sorted(set.intersection(*(set(way) for way in given))) if given else []
    kept = (
        steps
        if len(steps) <= POINTS
        else [steps[round(i * (len(steps) - 1) / (POINTS - 1))] for i in range(POINTS)]
    )
    return CurveLine(tuple((step, fmean(way[step] for way in given)) for step in kept), len(given))


def _followed(done: Iterable[tuple[Planned, Record]]) -> Iterator[TrackedCurves]:
    for (backbone, data, method), records in _grouped(done).items():
        names = list(dict.fromkeys(name for record in records for name in record.scalars))
        quantities = dict.fromkeys(
            sorted((name.rpartition(".")[2] for name in names), reverse=True)
        )  # p before mu
        for quantity in quantities:
            own = [name for name in names if name.rpartition(".")[2] == quantity]
            yield TrackedCurves(
                backbone,
                data,
                method,
                quantity,
                tuple(_site(name, records) for name in sorted(own, key=_natural)),
            )


def _site(name: str, records: Iterable[Record]) -> SiteCurve:
    ways = [record.scalars[name] for record in records if record.scalars.get(name)]
    return SiteCurve(name.rpartition(".")[0], line(ways), tuple(way[-1][1] for way in ways))


def _natural(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """As the data flows: the encoder before the decoder, layer 9 before layer 10, self-attention before cross-attention."""
    parts = name.split(".")
    return parts[0] == "decoder", [
        (int(part), "") if part.isdecimal() else (FLOW.get(part, len(FLOW)), part) for part in parts
    ]


def _problems(failed: Sequence[tuple[Planned, str, str]], board: Leaderboard) -> Iterator[Block]:
    """Failures by cause, then what was ruled out or could not be computed, by reason."""
    causes: dict[str, list[tuple[Planned, str]]] = {}
    for cell, cause, message in failed:
        causes.setdefault(cause, []).append((cell, message))
    if causes:
        ordered = sorted(causes.items(), key=lambda item: (-len(item[1]), item[0]))
        header = ("cause", "cells", "methods", "first message", "ids")
        yield Block(
            "Failed cells, by cause",
            "lrlll",
            (header,),
            tuple(_cause(cause, cells) for cause, cells in ordered),
        )
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    columns = (board.frame[name].tolist() for name in ("state", "id"))
    for state, cell_id in zip(*columns, strict=True):
        kind, _, reason = state.partition(": ")
        if kind in ("skipped", "absent"):
            reasons.setdefault((kind, reason), {})[cell_id] = None
    if reasons:
        rows = tuple(
            _texts(kind, len(cells), reason) for (kind, reason), cells in sorted(reasons.items())
        )
        yield Block(
            "Cells that the grid rules out, and metrics that could not be computed",
            "lrl",
            (("what", "cells", "reason"),),
            rows,
        )


def _cause(cause: str, cells: Sequence[tuple[Planned, str]]) -> tuple[Text, ...]:
    methods = ", ".join(dict.fromkeys(cell.row for cell, _ in cells))
    ids = ", ".join(cell.id for cell, _ in cells[:12]) + (
        f" and {len(cells) - 12} more" if len(cells) > 12 else ""
    )
    return _texts(cause, len(cells), methods, cells[0][1], ids)


def _made(records: Sequence[Record]) -> Block:
    """Where the records were made: each distinct value of their provenance, and how many have it."""
    found: dict[tuple[str, str], int] = {}
    for record in records:
        for item in _provenance(record.provenance):
            found[item] = found.get(item, 0) + 1
    rows = tuple(_texts(name, value, number) for (name, value), number in sorted(found.items()))
    return Block("", "llr", (("what", "value", "records"),), rows)


def _provenance(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if name == "finished":
            yield "finished on", str(value)[:10]
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", str(each)) for inner, each in value.items())
        else:
            yield name, str(value)


def _texts(*values: object) -> tuple[Text, ...]:
    return tuple(
        Text(f"{value:,}" if isinstance(value, int) else one_line(str(value))) for value in values
    )
