"""The tables of `vlpeft measure` and `vlpeft plan --cost`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from vlpeft.benchmark.plan.forecast import Forecast, total_hours
from vlpeft.benchmark.plan.measure import MeasuredStep
from vlpeft.results.tables.blocks import Block, Table, one_line, text_row

STEP_HEADER = ("backbone", "method", "task", "trainable", "total", "step s", "peak MB", "")
STEP_CAPTION = (
    "One training step of {} with random weights, including the vision tower's forward pass."
)
FORECAST_CAPTION = (
    "Training only, estimated from a few steps with random weights and cached features; "
    "evaluation is not included."
)


def step_table(sweep: str, batch: int, steps: Sequence[MeasuredStep]) -> Table:
    """Return what `vlpeft measure` measured, one row per step.

    batch: examples per step.
    """
    examples = "1 example" if batch == 1 else f"{batch} examples"
    rows = tuple(text_row(_step_texts(step)) for step in steps)
    return Table(
        one_line(f"{sweep}: one step"),
        (STEP_CAPTION.format(examples),),
        (Block("", "lllrrrrl", (STEP_HEADER,), rows),),
        tuple(map(asdict, steps)),
    )


def _step_texts(step: MeasuredStep) -> Iterator[str]:
    yield from (step.backbone, step.method, step.task)
    if step.failed:
        yield from ("", "", "", "")
    else:
        yield f"{step.trainable:,}"
        yield f"{step.total:,}"
        yield f"{step.step_seconds:.2f}"
        yield f"{step.peak_memory_mb:,.0f}"
    yield step.failed


def forecast_table(sweep: str, device: str, found: Sequence[Forecast]) -> Table:
    """Return the forecasts of `vlpeft plan --cost`, with their sum in the title."""
    unit = "GPU" if device == "cuda" else "CPU"
    header = ("backbone", "method", "task", "cells", "steps", "step s", f"{unit}-hours", "")
    rows = tuple(text_row(_forecast_texts(each)) for each in found)
    title = f"{sweep}: about {total_hours(found):.3g} {unit}-hours"
    if any(each.failed for each in found):
        title += ", without what could not be measured"
    return Table(
        one_line(title),
        (FORECAST_CAPTION,),
        (Block("", "lllrrrrl", (header,), rows),),
        tuple(map(asdict, found)),
    )


def _forecast_texts(forecast: Forecast) -> Iterator[str]:
    yield from (forecast.backbone, forecast.method)
    yield f"{forecast.task}/{forecast.dataset}"
    yield str(forecast.cells)
    if forecast.failed:
        yield from ("", "", "")
    else:
        yield f"{forecast.steps:,}"
        yield f"{forecast.step_seconds:.3g}"
        yield f"{forecast.hours:.3g}"
    yield forecast.failed
