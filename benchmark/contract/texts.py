"""What a backbone promises about texts: how many tokens it reads, and in which positions.

A plan compares these numbers with the tokenizer and the tower, for every backbone in one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from vlpeft.benchmark.core.libraries.transformers import quiet, tokenize

TOGETHER = 10_000  # texts that are tokenized in one call


class Room(NamedTuple):
    """How many tokens of a text a backbone takes; the others are cut.

    Attributes:
        tokens: The number of tokens.
        special: Whether the special tokens that the tokenizer adds are among them.
    """

    tokens: int
    special: bool


class Length(NamedTuple):
    """The positions that texts may need in a tower.

    Attributes:
        keys: The settings that the number depends on, for messages.
        needed: The positions that the longest text takes.
        positions: The positions that the tower has; None if it has no limit.
    """

    keys: str
    needed: int
    positions: int | None


def usable_positions(model: Any) -> int | None:
    """Return how many tokens a text tower can read; None if nothing says so.

    RoBERTa and its relatives number positions from behind the padding id, so fewer than all rows
    of their table are used.
    """
    if not isinstance(model, PreTrainedModel):
        return None
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return int(module.get_parameter("weight").shape[0]) - int(padding) - 1
    rows: object = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(rows, int):
        return None
    return int(rows)


def count_cut(tokenizer: Any, texts: Iterable[str], room: Room) -> tuple[int, int]:
    """Return how many texts are longer than the room for them, and how many texts there are."""
    counts = Counter(texts)
    remaining, cut = iter(counts), 0
    # Measuring is not reading: a text longer than the tower's positions needs no warning.
    with quiet(bars=False):
        while some := list(islice(remaining, TOGETHER)):
            rows = tokenize(tokenizer, some, None, special=room.special)
            cut += sum(
                counts[text] for text, row in zip(some, rows, strict=True) if len(row) > room.tokens
            )
    return cut, counts.total()
