"""What `vlpeft measure` and `vlpeft plan --cost` print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from vlpeft.benchmark.plan.forecast import Forecast, total_hours
from vlpeft.benchmark.plan.measure import MeasuredStep
from vlpeft.results.tables.table import Block, Table, Text, one_line


def step_table(sweep: str, batch: int, steps: Sequence[MeasuredStep]) -> Table:
    """What `vlpeft measure` measured."""
    header = ("backbone", "method", "task", "trainable", "total", "step s", "peak MB", "")
    rows = []
    for step in steps:
        numbers = (
            f"{step.trainable:,}",
            f"{step.total:,}",
            f"{step.step_seconds:.2f}",
            f"{step.peak_memory_mb:,.0f}",
        )
        numbers = ("", "", "", "") if step.failed else numbers
        rows.append(
            tuple(
                Text(one_line(text))
                for text in (step.backbone, step.method, step.task, *numbers, step.failed)
            )
        )
    caption = f"One training step of {batch} example{'s' * (batch > 1)}, random weights; the vision tower's forward is part of it."
    return Table(
        one_line(f"{sweep}: one step"),
        (caption,),
        (Block("", "lllrrrrl", (header,), tuple(rows)),),
        tuple(map(asdict, steps)),
    )


def forecast_table(sweep: str, device: str, found: Sequence[Forecast]) -> Table:
    """What `vlpeft plan --cost` expects, and the sum."""
    unit = "GPU" if device == "cuda" else "CPU"
    header = ("backbone", "method", "task", "cells", "steps", "step s", f"{unit}-hours", "")
    rows = []
    for each in found:
        numbers = (
            ("", "", "")
            if each.failed
            else (f"{each.steps:,}", f"{each.step_seconds:.3g}", f"{each.hours:.3g}")
        )
        texts = (
            each.backbone,
            each.method,
            f"{each.task}/{each.dataset}",
            str(each.cells),
            *numbers,
            each.failed,
        )
        rows.append(tuple(Text(one_line(text)) for text in texts))
    caption = "Training alone, from a few steps on random weights and cached features; evaluation is not in it."
    missing = ", without what could not be measured" if any(each.failed for each in found) else ""
    title = f"{sweep}: about {total_hours(found):.3g} {unit}-hours{missing}"
    return Table(
        one_line(title),
        (caption,),
        (Block("", "lllrrrrl", (header,), tuple(rows)),),
        tuple(map(asdict, found)),
    )
