"""What one task of a cell reads: examples of its splits, closed answer list, training items."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vlpeft.benchmark.cells.cell import Part
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import DataError, UserError, error_context
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets.base import DataFormat, Example, image_fingerprint, read_examples
from vlpeft.benchmark.tasks import TASKS
from vlpeft.benchmark.tasks.base import Item, Task

GLANCE = 256  # training examples that are looked at together
SPLITS_KEPT = 8  # enough for the three splits of two tasks


@dataclass(frozen=True)
class Inputs:
    """The opened data of a part."""

    part: Part
    data: DataFormat
    task: Task
    training: Sequence[Example]
    test: Sequence[Example]
    answers: tuple[str, ...]
    selection: Sequence[Example] = ()  # the examples on which epochs are compared

    @classmethod
    def open(cls, part: Part) -> Inputs:
        """Read all splits that are used.

        Raises:
            DataError: a split cannot be read.
        """
        data, task = part.dataset.open(), TASKS.load(part.task)()
        training, test, selection = splits(part)
        # The list comes from the training answers only: those of the test split are unknown.
        answers = task.answers(training, part.protocol)
        return cls(part, data, task, training, test, answers, selection)

    def check(self) -> None:
        """Check that training can teach something, and that each tested example can be scored.

        Both would otherwise show only when the training is over.

        Raises:
            UserError: no training example has a target of any weight.
            DataError: a tested example has no reference or a wrong one, or two share an id.
        """
        name, recipe = self.part.dataset.name, self.part.protocol
        if self.training and not self._has_targets():
            raise UserError(
                f"dataset '{name}': no example of the split '{recipe.train_split}' has an answer "
                f"to train on; check its answers, `answer_weights` ({recipe.answer_weights}) and "
                f"`max_answers` ({recipe.max_answers})"
            )
        for split, examples in (
            (recipe.eval_split, self.test),
            (recipe.select_split, self.selection),
        ):
            with error_context(f"dataset '{name}', split '{split}'"):
                _check_references(self.task, examples, recipe)

    def _has_targets(self) -> bool:
        """Return whether any training item has a target; a healthy split needs one glance."""
        for begin in range(0, len(self.training), GLANCE):
            part = self.training[begin : begin + GLANCE]
            for item in self.task.items(part, self.answers, self.part.protocol):
                if any(weight > 0 for weight in item.targets.values()):
                    return True
        return False

    @property
    def images(self) -> list[str]:
        """The images that the model sees unchanged. Training images that are augmented are not."""
        training = self.training if self.part.protocol.augment == "none" else ()
        examples = (*training, *self.selection, *self.test)
        return [image for example in examples for image in example.images]

    def split_size(self) -> int:
        """Return how many examples the tested split holds, beyond any `eval_limit`."""
        split = self.part.protocol.eval_split
        return len(_read_split(self.part, split))

    def image_fingerprint(self) -> str:
        """Return a hash of the state of all image files, or "" if the model sees none."""
        if self.part.protocol.images != "real":
            return ""
        examples = (*self.training, *self.selection, *self.test)
        return image_fingerprint(self.data, (i for example in examples for i in example.images))

    @cached_property
    def items(self) -> list[Item]:
        """The training items."""
        return self.task.items(self.training, self.answers, self.part.protocol)

    def prompts(self, examples: Sequence[Example]) -> list[str]:
        """Return the text that the model reads with each image."""
        return [self.task.prompt(example, self.part.protocol) for example in examples]


def _check_references(task: Task, examples: Sequence[Example], protocol: Protocol) -> None:
    """Raise DataError for an example that cannot be scored."""
    seen: set[str] = set()
    for example in examples:
        if not task.references(example, protocol):
            raise DataError(
                f"example '{example.id}' has no reference answer, so it cannot be scored; "
                "leave it out of the split"
            )
        if example.id in seen:
            raise DataError(
                f"two examples have the id '{example.id}'; ids must be unique within a split"
            )
        seen.add(example.id)


def splits(part: Part) -> tuple[Sequence[Example], Sequence[Example], Sequence[Example]]:
    """Return training, test and selection examples.

    They are the first `train_limit` examples of the training split, and the first `eval_limit` of
    the two others. The selection examples are empty without `select: best`.
    """
    protocol = part.protocol

    def read(split: str, limit: int | None) -> Sequence[Example]:
        return _read_split(part, split)[:limit]

    training = read(protocol.train_split, protocol.train_limit)
    test = read(protocol.eval_split, protocol.eval_limit)
    # A dataset without the selection split can still run with `select: last`.
    if protocol.select != "best":
        return training, test, ()
    return training, test, read(protocol.select_split, protocol.eval_limit)


def _read_split(part: Part, split: str) -> Sequence[Example]:
    """Return the examples of a split, which a dataset's `cut` may define."""
    data, cut = part.dataset.open(), part.dataset.cut
    # Part of the key of what is kept, so a file that was edited is read again.
    content = data.fingerprint()
    if cut is None or split not in cut.names():
        return _examples(data, content, part.task, split)
    return cut.select(_examples(data, content, part.task, cut.of), split)


# A worker runs many cells on the same data, so splits that were read are kept.
_READ: OrderedDict[str, Sequence[Example]] = OrderedDict()


def _examples(data: DataFormat, content: str, task: str, split: str) -> Sequence[Example]:
    """Return the examples of a split. `content` is the fingerprint of the data files."""
    key = json.dumps([data.name, dump(data), content, task, split], sort_keys=True)
    if key not in _READ:
        _READ[key] = read_examples(data, task, split)
        while len(_READ) > SPLITS_KEPT:
            _READ.popitem(last=False)  # the oldest
    return _READ[key]
