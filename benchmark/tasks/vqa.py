"""Visual question answering."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from vlpeft.benchmark.core.config import Protocol
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.metrics.vqa_accuracy import normalise, vqa_accuracy
from vlpeft.benchmark.tasks.base import Item, Task


@register("vqa", metrics=("vqa_accuracy",), optional=("answer_match", "accuracy"))
class VQA(Task):
    """Answer a question about an image; scored by the official ten-answer rule."""

    def items(
        self, examples: Iterable[Example], answers: Sequence[str], protocol: Protocol
    ) -> list[Item]:
        """One item a question.

        `answer_weights: official` scores each answer in the list as the metric would (0.3, 0.6, 0.9, 1 for ten);
        `frequency` gives every answer, in the list or not, its share of the question's.
        """
        spelling = {normalise(answer): answer for answer in answers}

        def targets(given: Sequence[str]) -> dict[str, float]:
            if protocol.answer_weights == "official":
                return _soft_scores(given, spelling)
            return {answer: n / len(given) for answer, n in sorted(Counter(given).items())}

        return [Item(e.images, self.prompt(e, protocol), targets(e.answers)) for e in examples]

    def text(self, example: Example) -> str:
        """The question."""
        return example.question

    def answers(self, examples: Iterable[Example], protocol: Protocol) -> tuple[str, ...]:
        """The `max_answers` most frequent answers; ties in alphabetical order.

        Answers that are equal after the official text processing are one, in its most frequent spelling: unanimous
        references are compared as they are written.
        """
        spellings: dict[str, Counter[str]] = defaultdict(Counter)
        for example in examples:
            for answer in example.answers:
                spellings[normalise(answer)][answer.strip()] += 1
        ranked = sorted(spellings.values(), key=lambda counts: (-counts.total(), min(counts)))
        return tuple(
            min(counts, key=lambda answer: (-counts[answer], answer))
            for counts in ranked[: protocol.max_answers]
        )


def _soft_scores(answers: Sequence[str], spelling: Mapping[str, str]) -> dict[str, float]:
    plain = [normalise(answer) for answer in answers]
    return {
        spelling[answer]: vqa_accuracy(answer, plain)
        for answer in sorted(set(plain))
        if answer in spelling
    }
