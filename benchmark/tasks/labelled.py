"""What tasks with a fixed set of labels share: entailment and NLVR2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from vlpeft.benchmark.core.config import Protocol
from vlpeft.benchmark.core.errors import DataError, UserError, did_you_mean
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.tasks.base import Item, Task


class Labelled(Task):
    """The answer is one of `labels`; what the model reads and writes for each, the protocol's `label_words` say."""

    labels: ClassVar[tuple[str, ...]]

    def items(
        self, examples: Iterable[Example], answers: Sequence[str], protocol: Protocol
    ) -> list[Item]:  # noqa: ARG002
        """One item an example."""
        words = self._words(protocol)
        return [
            Item(e.images, self.prompt(e, protocol), {words[self._label(e)]: 1.0}) for e in examples
        ]

    def text(self, example: Example) -> str:
        """The hypothesis or statement."""
        return example.question

    def answers(self, examples: Iterable[Example], protocol: Protocol) -> tuple[str, ...]:  # noqa: ARG002
        """The words of all labels, in the labels' order."""
        return tuple(self._words(protocol).values())

    def references(self, example: Example, protocol: Protocol) -> Sequence[str]:
        """The word of the example's label."""
        return (self._words(protocol)[self._label(example)],)

    def _label(self, example: Example) -> str:
        (label,) = example.answers
        if label not in self.labels:
            raise DataError(
                f"example {example.id}: unknown label '{label}'{did_you_mean(label, self.labels)}"
            )
        return label

    def _words(self, protocol: Protocol) -> dict[str, str]:
        given = protocol.label_words or {}
        for label in given:
            if label not in self.labels:
                raise UserError(
                    f"label_words: {self.name} has no label '{label}'{did_you_mean(label, self.labels)}"
                )
        words = {label: given.get(label, label) for label in self.labels}
        if empty := next((label for label, word in words.items() if not word.strip()), None):
            raise UserError(f"label_words: the word of '{empty}' is empty; give it one")
        if len(set(words.values())) < len(words):
            raise UserError(
                f"label_words: two labels of {self.name} have one word; give each its own"
            )
        return words
