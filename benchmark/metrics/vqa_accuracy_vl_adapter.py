"""VQA accuracy as VL-Adapter's code computes it; VL-PET and DoRA use the same code.

Source: `VQAEvaluator.evaluate_raw` in VL-T5/src/vqa_data.py of github.com/j-min/VL-T5, from which
those repositories come. It is the official evaluator with one part missing: references go through
the text processing only in part.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.metrics.base import Metric, Prediction, Scores, Tokenizer, score_by_mean
from vlpeft.benchmark.metrics.vqa_accuracy import (
    normalise,
    share_of_annotators,
    strip_punctuation,
)


def vl_adapter_accuracy(answer: str, references: Sequence[str]) -> float:
    """Return the accuracy of one answer, in [0, 1].

    The answer is always normalised. References that differ lose their punctuation; references that
    agree stay as they are. So a reference with an article, a number word or a capital letter is
    never matched: nine times "on the table" and the answer "on the table" score 0 here, and 1 by
    the official rule.

    Raises:
        ValueError: there are no references.
    """
    if not references:
        raise ValueError("VQA accuracy needs at least one reference answer")
    truth = list(references)
    if len(set(truth)) > 1:
        truth = [strip_punctuation(text) for text in truth]
    return share_of_annotators(normalise(answer), truth)


@register("vqa_accuracy_vl_adapter", values=("vqa_accuracy_vl_adapter",))
class VLAdapterAccuracy(Metric):
    """VQA accuracy as VL-Adapter's evaluator computes it, overall and by question type.

    Published numbers of VL-Adapter, VL-PET and DoRA are made with it.
    """

    def evaluate(self, predictions: Sequence[Prediction], tokenizer: Tokenizer) -> Scores:
        """Score a split; `tokenizer` has no influence."""
        per_example = [100 * vl_adapter_accuracy(p.text, p.references) for p in predictions]
        return score_by_mean("vqa_accuracy_vl_adapter", per_example, predictions)
