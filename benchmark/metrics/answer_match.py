"""Exact match and macro-F1 over answers, for tasks with a closed set of answers, through the library `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.metrics.base import Metric, Prediction, Scores, Tokenizer, score_by_mean


@register("answer_match", values=("exact_match", "macro_f1"))
class AnswerMatch(Metric):
    """Exact match with any reference, overall and by question type, and F1 averaged over the references' answers.

    Texts are compared as they are but for surrounding white space. Where an example has several references, the one given
    most often is its label for F1.
    """

    def evaluate(self, predictions: Sequence[Prediction], tokenizer: Tokenizer) -> Scores:  # noqa: ARG002
        """Score a split; `tokenizer` has no influence."""
        found = _run_module(
            [p.text for p in predictions], [list(p.references) for p in predictions]
        )
        exact = score_by_mean(
            "exact_match", [100 * match for match in found["matches"]], predictions
        )
        return Scores({**exact.values, "macro_f1": 100 * found["macro_f1"]}, exact.per_example)


def _run_module(predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
    from vlpeft.benchmark.libraries.evaluate import run_module
    from vlpeft.benchmark.metrics.modules.answer_match import (
        AnswerMatchModule as Module,
    )  # imports evaluate, which takes seconds

    return run_module(Module, predictions, references)
