"""`vlpeft diff A B`: what differs between two sets of results: cells, metrics, costs, and how they were made."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.cells.records import Record, Store
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.environments import UNKNOWN
from vlpeft.results.evidence import SUFFIX, open_results, read_evidence
from vlpeft.results.leaderboard import COSTS
from vlpeft.results.tables.table import Block, Table, Text, one_line

Value = (
    float | str | None
)  # a metric's number, why it is absent, or nothing where only the other side has it
MAKING = (
    "science",
    "data",
)  # of provenance: where these differ, the numbers are of different things


@dataclass(frozen=True)
class MetricDifference:
    """A metric whose value is not the same on both sides."""

    cell: str
    id: str
    metric: str
    a: Value
    b: Value

    @property
    def change(self) -> float | None:
        """B minus A, where both are numbers."""
        return self.b - self.a if isinstance(self.a, float) and isinstance(self.b, float) else None


@dataclass(frozen=True)
class CostRatio:
    """B over A of a cost over the cells that both have: median, lowest, highest."""

    cost: str
    median: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class ProvenanceDifference:
    """What was recorded otherwise of how cells were made, and of how many cells."""

    key: str
    a: str
    b: str
    cells: int


@dataclass(frozen=True)
class Diff:
    """All that differs; `both` counts the cells that both sides have."""

    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    both: int
    metrics: tuple[MetricDifference, ...]
    costs: tuple[CostRatio, ...]
    provenance: tuple[ProvenanceDifference, ...]

    @property
    def versions(self) -> tuple[ProvenanceDifference, ...]:
        """What both sides recorded of libraries, Python and the processor's instructions, and differs.

        Where numbers differ, these are the first suspects.
        """
        return tuple(
            each
            for each in self.provenance
            if _is_version(each.key) and UNKNOWN not in (each.a, each.b)
        )

    @property
    def equal(self) -> bool:
        """The same cells with the same metrics of the same data and science; seconds and versions may differ."""
        return not (
            self.only_a
            or self.only_b
            or self.metrics
            or any(each.key in MAKING for each in self.provenance)
        )


def diff(a: Path, b: Path, sweep: str = "", scale: str = "") -> Diff:
    """Compare all records of two result folders or files of evidence, or those of a sweep.

    Raises UserError for a damaged record, and where one side has none at all: two wrong folders are not equal results.
    """
    ours, theirs = _records(a, sweep, scale), _records(b, sweep, scale)
    both = [(ours[cell], theirs[cell]) for cell in ours if cell in theirs]
    return Diff(
        tuple(_label(ours[cell]) for cell in ours if cell not in theirs),
        tuple(_label(theirs[cell]) for cell in theirs if cell not in ours),
        len(both),
        tuple(found for pair in both for found in _metrics(*pair)),
        tuple(_costs(both)),
        tuple(_provenance(both)),
    )


def _records(root: Path, sweep: str, scale: str) -> dict[str, Record]:
    if not root.exists():
        raise UserError(f"{root}: no such result folder or file")
    if sweep:
        plan, store = open_results(sweep, root, scale)
        return {
            cell.id: store.record(cell.id) for cell in plan.runnable() if store.has_record(cell.id)
        }
    if scale:
        raise UserError(
            f"--scale {scale}: goes with a sweep: `vlpeft diff A B SWEEP --scale {scale}`"
        )
    store = read_evidence(root) if root.suffix == SUFFIX else Store(root)
    found = {record.id: record for record in store.records()}
    if not found:
        raise UserError(
            f"{root} holds no records; give a folder that `vlpeft sweep --root` has filled, or a file of evidence"
        )
    return found


def _label(record: Record) -> str:
    """Which cell it is, in a few words; the id alone of one that does not say."""
    if not record.cell:
        return record.id
    cell = parse(Cell, record.cell, f"cell {record.id}")
    tasks = " + ".join(part.name for part in cell.parts)
    return f"{cell.method.name} on {cell.backbone.name}, {tasks}, seed {cell.seed} ({record.id})"


def _metrics(a: Record, b: Record) -> Iterator[MetricDifference]:
    for name in dict.fromkeys((*a.metrics, *b.metrics)):
        values = _value(a.metrics, name), _value(b.metrics, name)
        if values[0] != values[1]:
            yield MetricDifference(_label(a), a.id, name, *values)


def _value(metrics: Mapping[str, float | dict[str, str]], name: str) -> Value:
    value = metrics.get(name)
    return f"absent: {value.get('absent', 'no reason given')}" if isinstance(value, dict) else value


def _costs(pairs: Iterable[tuple[Record, Record]]) -> Iterator[CostRatio]:
    found: dict[str, list[float]] = {}
    for a, b in pairs:
        for name in COSTS:
            if a.cost.get(name) and name in b.cost:
                found.setdefault(name, []).append(b.cost[name] / a.cost[name])
    for name in (name for name in COSTS if name in found):
        yield CostRatio(name, statistics.median(found[name]), min(found[name]), max(found[name]))


def _provenance(pairs: Iterable[tuple[Record, Record]]) -> Iterator[ProvenanceDifference]:
    counts: Counter[tuple[str, str, str]] = Counter()
    for a, b in pairs:
        ours, theirs = dict(_flat(a.provenance)), dict(_flat(b.provenance))
        for key in dict.fromkeys((*ours, *theirs)):
            if key not in ("finished", "host") and ours.get(key) != theirs.get(key):
                counts[key, ours.get(key, UNKNOWN), theirs.get(key, UNKNOWN)] += 1
    yield from (ProvenanceDifference(*what, cells) for what, cells in sorted(counts.items()))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _is_version(key: str) -> bool:
    return key in ("python", "instructions") or key.startswith("packages.")


def diff_table(a: Path, b: Path, found: Diff) -> Table:
    """For people: what differs, a block a kind, the versions first."""
    named = ", ".join(dict.fromkeys(each.key.removeprefix("packages.") for each in found.versions))
    caption = (
        f"A: {a}. B: {b}.",
        *((f"Versions differ: {named}.",) if named else ()),
        f"{found.both} cells in both, {len(found.only_a)} only in A, {len(found.only_b)} only in B; {len(found.metrics)} metrics differ: "
        f"{'equal' if found.equal else 'different'}.",
    )
    sides = [("only in A", cell) for cell in found.only_a] + [
        ("only in B", cell) for cell in found.only_b
    ]
    metrics = [
        (m.cell, m.metric, _shown(m.a), _shown(m.b), "" if m.change is None else f"{m.change:+.4f}")
        for m in found.metrics
    ]
    costs = [
        (c.cost, f"{c.median:.3f}", f"{c.lowest:.3f}", f"{c.highest:.3f}") for c in found.costs
    ]
    versions = [(p.key.removeprefix("packages."), p.a, p.b, str(p.cells)) for p in found.versions]
    made = [(p.key, p.a, p.b, str(p.cells)) for p in found.provenance if p not in found.versions]
    blocks = (
        _block("versions", "lllr", ("what", "A", "B", "cells"), versions),
        _block("cells", "ll", ("where", "cell"), sides),
        _block("metrics", "llrrr", ("cell", "metric", "A", "B", "B - A"), metrics),
        _block("costs, B / A", "lrrr", ("cost", "median", "lowest", "highest"), costs),
        _block("provenance", "lllr", ("key", "A", "B", "cells"), made),
    )
    return Table(
        "differences",
        tuple(map(one_line, caption)),
        tuple(block for block in blocks if block.rows),
        (),
    )


def _block(
    title: str, align: str, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]
) -> Block:
    return Block(
        title, align, (header,), tuple(tuple(Text(one_line(text)) for text in row) for row in rows)
    )


def _shown(value: Value) -> str:
    return "–" if value is None else value if isinstance(value, str) else f"{value:.4f}"
