"""What one task of a cell reads: the examples of its splits, its closed answer list, its training items."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vlpeft.benchmark.cells.cell import Part
from vlpeft.benchmark.core.config import Protocol, dump
from vlpeft.benchmark.datasets.base import DataFormat, Example
from vlpeft.benchmark.tasks import TASKS
from vlpeft.benchmark.tasks.base import Item, Task

SPLITS_KEPT = 8


@dataclass(frozen=True)
class Inputs:
    """The opened data of a part."""

    part: Part
    data: DataFormat
    task: Task
    training: Sequence[Example]
    test: Sequence[Example]
    answers: tuple[str, ...]
    selection: Sequence[Example] = ()  # what epochs are compared on

    @classmethod
    def open(cls, part: Part) -> Inputs:
        """Read all splits that are used. Raises DataError where they cannot be read."""
        data, task = part.dataset.open(), TASKS.load(part.task)()
        training, test, selection = splits(data, part.task, part.protocol)
        return cls(
            part, data, task, training, test, task.answers(training, part.protocol), selection
        )

    @property
    def images(self) -> list[str]:
        """All that are seen as they are; augmented training images are not."""
        training = self.training if self.part.protocol.augment == "none" else ()
        return [
            image
            for example in (*training, *self.selection, *self.test)
            for image in example.images
        ]

    @cached_property
    def items(self) -> list[Item]:
        """What is trained on."""
        return self.task.items(self.training, self.answers, self.part.protocol)

    def prompts(self, examples: Sequence[Example]) -> list[str]:
        """What the model reads beside each image."""
        return [self.task.prompt(example, self.part.protocol) for example in examples]


def splits(
    data: DataFormat, task: str, protocol: Protocol
) -> tuple[Sequence[Example], Sequence[Example], Sequence[Example]]:
    """Training, test and selection examples: the first `train_limit`, and of the other two the first `eval_limit`, of them.

    Without `select: best` there are none of the last kind.
    """
    content = data.fingerprint()
    training = _examples(data, content, task, protocol.train_split)[: protocol.train_limit]
    test = _examples(data, content, task, protocol.eval_split)[: protocol.eval_limit]
    if protocol.select != "best":
        return training, test, ()
    return (
        training,
        test,
        _examples(data, content, task, protocol.select_split)[: protocol.eval_limit],
    )


_READ: OrderedDict[str, Sequence[Example]] = (
    OrderedDict()
)  # a worker runs many cells on the same data: read it once


def _examples(data: DataFormat, content: str, task: str, split: str) -> Sequence[Example]:
    key = json.dumps([data.name, dump(data), content, task, split], sort_keys=True)
    if key not in _READ:
        _READ[key] = data.examples(task, split)
        while len(_READ) > SPLITS_KEPT:
            _READ.popitem(last=False)
    return _READ[key]
