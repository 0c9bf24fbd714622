"""What `vlpeft measure` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from benchmark.measure import Step
from results.tables import Block, Table, Text, one_line


def step_table(sweep: str, batch: int, steps: Sequence[Step]) -> Table:
    """What `vlpeft measure` measured."""
    header = ("backbone", "method", "task", "trainable", "total", "step s", "peak MB", "")
    rows = []
    for step in steps:
        numbers = (f"{step.trainable:,}", f"{step.total:,}", f"{step.step_seconds:.2f}", f"{step.peak_memory_mb:,.0f}")
        numbers = ("", "", "", "") if step.failed else numbers
        rows.append(tuple(Text(one_line(text)) for text in (step.backbone, step.method, step.task, *numbers, step.failed)))
    caption = f"One training step of {batch} example{'s' * (batch > 1)}, random weights; the vision tower's forward is part of it."
    return Table(one_line(f"{sweep}: one step"), (caption,), (Block("", "lllrrrrl", (header,), tuple(rows)),), tuple(map(asdict, steps)))
