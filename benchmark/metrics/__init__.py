"""The metrics, and the one function that scores a split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from vlpeft.benchmark.core.errors import DataError, MetricUnavailable
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.metrics.base import Metric, Prediction, Scores, Tokenizer

METRICS: Registry[Metric] = Registry("metric", "vlpeft/benchmark/metrics")

__all__ = [
    "METRICS",
    "Absent",
    "Metric",
    "MetricReport",
    "Prediction",
    "Scores",
    "Tokenizer",
    "other_units",
    "score",
    "unit_of",
]


class Absent(TypedDict):
    """What a record has in place of a number if the metric could not run: the reason."""

    absent: str


@dataclass(frozen=True)
class MetricReport:
    """All numbers of a split, multiplied by 100: percentages, or CIDEr x 100.

    Attributes:
        values: by name. A value that could not be computed is `{"absent": reason}`, never 0.
        per_example: scores in the order of the predictions. Their mean is the value of that name.
    """

    values: dict[str, float | Absent] = field(default_factory=dict)
    per_example: dict[str, tuple[float, ...]] = field(default_factory=dict)


def unit_of(value: str) -> str:
    """Return the unit of a metric's value as it is printed: "%", or "x 100" for CIDEr.

    Args:
        value: The name of the value, also of a breakdown ("accuracy/color") or with its tokenizer
            ("CIDEr (treebank)"), in upper or lower case.
    """
    _, unit = _declared(value)
    return unit


def other_units(values: Iterable[str]) -> list[str]:
    """Return the values that are not percentages with their units, such as "CIDEr x 100"."""
    found = [_declared(value) for value in values]
    return list(dict.fromkeys(f"{name} {unit}" for name, unit in found if unit != Metric.unit))


def _declared(value: str) -> tuple[str, str]:
    """Return name and unit of a value as its metric declares them."""
    name = value.partition(" (")[0].partition("/")[0]
    for entry in METRICS.entries.values():
        for known in entry.options.get("values", ()):
            if known.lower() == name.lower():
                return known, str(entry.options.get("unit", Metric.unit))
    return name, Metric.unit


def score(
    names: Sequence[str], predictions: Sequence[Prediction], tokenizer: Tokenizer = "ptb"
) -> MetricReport:
    """Score the predictions of one split with the metrics of these names.

    Args:
        names: of metrics.
        predictions: one for each example.
        tokenizer: for metrics of captions; `ptb` is the official one and needs Java.

    Raises:
        UserError: a metric is unknown.
        DataError: there are no predictions, an id occurs twice, or an example has no reference.
    """
    metrics: list[Any] = [METRICS.load(name)() for name in names]
    _check(predictions)
    report = MetricReport()
    for metric in metrics:
        try:
            scores = metric.evaluate(predictions, tokenizer)
        except MetricUnavailable as reason:
            for name in metric.value_names(tokenizer):
                report.values[name] = Absent(absent=str(reason))
        else:
            _add(report, scores)
    return report


def _add(report: MetricReport, scores: Scores) -> None:
    """Add a metric's numbers to a report; a value that is not finite is absent.

    A metric of another package may divide 0 by 0 on a small split. That must neither enter a mean
    nor end a cell whose training is done.
    """
    for name, value in scores.values.items():
        if math.isfinite(value):
            report.values[name] = value + 0.0  # never the negative zero
        else:
            report.values[name] = Absent(absent=f"the metric gave {value}, which is not finite")
    for name, each in scores.per_example.items():
        if all(map(math.isfinite, each)):
            report.per_example[name] = each


def _check(predictions: Sequence[Prediction]) -> None:
    """Raise DataError for predictions that cannot be scored."""
    if not predictions:
        raise DataError("no predictions to score: the split is empty")
    seen: set[str] = set()
    for prediction in predictions:
        if not prediction.references:
            raise DataError(
                f"example '{prediction.id}' has no reference answer, so it cannot be scored; "
                "leave it out of the split"
            )
        if prediction.id in seen:
            raise DataError(
                f"example '{prediction.id}' is predicted twice; ids must be unique within a split"
            )
        seen.add(prediction.id)
