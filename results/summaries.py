"""The leaderboard over seeds: scores, which are exactly repeatable, and costs, which are measured and never are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from vlpeft.results.leaderboard import NAN, PARAMETERS, Leaderboard

NOT_RUN = ("failed", "missing", "skipped")  # how the states begin of cells without a record
SummaryRow = dict[str, Any]
KEYS = ["backbone", "method", "task", "dataset"]
COST_COLUMNS = (
    *(
        "train_seconds",
        "eval_seconds",
        "gpu_hours",
        "step_ms",
        "tokens_per_second",
        "images_per_second",
    ),
    *("flops_per_step", "peak_memory_mb", "delta_bytes"),
)
ALWAYS = (
    "train_seconds",
    "step_ms",
    "peak_memory_mb",
)  # the others are left out where no record has them


@dataclass(frozen=True)
class SummaryEntry:
    """One entry of a table: one metric (or cost) of one method on one backbone, task and dataset, over its seeds.

    mean: None unless the state is "done", which takes every planned seed.
    std: sample standard deviation (ddof=1), None for fewer than two seeds.
    n, planned: seeds that have the value, seeds that the plan asks for.
    state: "done" | "failed: cause" | "missing" | "absent: reason" | "skipped: reason".
    flags: what makes the value suspicious, one sentence each.
    """

    backbone: str
    method: str
    task: str
    dataset: str
    metric: str
    mean: float | None
    std: float | None
    n: int
    planned: int
    state: str
    flags: tuple[str, ...]
    trainable: int | None
    head: int | None
    total: int | None
    trainable_percent: float | None


def scores(board: Leaderboard, *, details: bool = False) -> list[SummaryEntry]:
    """Every metric over its seeds, in the plan's order. Breakdowns (`metric/part`) are left out unless `details`."""
    frame = board.frame
    if not details:
        frame = frame[~frame["metric"].str.contains("/", regex=False)]
    return list(_entries(_rows(frame), suspect=True))


def costs(board: Leaderboard) -> list[SummaryEntry]:
    """Time, work and memory over the seeds, in the plan's order: those of COST_COLUMNS that some record holds."""
    cells = _rows(board.frame.drop_duplicates([*KEYS, "seed"]))
    names = [
        name
        for name in COST_COLUMNS
        if name in ALWAYS or any(not math.isnan(cell[name]) for cell in cells)
    ]
    return list(
        _entries([_as_metric(cell, name) for cell in cells for name in names], suspect=False)
    )


def _rows(frame: pd.DataFrame) -> list[SummaryRow]:
    """Plain values, what is not known as None: thousands of groups are far quicker so than with pandas."""
    names = [
        *KEYS,
        "metric",
        "seed",
        "value",
        "state",
        *PARAMETERS,
        "trainable_percent",
        *COST_COLUMNS,
    ]
    whole = {
        name: [None if pd.isna(value) else int(value) for value in frame[name]]
        for name in PARAMETERS
    }
    columns = [whole[name] if name in whole else frame[name].tolist() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _as_metric(cell: SummaryRow, name: str) -> SummaryRow:
    """The cost `name` in the shape of a metric. A cell is measured even where a metric is absent."""
    state, value = cell["state"], cell[name]
    if not state.startswith(NOT_RUN):
        state = "absent: not measured" if math.isnan(value) else "done"
    return {**cell, "metric": name, "value": value, "state": state}


def _entries(rows: Sequence[SummaryRow], *, suspect: bool) -> Iterator[SummaryEntry]:
    groups: dict[tuple[str, str, str, str, str], list[SummaryRow]] = {}
    columns: dict[str, dict[tuple[str, str, str], None]] = {}
    for row in rows:
        column = row["task"], row["dataset"], row["metric"]
        groups.setdefault((row["backbone"], row["method"], *column), []).append(row)
        columns.setdefault(row["backbone"], {})[column] = None
    methods = dict.fromkeys(row["method"] for row in rows)
    for backbone, method in product(columns, methods):
        for column in columns[backbone]:
            key = (backbone, method, *column)
            if key in groups:
                yield _entry(key, groups[key], suspect=suspect)


def _entry(
    key: tuple[str, str, str, str, str], rows: Sequence[SummaryRow], *, suspect: bool
) -> SummaryEntry:
    values = [(row["seed"], row["value"]) for row in rows if row["state"] == "done"]
    state = merge_states([row["state"] for row in rows])
    mean, std = _mean_std([value for _, value in values]) if state == "done" else (None, None)
    flags = (
        tuple(flag for seed, value in values for flag in suspicions(seed, value)) if suspect else ()
    )
    return SummaryEntry(*key, mean, std, len(values), len(rows), state, flags, *_parameters(rows))


def merge_states(states: Sequence[str]) -> str:
    """The one word for all seeds: done only if all are. Different reasons are all kept."""
    for kind in ("skipped", "failed", "missing", "absent"):
        found = list(dict.fromkeys(state for state in states if state.startswith(kind)))
        if found:
            return found[0] + "".join(f"; {state.partition(': ')[2]}" for state in found[1:])
    return "done"


def _mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    if not all(map(math.isfinite, values)):
        return NAN, NAN if len(values) > 1 else None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def suspicions(seed: int, value: float) -> Iterator[str]:
    """What makes a seed's value suspicious."""
    if value == 0:
        yield f"seed {seed} is exactly 0.0"
    elif not math.isfinite(value):
        yield f"seed {seed} is not a finite number ({value})"


def _parameters(
    rows: Sequence[SummaryRow],
) -> tuple[int | None, int | None, int | None, float | None]:
    """What the records counted stands before what the plan did, should a missing seed be counted differently."""
    first = next((row for row in rows if not row["state"].startswith(NOT_RUN)), rows[0])
    share = first["trainable_percent"]
    return first["trainable"], first["head"], first["total"], None if math.isnan(share) else share
