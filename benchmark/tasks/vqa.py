"""Visual question answering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from benchmark.datasets.base import Example
from benchmark.metrics.vqa_accuracy import normalise, vqa_accuracy
from benchmark.registry import register
from benchmark.tasks.base import Item, Task


@register("vqa", metrics=("vqa_accuracy",))
class VQA(Task):
    """Answer a question about an image; scored by the official ten-answer rule."""

    def items(self, examples: Iterable[Example]) -> list[Item]:
        """One item a question; each distinct answer scored as the official rule would score it (0.3, 0.6, 0.9, 1 for ten answers)."""
        return [Item(e.image, self.prompt(e), _soft_scores(e.answers)) for e in examples]

    def prompt(self, example: Example) -> str:
        """The question."""
        return example.question

    def answers(self, examples: Iterable[Example], limit: int) -> tuple[str, ...]:
        """The most frequent normalised answers; ties in alphabetical order."""
        counts = Counter(normalise(answer) for e in examples for answer in e.answers)
        return tuple(sorted(counts, key=lambda answer: (-counts[answer], answer))[:limit])


def _soft_scores(answers: tuple[str, ...]) -> dict[str, float]:
    return {answer: vqa_accuracy(answer, answers) for answer in sorted({normalise(a) for a in answers})}
