"""Whether the parts of a backbone fit each other: tokenizer, token table and positions."""

from __future__ import annotations

from typing import Any

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.errors import WeightsError


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
