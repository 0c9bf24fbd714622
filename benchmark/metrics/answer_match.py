"""Exact match and macro-F1 for tasks with a closed set of answers, by the library `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.metrics.base import Metric, Prediction, Scores, Tokenizer, score_by_mean


@register("answer_match", values=("exact_match", "macro_f1"))
class AnswerMatch(Metric):
    """Exact match with any reference, overall and by question type, and F1 averaged over answers.

    Texts are compared after surrounding white space is removed, and otherwise unchanged. If an
    example has several references, the most frequent one is its label for F1.
    """

    def evaluate(self, predictions: Sequence[Prediction], tokenizer: Tokenizer) -> Scores:
        """Score a split; `tokenizer` has no influence."""
        texts = [p.text for p in predictions]
        found = _run_module(texts, [list(p.references) for p in predictions])
        matches = [100 * match for match in found["matches"]]
        exact = score_by_mean("exact_match", matches, predictions)
        return Scores({**exact.values, "macro_f1": 100 * found["macro_f1"]}, exact.per_example)


def _run_module(predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
    # Imported here, because importing `evaluate` takes seconds.
    from vlpeft.benchmark.core.libraries.evaluate import run_module
    from vlpeft.benchmark.metrics.modules.answer_match import AnswerMatchModule

    return run_module(AnswerMatchModule, predictions, references)
