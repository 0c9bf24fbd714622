"""How many texts of a task are cut, because they have more tokens than the protocol allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.texts import count_cut
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.tasks.base import Item

CutTexts = dict[str, tuple[int, int]]


def cut_texts(backbone: Backbone, inputs: Inputs, limit: int | None = None) -> CutTexts:
    """Count the training inputs and targets of a task that the backbone reads only in part.

    Args:
        backbone: The backbone, which follows the task's protocol.
        inputs: The data of the task.
        limit: Look at the first examples only; None: at all.

    Returns:
        `inputs` and, if the backbone writes, `targets`: how many are cut, and how many there are.
        Nothing if the tokenizer is not available.
    """
    tokenizer = getattr(backbone, "tokenizer", None)
    if tokenizer is None:
        return {}
    items: Sequence[Item] = inputs.items
    if limit is not None:
        items = inputs.task.items(inputs.training[:limit], inputs.answers, inputs.part.protocol)
    found = {}
    if inputs.task.asks:
        room = backbone.input_room(inputs.task.images)
        found["inputs"] = count_cut(tokenizer, (item.prompt for item in items), room)
    target_room = backbone.target_room()
    if target_room is not None:
        found["targets"] = count_cut(tokenizer, _targets(items), target_room)
    return found


def _targets(items: Sequence[Item]) -> Iterator[str]:
    """Yield each text that the model learns to write."""
    for item in items:
        for text, score in item.targets.items():
            if score > 0:
                yield text


def describe_cut(cut: CutTexts) -> str:
    """Return which training texts are cut, in words; "" if none is."""
    keys = {"inputs": "max_input_tokens", "targets": "max_output_tokens"}
    parts = []
    for kind, (number, total) in cut.items():
        if number:
            parts.append(f"{number} of {total} training {kind} are cut at `{keys[kind]}`")
    return " and ".join(parts)
