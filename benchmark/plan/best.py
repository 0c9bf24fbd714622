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


def score_all(
    tuning: Tuning, tried: Sequence[Tried], results: Results | None
) -> list[float | None]:
    """Return the score of each setting: the mean over the seeds of stage 1.

    It is -inf for a setting that has diverged with any seed, and None for one that is not done.

    Raises:
        UserError: If a metric is absent from a record.
    """
    scores: list[float | None] = []
    for each in tried:
        found = [_score(cell, tuning, results) for cell in each.cells]
        known = [value for value in found if value is not None]
        if len(known) < len(found):
            scores.append(None)
        else:
            scores.append(fmean(known) if all(map(math.isfinite, known)) else -math.inf)
    return scores


def choose(
    tuning: Tuning,
    tried: Sequence[Tried],
    results: Results | None,
    *,
    is_complete: bool = True,
) -> tuple[int, Tuned | str]:
    """Return the number of the best setting, and how it was chosen.

    The highest score wins, and the lowest setting wins a tie.

    Args:
        tuning: What is compared.
        tried: The settings, with their cells.
        results: Where the cells have their records.
        is_complete: Whether there will be no more settings.

    Returns:
        The number, and a `Tuned`; or 0 and why stage 2 has to wait or is left out.

    Raises:
        UserError: If a metric is absent from a record.
    """
    scores = score_all(tuning, tried, results)
    if None in scores or not is_complete:
        return 0, f"{WAITING}{_progress(tuning, tried, scores, results)} are done"
    finite = [score for score in scores if score is not None and math.isfinite(score)]
    if not finite:
        return 0, f"{DIVERGED_ALL}: try lower learning rates"
    best = [number for number, score in enumerate(scores) if score == max(finite)]
    number = min(best, key=lambda number: _order(tried, number))
    return number, _describe(tuning, tried, number, scores)


def check_metric(tuning: Tuning, cell: Planned) -> None:
    """Raise UserError for a metric that a task does not report, before any cell runs."""
    for part in cell.cell.parts:
        value_names(part, tuning.options.metric)


def _progress(
    tuning: Tuning,
    tried: Sequence[Tried],
    scores: Sequence[float | None],
    results: Results | None,
) -> str:
    """Return how many cells, or trials of a search, are done, of how many."""
    if tuning.search is not None:
        done = sum(score is not None for score in scores)
        return f"{done} of {tuning.search.options.trials} trials"
    found = [_score(cell, tuning, results) for each in tried for cell in each.cells]
    return f"{sum(score is not None for score in found)} of {len(found)} cells"


def _describe(
    tuning: Tuning, tried: Sequence[Tried], number: int, scores: Sequence[float | None]
) -> Tuned:
    options, settings = tuning.options, tried[number].settings
    lost = sum(score == -math.inf for score in scores)
    edges: tuple[str, ...] = ()
    sampler = ""
    if tuning.search is None:
        edges = tuple(_edges(settings, [each.settings for each in tried]))
    else:
        sampler = tuning.search.options.sampler
    return Tuned(
        options.on,
        options.selector,
        settings,
        len(tried),
        len(options.seeds),
        edges,
        lost,
        sampler,
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
