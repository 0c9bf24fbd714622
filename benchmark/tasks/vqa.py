"""Visual question answering."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.metrics.vqa_accuracy import normalise, vqa_accuracy
from vlpeft.benchmark.tasks.base import Item, Task


@register(
    "vqa",
    needs=("choose",),
    metrics=("vqa_accuracy",),
    optional=("answer_match", "accuracy", "vqa_accuracy_vl_adapter"),
)
class VQA(Task):
    """Answer a question about an image; scored by the official ten-answer rule."""

    pipeline = "visual-question-answering"

    def items(
        self, examples: Iterable[Example], answers: Sequence[str], protocol: Protocol
    ) -> list[Item]:
        """Return one item for each question.

        `answer_weights: official` scores each answer of the list as the metric would: 0.3, 0.6,
        0.9 or 1 with ten references. `frequency` gives every answer, in the list or not, its share
        of the question's references.
        """
        spelling = {normalise(answer): answer for answer in answers}
        items = []
        for example in examples:
            if protocol.answer_weights == "official":
                targets = _soft_scores(example.answers, spelling)
            else:
                targets = _shares(example.answers)
            items.append(Item(example.images, self.prompt(example, protocol), targets))
        return items

    def text(self, example: Example) -> str:
        """Return the question."""
        return example.question

    def answers(self, examples: Iterable[Example], protocol: Protocol) -> tuple[str, ...]:
        """Return the `max_answers` most frequent answers, ties in alphabetical order.

        Answers that are equal after the official text processing are counted together, and listed
        in their most frequent spelling. The spelling matters because unanimous references are
        compared as they are written.
        """
        spellings: dict[str, Counter[str]] = defaultdict(Counter)
        for example in examples:
            for answer in example.answers:
                spellings[normalise(answer)][answer.strip()] += 1
        ranked = sorted(spellings.values(), key=lambda counts: (-counts.total(), min(counts)))
        return tuple(_most_frequent(counts) for counts in ranked[: protocol.max_answers])


def _most_frequent(counts: Counter[str]) -> str:
    """Return the most frequent spelling; of several, the first in alphabetical order."""
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _shares(answers: Sequence[str]) -> dict[str, float]:
    """Return the share of each answer among the references."""
    return {answer: n / len(answers) for answer, n in sorted(Counter(answers).items())}


def _soft_scores(answers: Sequence[str], spelling: Mapping[str, str]) -> dict[str, float]:
    """Return the accuracy of each reference that is in the answer list, by its listed spelling."""
    plain = [normalise(answer) for answer in answers]
    scores = {}
    for answer in sorted(set(plain)):
        if answer in spelling:
            scores[spelling[answer]] = vqa_accuracy(answer, plain)
    return scores
