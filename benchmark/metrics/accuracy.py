"""Accuracy: a prediction is right if it equals one of the example's answers, letter for letter."""

from __future__ import annotations

from collections.abc import Sequence

from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.metrics.base import Metric, Prediction, Scores, Tokenizer, score_by_mean


@register("accuracy", values=("accuracy",))
class Accuracy(Metric):
    """Share of predictions equal to one of their references, overall and by kind.

    Case and white space count. This is the measure of GQA, NLVR2 and SNLI-VE as VL-T5 and
    VL-Adapter compute it: membership in the example's labels.
    """

    def evaluate(self, predictions: Sequence[Prediction], tokenizer: Tokenizer) -> Scores:
        """Score a split; `tokenizer` has no influence."""
        per_example = [100.0 * (p.text in p.references) for p in predictions]
        return score_by_mean("accuracy", per_example, predictions)
