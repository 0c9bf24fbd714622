"""What a task is: how examples become training items, and what is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from vlpeft.benchmark.core.config import Protocol
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
    metrics: ClassVar[tuple[str, ...]]  # set by @register: what a cell reports, the first one ranks
    images: ClassVar[int] = 1  # of an example
    asks: ClassVar[bool] = True  # whether a text belongs to the image, which a prompt must hold
    optional: ClassVar[tuple[str, ...]] = ()  # what it can report too, where a protocol names them

    @abstractmethod
    def items(
        self, examples: Iterable[Example], answers: Sequence[str], protocol: Protocol
    ) -> list[Item]:
        """Training items of a split; `answers` is the closed answer list."""

    @abstractmethod
    def text(self, example: Example) -> str:
        """The text that belongs to the image: a question, a hypothesis, or nothing."""

    def prompt(self, example: Example, protocol: Protocol) -> str:
        """What the model reads beside the image: the text, cleaned and framed as the protocol says; the same in training and evaluation."""
        return protocol.prompt.replace(
            "{text}", clean_question(self.text(example), protocol.clean_text)
        )

    @abstractmethod
    def answers(self, examples: Iterable[Example], protocol: Protocol) -> tuple[str, ...]:
        """The closed answer list that a classifier or a ranking chooses from; empty for open generation."""

    def references(self, example: Example, protocol: Protocol) -> Sequence[str]:  # noqa: ARG002 - labels are written as it says
        """What a prediction is compared with."""
        return example.answers
