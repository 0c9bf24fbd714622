"""Exact match and macro-F1 over short answers, as a module for `evaluate.load("path/to/answer_match.py")`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import datasets
import evaluate


class AnswerMatchModule(evaluate.Metric):  # type: ignore[misc]  # the library has no types
    """Exact match and macro-F1, both in [0, 1], of string predictions against lists of string references."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Share of predictions equal to one of their references, and F1 averaged over answers.",
            citation="",
            inputs_description="predictions: list of str; references: list of non-empty lists of str.",
            features=datasets.Features(
                {"predictions": text, "references": datasets.Sequence(text)}
            ),
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> dict[str, float | list[float]]:
        given = [text.strip() for text in predictions]
        truth = [[text.strip() for text in texts] for texts in references]
        matches = [float(text in texts) for text, texts in zip(given, truth, strict=True)]
        labels = [
            Counter(texts).most_common(1)[0][0] for texts in truth
        ]  # the first of those given most often
        return {
            "exact_match": sum(matches) / len(matches),
            "macro_f1": macro_f1(given, labels),
            "matches": matches,
        }


def macro_f1(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Mean over the answers that occur among `labels` of F1 = 2 hits / (times predicted + times true).

    A prediction that is nobody's label costs its example's recall but founds no class: free text would found thousands.
    """
    predicted, true = Counter(predictions), Counter(labels)
    hits = Counter(label for text, label in zip(predictions, labels, strict=True) if text == label)
    return sum(2 * hits[label] / (predicted[label] + true[label]) for label in true) / len(true)
