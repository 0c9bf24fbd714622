"""Texts to token ids and back."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vlpeft.benchmark.core.libraries.transformers.calls import call_function


def decode_tokens(tokenizer: Any, tokens: Tensor) -> list[str]:
    """Return the texts of token ids, without special tokens."""
    texts: list[str] = call_function(tokenizer.batch_decode, tokens, skip_special_tokens=True)
    return texts


def tokenize(
    tokenizer: Any, texts: list[str], limit: int | None, *, special: bool
) -> list[list[int]]:
    """Return the token ids of each text, cut at `limit`; special tokens count."""
    truncation = "longest_first"
    if limit is None:
        truncation = "do_not_truncate"
    rows: list[list[int]] = call_function(
        tokenizer.__call__,
        texts,
        add_special_tokens=special,
        padding=False,
        truncation=truncation,
        max_length=limit,
    ).input_ids
    return rows


def tokenize_padded(tokenizer: Any, texts: list[str], limit: int) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, (texts, tokens) each.

    Special tokens are included, and padding is on the right.
    """
    batch = call_function(
        tokenizer.__call__,
        texts,
        add_special_tokens=True,
        padding="longest",
        padding_side="right",
        truncation="longest_first",
        max_length=limit,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return batch.input_ids, batch.attention_mask
