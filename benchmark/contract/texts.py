"""What a backbone promises about texts: how many tokens it reads, and in which positions.

A plan compares these numbers with the tokenizer and the tower, for every backbone in one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import PreTrainedModel

from vlpeft.benchmark.core.errors import WeightsError
from vlpeft.benchmark.libraries.transformers import quiet, tokenize

if TYPE_CHECKING:
    from vlpeft.benchmark.contract.backbone import Backbone

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


def check_fit(backbone: Backbone) -> None:
    """Check that the tokenizer, the token table and the positions of a backbone fit each other.

    Raises:
        WeightsError: The tokenizer has more tokens than the table has rows, or texts may need more
            positions than the tower has.
    """
    tokenizer = getattr(backbone, "tokenizer", None)
    if tokenizer is not None and hasattr(backbone, "token_embeddings"):
        _check_vocabulary(backbone, tokenizer)
    for length in backbone.lengths():
        if length.positions is not None and length.needed > length.positions:
            raise WeightsError(
                f"{length.keys} may need {length.needed} positions, "
                f"{name_source(backbone)} has {length.positions}; lower them"
            )


def _check_vocabulary(backbone: Backbone, tokenizer: Any) -> None:
    """Raise WeightsError for a tokenizer with a token that has no row in the table."""
    rows = backbone.vocabulary
    needed = 1 + max(tokenizer.get_vocab().values(), default=0)
    if needed > rows:
        raise WeightsError(
            f"{name_source(backbone)}: its tokenizer has {needed} tokens, and the embedding of the "
            f"model has {rows} rows; use the tokenizer of the checkpoint, or call "
            f"`resize_token_embeddings({needed})` on the model, train the new rows and save it"
        )


def name_source(backbone: Backbone) -> str:
    """Return the folder or id that a backbone's text came from, for messages."""
    if backbone.source:
        return backbone.source
    name = getattr(getattr(backbone, "tokenizer", None), "name_or_path", "")
    return str(name) or f"the tower of {backbone.name}"


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
