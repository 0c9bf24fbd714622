"""What tasks with a fixed set of labels share: entailment and NLVR2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from vlpeft.benchmark.core.errors import DataError, UserError, did_you_mean
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.tasks.base import Item, Task


class Labelled(Task):
    """A task whose answer is one of `labels`.

    The model reads and writes a word for each label. A protocol may choose the words with
    `label_words`; by default they are the labels.
    """

    labels: ClassVar[tuple[str, ...]]

    def items(
        self,
        examples: Iterable[Example],
        answers: Sequence[str],
        protocol: Protocol,
    ) -> list[Item]:
        """Return one item for each example."""
        words = self._words(protocol)
        items = []
        for example in examples:
            word = words[self._label(example)]
            items.append(Item(example.images, self.prompt(example, protocol), {word: 1.0}))
        return items

    def text(self, example: Example) -> str:
        """Return the hypothesis or statement."""
        return example.question

    def answers(self, examples: Iterable[Example], protocol: Protocol) -> tuple[str, ...]:
        """Return the words of all labels, in the order of the labels."""
        return tuple(self._words(protocol).values())

    def references(self, example: Example, protocol: Protocol) -> Sequence[str]:
        """Return the word of the example's label."""
        return (self._words(protocol)[self._label(example)],)

    def _label(self, example: Example) -> str:
        (label,) = example.answers
        if label not in self.labels:
            hint = did_you_mean(label, self.labels)
            raise DataError(f"example {example.id}: unknown label '{label}'{hint}")
        return label

    def _words(self, protocol: Protocol) -> dict[str, str]:
        """Return the word of each label.

        Raises:
            UserError: a label is unknown, a word is empty, or two labels share a word.
        """
        given = protocol.label_words or {}
        for label in given:
            if label not in self.labels:
                hint = did_you_mean(label, self.labels)
                raise UserError(f"label_words: {self.name} has no label '{label}'{hint}")
        words = {label: given.get(label, label) for label in self.labels}
        for label, word in words.items():
            if not word.strip():
                raise UserError(f"label_words: the word of '{label}' is empty; give it one")
        if len(set(words.values())) < len(words):
            raise UserError(
                f"label_words: two labels of {self.name} have the same word; give each its own"
            )
        return words
