"""Exact match and macro-F1 of answers, for `evaluate.load("path/to/answer_match.py")`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import datasets
import evaluate


class AnswerMatchModule(evaluate.Metric):  # type: ignore[misc]  # the library has no types
    """Exact match and macro-F1, in [0, 1], of predictions against lists of references."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=(
                "Share of predictions equal to one of their references, "
                "and F1 averaged over answers."
            ),
            citation="",
            inputs_description=(
                "predictions: list of str; references: list of non-empty lists of str."
            ),
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
        # Of several most frequent references, the first is the label.
        labels = [Counter(texts).most_common(1)[0][0] for texts in truth]
        return {
            "exact_match": sum(matches) / len(matches),
            "macro_f1": macro_f1(given, labels),
            "matches": matches,
        }


def macro_f1(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Return the mean over the answers in `labels` of F1 = 2 hits / (times predicted + times true).

    A prediction that is not a label of any example lowers the recall of its example. It does not
    make a class of its own, because free text would make thousands.
    """
    predicted, true = Counter(predictions), Counter(labels)
    pairs = zip(predictions, labels, strict=True)
    hits = Counter(label for text, label in pairs if text == label)
    return sum(2 * hits[label] / (predicted[label] + true[label]) for label in true) / len(true)
