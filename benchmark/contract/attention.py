"""The attention of a site, as methods see it: they may read its probabilities, or put keys and values before its own.

Both are off until a method asks for them; everything else keeps fused attention (SDPA). The hook is Hugging Face's
registry of attention functions; a backbone whose model does not use that registry calls `attend` itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from vlpeft.benchmark.libraries.transformers import (
    fused_attention,
    refuse_attention_arguments,
    register_attention,
)

NAME = "vlpeft"


class Seen(NamedTuple):
    """What one attention computed in one forward; cached keys and values included."""

    query: Tensor  # (batch, queries, width): projected, heads merged
    value: Tensor  # (batch, keys, width): projected, heads merged
    probabilities: (
        Tensor  # (batch, heads, queries, keys): after softmax, before dropout; masked entries are 0
    )


class Attention:
    """One site's attention. `causal`: a query sees no later one; `fixed_keys`: no key is padding, and all batches have as many."""

    def __init__(
        self,
        module: nn.Module,
        tower: PreTrainedModel | None,
        *,
        causal: bool,
        fixed_keys: bool = False,
    ) -> None:
        self.module, self.tower, self.causal, self.fixed_keys = module, tower, causal, fixed_keys
        self.generating = (
            False  # text is being written, a token at a time; see `Backbone.generating`
        )
        self.recording = False
        self._seen: Seen | None = None

    @property
    def heads(self) -> int:
        """How many heads it has, as its module says."""
        names = ("num_attention_heads", "num_heads")  # RoBERTa and BLIP; GPT-2 and BART
        return next(int(getattr(self.module, name)) for name in names if hasattr(self.module, name))

    def record(self) -> None:
        """Leave fused attention from now on, and keep what each forward computes until `take`."""
        self.recording = True
        self._hook()

    def take(self) -> Seen:
        """What the forward under way has computed here. Raises if it has not."""
        if self._seen is None:
            raise RuntimeError("this attention has not run since it was last read")
        seen, self._seen = self._seen, None
        return seen

    def prepend(self, prefix: nn.Module) -> None:
        """Put keys and values before this attention's own: `prefix()` returns both, (heads, length, head width) each."""
        self.module.add_module("prefix", prefix)
        self._hook()

    def _hook(self) -> None:
        self.module.attention_hook = self  # type: ignore[assignment]
        if self.tower is not None:
            self.tower.set_attn_implementation(NAME)

    def run(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
        dropout: float,
    ) -> Tensor:
        """Attention of (batch, heads, tokens, head width) under an additive mask."""
        if not self.recording:
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=False, scale=scaling
            )
        scores = (query @ key.transpose(-1, -2)) * scaling
        probabilities = torch.softmax(scores if mask is None else scores + mask, -1)
        self._seen = Seen(merge_heads(query), merge_heads(value), probabilities)
        return functional.dropout(probabilities, p=dropout, training=True) @ value


def reads_probabilities(module: nn.Module) -> bool:
    """Whether a method reads the probabilities of this attention's module."""
    hook: Attention | None = getattr(module, "attention_hook", None)
    return hook is not None and hook.recording


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of (batch, heads, tokens, head width); returns (batch, queries, heads, head width).

    The signature is that of Hugging Face's attention functions: the mask is additive, or true where a query may look;
    `dropout` is 0 outside training; without a mask, `is_causal` (None: what the module says) hides later tokens.
    Raises UserError for an argument that may change the result and is not known here.
    """
    if others:
        refuse_attention_arguments(others)
    hook: Attention | None = getattr(module, "attention_hook", None)
    if hook is None:
        found = fused_attention(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            dropout=dropout,
            is_causal=is_causal,
        )
        return found, None
    if attention_mask is None and query.shape[2] > 1 and _is_causal(module, is_causal):
        raise RuntimeError(
            "causal attention without a mask: a method that reads it or adds to it would see later tokens"
        )
    attention_mask = _additive(attention_mask, query.dtype)
    prefix = getattr(module, "prefix", None)
    if prefix is not None:
        keys, values = prefix()
        key = torch.cat([keys.to(key.dtype).expand(key.shape[0], -1, -1, -1), key], 2)
        value = torch.cat([values.to(value.dtype).expand(value.shape[0], -1, -1, -1), value], 2)
        attention_mask = (
            None if attention_mask is None else functional.pad(attention_mask, (keys.shape[-2], 0))
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return hook.run(query, key, value, attention_mask, scaling, dropout).transpose(1, 2), None


def _is_causal(module: nn.Module, asked: bool | None) -> bool:
    return bool(getattr(module, "is_causal", True)) if asked is None else asked


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Every query sees at least one key of its own, so the smallest number does for minus infinity, without its NaN."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
        ~mask, torch.finfo(dtype).min
    )


def merge_heads(heads: Tensor) -> Tensor:
    """(batch, heads, tokens, head width) to (batch, tokens, width)."""
    return heads.transpose(1, 2).flatten(2)


register_attention(NAME, attend)
