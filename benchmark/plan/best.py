"""The choice of the best setting from the results of a sweep's first stage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from vlpeft.benchmark.cells.attempts import DIVERGED, failure
from vlpeft.benchmark.cells.cell import Part, Planned, Tuned
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.core.config import is_number
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.plan.tuning import DIVERGED_ALL, WAITING, Tuning
from vlpeft.benchmark.plan.vary import Values, show
from vlpeft.benchmark.run.selection import selection_metrics
from vlpeft.benchmark.tasks import TASKS


@dataclass(frozen=True)
class Tried:
    """A setting of stage 1, with its cells: one a seed."""

    settings: Values
    cells: tuple[Planned, ...]


def choose(
    tuning: Tuning, tried: Sequence[Tried], results: Results | None
) -> tuple[int, Tuned | str]:
    """Return the number of the best setting, and how it was chosen.

    The highest mean over the seeds of stage 1 wins, and the lowest setting wins a tie. A setting
    that has diverged with any seed loses.

    Returns:
        The number, and a `Tuned`; or 0 and why stage 2 has to wait or is left out.

    Raises:
        UserError: If a metric is absent from a record.
    """
    for part in tried[0].cells[0].cell.parts:
        # An unknown metric is refused before any cell runs.
        value_names(part, tuning.options.metric)
    scores: list[float | None] = []
    done, waits = 0, []
    for each in tried:
        found = [_score(cell, tuning, results) for cell in each.cells]
        done += sum(value is not None for value in found)
        known = [value for value in found if value is not None]
        if len(known) == len(found):
            scores.append(fmean(known) if all(map(math.isfinite, known)) else -math.inf)
        else:
            waits.append(each)
    if waits:
        total = sum(len(each.cells) for each in tried)
        return 0, f"{WAITING}{done} of {total} cells are done"
    finite = [score for score in scores if score is not None and math.isfinite(score)]
    if not finite:
        return 0, f"{DIVERGED_ALL}: try lower learning rates"
    best = [number for number, score in enumerate(scores) if score == max(finite)]
    number = min(best, key=lambda number: _order(tried, number))
    return number, _describe(tuning, tried, number, scores)


def _describe(
    tuning: Tuning, tried: Sequence[Tried], number: int, scores: Sequence[float | None]
) -> Tuned:
    options, settings = tuning.options, tried[number].settings
    lost = sum(score == -math.inf for score in scores)
    edges = tuple(_edges(settings, [each.settings for each in tried]))
    return Tuned(
        options.on, options.selector, settings, len(tried), len(options.seeds), edges, lost
    )


def _score(cell: Planned, tuning: Tuning, results: Results | None) -> float | None:
    """Return the score of a cell of stage 1: -inf if it has diverged, None if it is not done."""
    if results is None:
        return None
    if not results.has_record(cell.id):
        failed = failure(results, cell.id)
        if failed is not None and failed.cause == DIVERGED:
            return -math.inf
        return None
    metrics = results.record(cell.id).metrics
    values = []
    for number, part in enumerate(cell.cell.parts):
        for name in value_names(part, tuning.options.metric):
            value = metrics.get(cell.cell.metric_prefix(number) + name)
            if not isinstance(value, (int, float)):
                reason = value.get("absent", "") if isinstance(value, Mapping) else "not recorded"
                raise UserError(
                    f"tune: metric: cell {cell.id} has no value '{name}': {reason}; "
                    "compare another metric"
                )
            values.append(float(value))
    return fmean(values)


def value_names(part: Part, metric: str) -> list[str]:
    """Return the values of a record that a task is compared by.

    Raises UserError if the task does not report the metric.
    """
    recipe, task = part.protocol, TASKS.load(part.task)
    recorded: dict[str, str] = {}
    for name in recipe.metrics or task.metrics:
        loaded = METRICS.load(name)
        named = loaded().value_names(recipe.metric_tokenizer)
        recorded |= dict(zip(loaded.values, named, strict=True))
    if not metric:
        return [recorded[value] for value in selection_metrics(task, recipe) if value in recorded]
    if metric not in recorded:
        near = did_you_mean(metric, recorded)
        raise UserError(f"tune: metric: {part.task} does not report '{metric}' here{near}")
    return [recorded[metric]]


def _order(tried: Sequence[Tried], number: int) -> list[float]:
    """Return the sort key of a setting: its numbers, and the place of any other value."""
    keys: list[float] = []
    for key, value in tried[number].settings.items():
        values = [each.settings[key] for each in tried]
        if all(is_number(each) for each in values):
            keys.append(float(value))
        else:
            keys.append(values.index(value))
    return keys


def _edges(settings: Values, every: Sequence[Values]) -> Iterator[str]:
    """Yield the chosen numbers that are the lowest or highest of those tried."""
    for key, value in settings.items():
        values = [each[key] for each in every]
        if not all(is_number(each) for each in values) or len(set(values)) == 1:
            continue
        if value in (min(values), max(values)):
            yield f"{key}: {show(value)}"
