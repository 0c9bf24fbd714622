"""Made-up plans and records, for tests of tables and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlpeft.benchmark.cells.cell import Cell, Choice, Plan, Planned
from vlpeft.benchmark.cells.records import Record, Store
from vlpeft.benchmark.cells.scores import NAME, ImageScores, to_bytes
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets import DatasetSpec

SCORES = {
    "vqa": {"vqa_accuracy": 70.0, "vqa_accuracy/exist": 80.0},
    "captioning": {"cider": 100.0, "bleu": 30.0},
}


def planned(row="lora", backbone="blip", task="vqa", dataset="shapes", seed=0, **more) -> Planned:
    cell = Cell(
        Choice(row, {}),
        Choice(backbone, {}),
        task,
        DatasetSpec(dataset, "none", {}, "/nowhere"),
        Protocol(lr=1.0, epochs=1),
        seed,
    )
    return Planned(
        cell.id,
        row,
        backbone,
        task,
        dataset,
        seed,
        cell,
        **{"trainable": 1000, "head": 10, "total": 200_000} | more,
    )


def make_plan(*cells: Planned, title="A title", notes="") -> Plan:
    return Plan("sweep", title, notes, "source", cells)


def full_plan(rows=("lora", "bitfit"), backbones=("blip", "gpt2"), seeds=(0, 1)) -> Plan:
    tasks = (("vqa", "shapes"), ("captioning", "coco"))
    return make_plan(
        *(planned(r, b, t, d, s) for b in backbones for t, d in tasks for r in rows for s in seeds)
    )


def record(cell: Planned, metrics=None, data="d1", science=1, **cost) -> Record:
    found = (
        {name: value + cell.seed for name, value in SCORES[cell.task].items()}
        if metrics is None
        else metrics
    )
    measured = {"train_seconds": 120.0, "step_ms": 12.5, "peak_memory_mb": 900.0} | cost
    counts = {"trainable": cell.trainable, "head": cell.head, "total": cell.total}
    return Record(
        cell.id, {}, found, measured | counts, [], {"data": {"test": data}, "science": science}
    )


def fill(root: Path, records) -> Store:
    store = Store(root)
    for one in records:
        assert store.publish(one)
    return store


def results(root: Path, *pairs) -> tuple[Plan, Store]:
    """Return a plan of cells and a store of their records; None is a cell that has not run."""
    return make_plan(*(cell for cell, _ in pairs)), fill(
        root, [record(c, m) for c, m in pairs if m is not None]
    )


def score(
    store: Store,
    cell: Planned,
    sums: Mapping[str, Sequence[float]],
    examples: Sequence[int] | None = None,
) -> None:
    """Write scores by image next to a cell's record."""
    images = len(next(iter(sums.values())))
    part = ImageScores(
        f"{cell.task}/{cell.dataset}",
        tuple(f"test/{i}" for i in range(images)),
        tuple(examples or [1] * images),
        {metric: tuple(map(float, values)) for metric, values in sums.items()},
    )
    (store.folder(cell.id) / NAME).write_bytes(to_bytes([part]))
