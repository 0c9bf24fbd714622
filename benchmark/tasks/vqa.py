"""Visual question answering."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from benchmark.datasets.base import Example
from benchmark.metrics.vqa_accuracy import normalise, vqa_accuracy
from benchmark.registry import register
from benchmark.tasks.base import Item, Task


@register("vqa", metrics=("vqa_accuracy",))
class VQA(Task):
    """Answer a question about an image; scored by the official ten-answer rule."""

    def items(self, examples: Iterable[Example], answers: Sequence[str]) -> list[Item]:
        """One item a question; each answer in the list scored as the official rule would score it (0.3, 0.6, 0.9, 1 for ten)."""
        spelling = {normalise(answer): answer for answer in answers}
        return [Item(e.image, self.prompt(e), _soft_scores(e.answers, spelling)) for e in examples]

    def prompt(self, example: Example) -> str:
        """The question."""
        return example.question

    def answers(self, examples: Iterable[Example], limit: int) -> tuple[str, ...]:
        """The most frequent answers; ties in alphabetical order.

        Answers that are equal after the official text processing are one, in its most frequent spelling: unanimous
        references are compared as they are written.
        """
        spellings: dict[str, Counter[str]] = defaultdict(Counter)
        for example in examples:
            for answer in example.answers:
                spellings[normalise(answer)][answer.strip()] += 1
        ranked = sorted(spellings.values(), key=lambda counts: (-counts.total(), min(counts)))
        return tuple(min(counts, key=lambda answer: (-counts[answer], answer)) for counts in ranked[:limit])


def _soft_scores(answers: Sequence[str], spelling: Mapping[str, str]) -> dict[str, float]:
    plain = [normalise(answer) for answer in answers]
    return {spelling[answer]: vqa_accuracy(answer, plain) for answer in sorted(set(plain)) if answer in spelling}
