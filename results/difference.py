"""`vlpeft diff A B`: what differs between two sets of results.

It compares cells, metrics, costs, and how the records were made.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.cells.records import Record, Store
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.words import count_cells
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results.environments import UNKNOWN
from vlpeft.results.evidence import SUFFIX, open_results, read_evidence
from vlpeft.results.leaderboard import COSTS
from vlpeft.results.tables.blocks import Block, Table, one_line, text_row

# A metric's number, why it is absent, or None where only the other side has it.
RecordedValue = float | str | None
# Where these keys of the provenance differ, the numbers measure different things.
MAKING = ("science", "data")
# These differ between any two runs.
NOT_COMPARED = ("finished", "host")


@dataclass(frozen=True)
class MetricDifference:
    """A metric whose value is not the same on both sides."""

    cell: str
    id: str
    metric: str
    a: RecordedValue
    b: RecordedValue

    @property
    def change(self) -> float | None:
        """B minus A, where both are numbers."""
        if isinstance(self.a, float) and isinstance(self.b, float):
            return self.b - self.a
        return None


@dataclass(frozen=True)
class CostRatio:
    """The ratio B / A of a cost over the cells of both sides: median, lowest, highest."""

    cost: str
    median: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class ProvenanceDifference:
    """A key of the provenance that differs, and in how many cells."""

    key: str
    a: str
    b: str
    cells: int

    @property
    def name(self) -> str:
        """The key, or the library's name."""
        return self.key.removeprefix("packages.")


@dataclass(frozen=True)
class Diff:
    """All differences. `both` counts the cells that both sides have."""

    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    both: int
    metrics: tuple[MetricDifference, ...]
    costs: tuple[CostRatio, ...]
    provenance: tuple[ProvenanceDifference, ...]

    @property
    def versions(self) -> tuple[ProvenanceDifference, ...]:
        """Recorded versions of libraries, Python and processor instructions that differ.

        Where numbers differ, these are the first suspects.
        """
        return tuple(each for each in self.provenance if _is_version(each))

    @property
    def equal(self) -> bool:
        """Whether both have the same cells with the same metrics, from the same data and science.

        Seconds and versions may differ.
        """
        if self.only_a or self.only_b or self.metrics:
            return False
        return not any(each.key in MAKING for each in self.provenance)


def diff(a: Path, b: Path, sweep: str = "", scale: str = "") -> Diff:
    """Compare all records of two result folders or files of evidence, or those of a sweep.

    Raises UserError for a damaged record, and if one side has no record at all: two wrong folders
    are not equal results.
    """
    ours = _records(a, sweep, scale)
    theirs = _records(b, sweep, scale)
    both = [(ours[cell], theirs[cell]) for cell in ours if cell in theirs]
    metrics: list[MetricDifference] = []
    for pair in both:
        metrics += _metrics(*pair)
    return Diff(
        tuple(_label(ours[cell]) for cell in ours if cell not in theirs),
        tuple(_label(theirs[cell]) for cell in theirs if cell not in ours),
        len(both),
        tuple(metrics),
        tuple(_costs(both)),
        tuple(_provenance(both)),
    )


def _records(root: Path, sweep: str, scale: str) -> dict[str, Record]:
    """Read one side, by the ids of cells."""
    if not root.exists():
        raise UserError(f"{root}: no such result folder or file")
    if sweep:
        plan, store = open_results(SweepHandle(sweep, scale, root))
        runnable = plan.runnable()
        return {cell.id: store.record(cell.id) for cell in runnable if store.has_record(cell.id)}
    if scale:
        raise UserError(f"--scale {scale}: needs a sweep: `vlpeft diff A B SWEEP --scale {scale}`")
    records = {record.id: record for record in _open(root).records()}
    if not records:
        raise UserError(
            f"{root} holds no records; give a folder that `vlpeft sweep --root` has filled, "
            "or a file of evidence"
        )
    return records


def _open(root: Path) -> Results:
    """Open a result folder or a file of evidence."""
    if root.suffix == SUFFIX:
        return read_evidence(root)
    return Store(root)


def _label(record: Record) -> str:
    """Return a short description of a cell, or its id alone if the record has no settings."""
    if not record.cell:
        return record.id
    cell = parse(Cell, record.cell, f"cell {record.id}")
    tasks = " + ".join(part.name for part in cell.parts)
    return f"{cell.method.name} on {cell.backbone.name}, {tasks}, seed {cell.seed} ({record.id})"


def _metrics(a: Record, b: Record) -> Iterator[MetricDifference]:
    """Yield the metrics of a cell that differ."""
    for name in dict.fromkeys((*a.metrics, *b.metrics)):
        ours, theirs = _value(a.metrics, name), _value(b.metrics, name)
        if ours != theirs:
            yield MetricDifference(_label(a), a.id, name, ours, theirs)


def _value(metrics: Mapping[str, float | dict[str, str]], name: str) -> RecordedValue:
    value = metrics.get(name)
    if isinstance(value, dict):
        return f"absent: {value.get('absent', 'no reason given')}"
    return value


def _costs(pairs: Iterable[tuple[Record, Record]]) -> Iterator[CostRatio]:
    """Yield the ratio of each cost that both sides measured."""
    ratios: dict[str, list[float]] = {}
    for a, b in pairs:
        for name in COSTS:
            if a.cost.get(name) and name in b.cost:
                ratios.setdefault(name, []).append(b.cost[name] / a.cost[name])
    for name in COSTS:
        if name in ratios:
            found = ratios[name]
            yield CostRatio(name, statistics.median(found), min(found), max(found))


def _provenance(pairs: Iterable[tuple[Record, Record]]) -> Iterator[ProvenanceDifference]:
    """Yield what differs in how cells were made, sorted by key."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for a, b in pairs:
        ours, theirs = dict(_flat(a.provenance)), dict(_flat(b.provenance))
        for key in dict.fromkeys((*ours, *theirs)):
            if key not in NOT_COMPARED and ours.get(key) != theirs.get(key):
                counts[key, ours.get(key, UNKNOWN), theirs.get(key, UNKNOWN)] += 1
    for difference, cells in sorted(counts.items()):
        yield ProvenanceDifference(*difference, cells)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested mappings, with keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _is_version(difference: ProvenanceDifference) -> bool:
    """Return whether both sides recorded a version, and they differ."""
    if UNKNOWN in (difference.a, difference.b):
        return False
    key = difference.key
    return key in ("python", "instructions") or key.startswith("packages.")


def _is_code(difference: ProvenanceDifference) -> bool:
    """Return whether both sides recorded the code of a kind, and it differs."""
    return difference.key.startswith("code.") and UNKNOWN not in (difference.a, difference.b)


def diff_table(a: Path, b: Path, found: Diff) -> Table:
    """Return the differences for people: a block a kind, the versions first."""
    caption = tuple(map(one_line, _caption(a, b, found)))
    blocks = tuple(block for block in _blocks(found) if block.rows)
    return Table("differences", caption, blocks, ())


def _caption(a: Path, b: Path, found: Diff) -> Iterator[str]:
    yield f"A: {a}. B: {b}."
    names = ", ".join(dict.fromkeys(each.name for each in found.versions))
    if names:
        yield f"Versions differ: {names}."
    if code := [each.key.partition(".")[2] for each in found.provenance if _is_code(each)]:
        yield f"Code differs: {', '.join(dict.fromkeys(code))}."
    verdict = "equal" if found.equal else "different"
    yield (
        f"{count_cells(found.both)} in both, {len(found.only_a)} only in A, "
        f"{len(found.only_b)} only in B; {len(found.metrics)} metrics differ: {verdict}."
    )


def _blocks(found: Diff) -> Iterator[Block]:
    versions = [(p.name, p.a, p.b, str(p.cells)) for p in found.versions]
    yield _block("versions", "lllr", ("what", "A", "B", "cells"), versions)
    cells = [("only in A", cell) for cell in found.only_a]
    cells += [("only in B", cell) for cell in found.only_b]
    yield _block("cells", "ll", ("where", "cell"), cells)
    metrics = [(m.cell, m.metric, *_metric_texts(m)) for m in found.metrics]
    yield _block("metrics", "llrrr", ("cell", "metric", "A", "B", "B - A"), metrics)
    header: tuple[str, ...] = ("cost", "median", "lowest", "highest")
    costs = [
        (c.cost, f"{c.median:.3f}", f"{c.lowest:.3f}", f"{c.highest:.3f}") for c in found.costs
    ]
    yield _block("costs, B / A", "lrrr", header, costs)
    others = [p for p in found.provenance if p not in found.versions]
    provenance = [(p.key, p.a, p.b, str(p.cells)) for p in others]
    yield _block("provenance", "lllr", ("key", "A", "B", "cells"), provenance)


def _block(
    title: str, align: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> Block:
    return Block(title, align, (header,), tuple(map(text_row, rows)))


def _metric_texts(difference: MetricDifference) -> tuple[str, str, str]:
    """Return A, B, and B - A where both are numbers."""
    change = "" if difference.change is None else f"{difference.change:+.4f}"
    return _value_text(difference.a), _value_text(difference.b), change


def _value_text(value: RecordedValue) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:.4f}"
