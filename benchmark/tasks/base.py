"""What a task is: how examples become training items, and which metrics score the predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from vlpeft.benchmark.contract.abilities import Ability
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.tasks.text import clean_question


@dataclass(frozen=True)
class Item:
    """One training item: its images, a prompt, and target texts with their scores."""

    images: tuple[str, ...]
    prompt: str
    targets: Mapping[str, float]


class Task(ABC):
    """A task: stateless, one file."""

    name: ClassVar[str]  # set by @register
    # Set by @register: the abilities that a backbone must have for this task.
    needs: ClassVar[tuple[Ability, ...]]
    # Set by @register: the metrics that a cell reports. The first one ranks.
    metrics: ClassVar[tuple[str, ...]]
    # Images of an example.
    images: ClassVar[int] = 1
    # Whether an example has a text, such as a question. The prompt must then contain it.
    asks: ClassVar[bool] = True
    # The tag that the model hub has for such models; None: it has no tag.
    pipeline: ClassVar[str | None] = None
    # Metrics that a cell reports only if its protocol names them.
    optional: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def items(
        self, examples: Iterable[Example], answers: Sequence[str], protocol: Protocol
    ) -> list[Item]:
        """Return the training items of a split; `answers` is the closed answer list."""

    @abstractmethod
    def text(self, example: Example) -> str:
        """Return the text of an example: a question, a hypothesis, or an empty text."""

    def prompt(self, example: Example, protocol: Protocol) -> str:
        """Return the text that the model reads with the image, in training and evaluation.

        The protocol says how the text is cleaned and which words surround it.
        """
        text = clean_question(self.text(example), protocol.clean_text)
        return protocol.prompt.replace("{text}", text)

    @abstractmethod
    def answers(self, examples: Iterable[Example], protocol: Protocol) -> tuple[str, ...]:
        """Return the closed answer list, from which a classifier or a ranking chooses.

        It is empty for a task whose answers are generated.
        """

    def references(self, example: Example, protocol: Protocol) -> Sequence[str]:
        """Return the texts that a prediction is compared with.

        `protocol` matters to tasks with labels: it gives the word for each label.
        """
        return example.answers
