"""The metrics, and the one function that scores a split."""

from __future__ import annotations

from collections.abc import Sequence
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
    "score",
]


class Absent(TypedDict):
    """What a record has in place of a number if the metric could not run: the reason."""

    absent: str


@dataclass(frozen=True)
class MetricReport:
    """All numbers of a split, in percent.

    Attributes:
        values: by name. A value that could not be computed is `{"absent": reason}`, never 0.
        per_example: scores in the order of the predictions. Their mean is the value of that name.
    """

    values: dict[str, float | Absent] = field(default_factory=dict)
    per_example: dict[str, tuple[float, ...]] = field(default_factory=dict)


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
            report.values.update(scores.values)
            report.per_example.update(scores.per_example)
    return report


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
