"""The leaderboard over seeds: scores, which repeat exactly, and measured costs, which never do."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from vlpeft.results.leaderboard import NAN, PARAMETERS, Leaderboard
from vlpeft.results.states import DONE, State, merge_states, parse_states

SummaryRow = dict[str, Any]
EntryKey = tuple[str, str, str, str, str]  # backbone, method, task, dataset, metric
KEYS = ["backbone", "method", "task", "dataset"]
COST_COLUMNS = (
    "train_seconds",
    "eval_seconds",
    "gpu_hours",
    "step_ms",
    "tokens_per_second",
    "images_per_second",
    "flops_per_step",
    "peak_memory_mb",
    "delta_bytes",
)
# A table always has these costs. The others are left out where no record has them.
ALWAYS = ("train_seconds", "step_ms", "peak_memory_mb")


@dataclass(frozen=True)
class SummaryEntry:
    """One metric or cost of one method on one backbone, task and dataset, over its seeds.

    mean: None unless the state is "done", which needs every planned seed.
    std: sample standard deviation (ddof=1), None for fewer than two seeds.
    n, planned: the number of seeds that have the value, and that the plan asks for.
    state: of all seeds, as `merge_states` returns it.
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
    state: State
    flags: tuple[str, ...]
    trainable: int | None
    head: int | None
    total: int | None
    trainable_percent: float | None


def scores(board: Leaderboard, *, details: bool = False) -> list[SummaryEntry]:
    """Summarise every metric over its seeds, in the plan's order.

    Breakdowns (`metric/part`) are included only with `details`.
    """
    frame = board.frame
    if not details:
        frame = frame[~frame["metric"].str.contains("/", regex=False)]
    return list(_entries(_rows(frame), suspect=True))


def costs(board: Leaderboard) -> list[SummaryEntry]:
    """Summarise time, work and memory over the seeds, in the plan's order.

    The costs are those of COST_COLUMNS that some record has, and always those of ALWAYS.
    """
    cells = _rows(board.frame.drop_duplicates([*KEYS, "seed"]))
    names = [name for name in COST_COLUMNS if _is_shown(name, cells)]
    rows = [_as_metric(cell, name) for cell, name in product(cells, names)]
    return list(_entries(rows, suspect=False))


def _is_shown(name: str, cells: Sequence[SummaryRow]) -> bool:
    """Return whether a table has this cost."""
    return name in ALWAYS or any(not math.isnan(cell[name]) for cell in cells)


def _rows(frame: pd.DataFrame) -> list[SummaryRow]:
    """Return the rows of a frame as plain values, with None for unknown parameter counts.

    Thousands of groups are summarised much faster this way than with pandas.
    """
    names = [*KEYS, "metric", "seed", "value", "state", *PARAMETERS, "trainable_percent"]
    names += COST_COLUMNS
    columns = [_column(frame, name) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _column(frame: pd.DataFrame, name: str) -> list[Any]:
    """Return the values of a column."""
    if name in PARAMETERS:
        return [None if pd.isna(value) else int(value) for value in frame[name]]
    if name == "state":
        return parse_states(frame[name])
    return frame[name].tolist()


def _as_metric(cell: SummaryRow, name: str) -> SummaryRow:
    """Return the cost `name` of a cell in the shape of a metric.

    A cell has measured costs even where a metric is absent.
    """
    state, value = cell["state"], cell[name]
    if state.has_record:
        state = State("absent", "not measured") if math.isnan(value) else DONE
    return {**cell, "metric": name, "value": value, "state": state}


def _entries(rows: Sequence[SummaryRow], *, suspect: bool) -> Iterator[SummaryEntry]:
    """Yield one entry a group of seeds: by backbone, then method, then column."""
    groups: dict[EntryKey, list[SummaryRow]] = {}
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


def _entry(key: EntryKey, rows: Sequence[SummaryRow], *, suspect: bool) -> SummaryEntry:
    """Summarise the seeds of one group."""
    values = [(row["seed"], row["value"]) for row in rows if row["state"].is_done]
    state = merge_states([row["state"] for row in rows])
    mean, std = None, None
    if state.is_done:
        mean, std = _mean_std([value for _, value in values])
    flags: list[str] = []
    if suspect:
        for seed, value in values:
            flags += suspicions(seed, value)
    counts = _parameters(rows)
    return SummaryEntry(*key, mean, std, len(values), len(rows), state, tuple(flags), *counts)


def _mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation; NaN where a value is not finite."""
    several = len(values) > 1
    if not all(map(math.isfinite, values)):
        return NAN, NAN if several else None
    return statistics.fmean(values), statistics.stdev(values) if several else None


def suspicions(seed: int, value: float) -> Iterator[str]:
    """Yield what makes a seed's value suspicious, one sentence each."""
    if value == 0:
        yield f"seed {seed} is exactly 0.0"
    elif not math.isfinite(value):
        yield f"seed {seed} is not a finite number ({value})"


def _parameters(
    rows: Sequence[SummaryRow],
) -> tuple[int | None, int | None, int | None, float | None]:
    """Return trainable, head and total parameters, and the trainable share in percent.

    The counts of a finished seed take precedence: the plan may count a missing seed differently.
    """
    first = next((row for row in rows if row["state"].has_record), rows[0])
    share = first["trainable_percent"]
    if math.isnan(share):
        share = None
    return first["trainable"], first["head"], first["total"], share
