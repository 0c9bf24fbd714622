"""The metrics and the one call that scores a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from vlpeft.benchmark.core.errors import DataError, MetricUnavailable
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.metrics.base import Metric, Prediction, Scores, Tokenizer

METRICS: Registry[Metric] = Registry("metric", "vlpeft/benchmark/metrics")

__all__ = ["METRICS", "Absent", "Metric", "Prediction", "Report", "Scores", "Tokenizer", "score"]


class Absent(TypedDict):
    """Stands in a record where a metric could not run."""

    absent: str


@dataclass(frozen=True)
class MetricReport:
    """All numbers of a split, in per cent. A value that could not be computed is `{"absent": reason}`, never 0.

    `per_example` holds, in the order of the predictions, the scores whose mean is the value of that name.
    """

    values: dict[str, float | Absent] = field(default_factory=dict)
    per_example: dict[str, tuple[float, ...]] = field(default_factory=dict)


def score(
    names: Sequence[str], predictions: Sequence[Prediction], tokenizer: Tokenizer = "ptb"
) -> MetricReport:
    """Score the predictions of one split with the metrics of these names.

    Raises UserError for an unknown metric and DataError for no predictions, an id twice, or an example without references.
    """
    metrics: list[Any] = [METRICS.load(name)() for name in names]
    _check(predictions)
    report = MetricReport()
    for metric in metrics:
        try:
            scores = metric.evaluate(predictions, tokenizer)
        except MetricUnavailable as reason:
            report.values.update(
                {name: Absent(absent=str(reason)) for name in metric.value_names(tokenizer)}
            )
        else:
            report.values.update(scores.values)
            report.per_example.update(scores.per_example)
    return report


def _check(predictions: Sequence[Prediction]) -> None:
    if not predictions:
        raise DataError("no predictions to score: the split is empty")
    seen: set[str] = set()
    for prediction in predictions:
        if not prediction.references:
            raise DataError(
                f"example '{prediction.id}' has no reference answer, so it cannot be scored; leave it out of the split"
            )
        if prediction.id in seen:
            raise DataError(
                f"example '{prediction.id}' is predicted twice; ids must be unique within a split"
            )
        seen.add(prediction.id)
