"""Caches of keys and values."""

from __future__ import annotations

from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache


def new_cache() -> DynamicCache:
    """Return an empty cache of keys and values."""
    return DynamicCache()


def select_cache_rows(
    cache: EncoderDecoderCache, rows: Tensor, encoder_rows: Tensor
) -> EncoderDecoderCache:
    """Return a new cache with these rows of the batch.

    `rows` are those of self-attention, `encoder_rows` those of cross-attention.
    """
    own = _select_rows(cache.self_attention_cache, rows)
    encoder = _select_rows(cache.cross_attention_cache, encoder_rows)
    return EncoderDecoderCache(own, encoder)


def repeat_cache(cache: EncoderDecoderCache, times: int) -> None:
    """Repeat every row of a cache in place; the copies are consecutive."""
    cache.batch_repeat_interleave(times)


def reorder_own_cache(cache: EncoderDecoderCache, rows: Tensor) -> None:
    """Put these rows of the cache of self-attention in place of the present ones.

    The cache of cross-attention stays as it is: all beams of an image look at the same states.
    """
    cache.self_attention_cache.reorder_cache(rows)


def _select_rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    selected = DynamicCache()
    for i, layer in enumerate(cache.layers):
        selected.update(layer.keys[rows], layer.values[rows], i)
    return selected
