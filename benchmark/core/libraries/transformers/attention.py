"""The registry of attention functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from vlpeft.benchmark.core.libraries.changes import refuse_unknown
from vlpeft.benchmark.core.libraries.transformers.calls import LIBRARY

NO_EFFECT = frozenset({"position_ids", "use_cache", "encoder_hidden_states"})
"""Arguments that models pass to every attention function, and that none of them reads."""

_SDPA = AttentionInterface()["sdpa"]
# The mask of `sdpa` is skipped where the kernel can make a causal mask itself. This one never is.
_ADDITIVE_MASK = AttentionMaskInterface()["eager"]


def register_attention(name: str, function: Callable[..., tuple[Tensor, None]]) -> None:
    """Offer an attention function to all models under `name`; it gets additive masks."""
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, _ADDITIVE_MASK)


def refuse_attention_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise UserError for an argument of an attention function that may change its result."""
    unknown = [name for name in arguments if name not in NO_EFFECT]
    if unknown:
        refuse_unknown(LIBRARY, "vlpeft.benchmark.contract.attention.attend", unknown)


def fused_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None,
    dropout: float,
    is_causal: bool | None,
) -> Tensor:
    """Compute the fused attention of transformers.

    Inputs are (batch, heads, tokens, head width), the result (batch, queries, heads, head width).
    """
    result: Tensor = _SDPA(
        module,
        query,
        key,
        value,
        mask,
        dropout=dropout,
        scaling=scaling,
        is_causal=is_causal,
        position_bias=None,
    )[0]
    return result
