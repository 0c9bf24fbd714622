"""The attention of a site, as methods see it.

A method may read the attention probabilities, or put keys and values before the attention's own.
Both are off until a method asks for them. All other attentions keep the fused kernel (SDPA).

The hook is Hugging Face's registry of attention functions.
A backbone whose model does not use that registry calls `attend` itself (see `blip_attention`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from vlpeft.benchmark.core.libraries.transformers import (
    fused_attention,
    refuse_attention_arguments,
    register_attention,
)

# The name under which transformers knows `attend`.
NAME = "vlpeft"


class Seen(NamedTuple):
    """The result of one attention in one forward pass; cached keys and values are included.

    Shapes:
        query: (batch, queries, width). Projected, with the heads merged.
        value: (batch, keys, width). Projected, with the heads merged.
        probabilities: (batch, heads, queries, keys). After softmax and before dropout.
            Masked entries are 0.
    """

    query: Tensor
    value: Tensor
    # Taken before dropout, as in the p-Adapter release: the graph of a message passing step
    # must not change at random.
    probabilities: Tensor


class Attention:
    """The attention of one site.

    Args:
        module: The attention module of the model.
        tower: The model that contains it, or None if the module calls `attend` itself.
        causal: True if a query never sees a later token.
        fixed_keys: True if no key is padding and every batch has the same number of keys.
    """

    def __init__(
        self,
        module: nn.Module,
        tower: PreTrainedModel | None,
        *,
        causal: bool,
        fixed_keys: bool = False,
    ) -> None:
        self.module = module
        self.tower = tower
        self.causal = causal
        self.fixed_keys = fixed_keys
        # True while text is generated token by token; see `Backbone.generating`.
        self.generating = False
        # Off by default: recording needs memory that grows with queries times keys.
        self.recording = False
        self._seen: Seen | None = None

    @property
    def heads(self) -> int:
        """Return the number of heads, read from the module.

        Raises:
            StopIteration: If the module has neither of the known attributes.
        """
        # The first name is that of RoBERTa and BLIP, the second that of GPT-2 and BART.
        names = ("num_attention_heads", "num_heads")
        return next(int(getattr(self.module, name)) for name in names if hasattr(self.module, name))

    def record(self) -> None:
        """Leave fused attention from now on, and keep the result of each forward until `take`.

        SDPA never returns its probabilities, so a recorded attention is computed by two matrix
        products. It needs memory for (batch, heads, queries, keys).
        """
        self.recording = True
        self._install_hook()

    def take(self) -> Seen:
        """Return what the current forward has computed here, and forget it.

        Forgetting frees the tensors early, and it shows an adapter that runs without its attention.

        Returns:
            The query and value states and the probabilities; see `Seen` for the shapes.

        Raises:
            RuntimeError: If the attention has not run since the last call.
        """
        if self._seen is None:
            raise RuntimeError("this attention has not run since it was last read")
        seen = self._seen
        self._seen = None
        return seen

    def prepend(self, prefix: nn.Module) -> None:
        """Put keys and values before this attention's own.

        Args:
            prefix: A module without inputs. It returns keys and values, each of shape
                (heads, length, head width).
        """
        # A submodule of the attention, so that the prefix is trained, saved and moved with it.
        self.module.add_module("prefix", prefix)
        self._install_hook()

    def run(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
        dropout: float,
    ) -> Tensor:
        """Compute the attention, and keep its result if a method records it.

        Args:
            query: (batch, heads, queries, head width).
            key: (batch, heads, keys, head width).
            value: (batch, heads, keys, head width).
            mask: An additive mask that broadcasts to (batch, heads, queries, keys), or None.
            scaling: The factor of the scores, usually 1 / sqrt(head width).
            dropout: The dropout probability of the attention weights; 0 outside training.

        Returns:
            (batch, heads, queries, head width).
        """
        # A prefix alone needs no probabilities, so it keeps the fused kernel.
        if not self.recording:
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=False, scale=scaling
            )
        # M = softmax(Q K^T / sqrt(d)), equation (5) of the p-Adapter paper.
        scores = (query @ key.transpose(-1, -2)) * scaling
        if mask is not None:
            scores = scores + mask
        probabilities = torch.softmax(scores, -1)
        self._seen = Seen(merge_heads(query), merge_heads(value), probabilities)
        # `dropout` is 0 outside training, so the flag can stay on.
        return functional.dropout(probabilities, p=dropout, training=True) @ value

    def _install_hook(self) -> None:
        self.module.attention_hook = self  # type: ignore[assignment]
        if self.tower is not None:
            # Modules of the tower that have no hook still get fused attention from `attend`.
            self.tower.set_attn_implementation(NAME)


def reads_probabilities(module: nn.Module) -> bool:
    """Check whether a method reads the probabilities of this attention module.

    Args:
        module: The attention module of a model.

    Returns:
        True after `Attention.record` was called for the module.
    """
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
    """Compute attention for a module, with the prefix and the recording that methods asked for.

    The signature is that of Hugging Face's attention functions.

    Args:
        module: The attention module that calls.
        query: (batch, heads, queries, head width).
        key: (batch, heads, keys, head width).
        value: (batch, heads, keys, head width).
        attention_mask: Additive, or boolean with True where a query may look. It broadcasts to
            (batch, heads, queries, keys).
        scaling: The factor of the scores; None means 1 / sqrt(head width).
        dropout: The dropout probability of the attention weights; 0 outside training.
        is_causal: Whether later tokens are hidden when there is no mask. None means that the
            module's own attribute decides.
        others: Further arguments of the library. Those without an effect are accepted.

    Returns:
        The result, (batch, queries, heads, head width), and None for the attention weights.

    Raises:
        UserError: If `others` holds an argument that may change the result.
        RuntimeError: If a hooked attention is causal and has no mask.
    """
    if others:
        refuse_attention_arguments(others)
    # Once one module of a tower has a hook, all its modules come here.
    hook: Attention | None = getattr(module, "attention_hook", None)
    if hook is None:
        result = fused_attention(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            dropout=dropout,
            is_causal=is_causal,
        )
        return result, None
    _check_causal_mask(module, query, attention_mask, is_causal)
    mask = _make_additive(attention_mask, query.dtype)
    prefix = getattr(module, "prefix", None)
    if prefix is not None:
        key, value, mask = _prepend_prefix(prefix, key, value, mask)
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    return hook.run(query, key, value, mask, scaling, dropout).transpose(1, 2), None


def merge_heads(heads: Tensor) -> Tensor:
    """Concatenate the heads of each token.

    Args:
        heads: (batch, heads, tokens, head width).

    Returns:
        (batch, tokens, heads * head width).
    """
    return heads.transpose(1, 2).flatten(2)


def _check_causal_mask(
    module: nn.Module, query: Tensor, mask: Tensor | None, is_causal: bool | None
) -> None:
    """Refuse causal attention that relies on the kernel's own mask.

    A prefix would shift that mask, and recorded probabilities would have none at all.
    A single query is always the last token, so nothing has to be hidden from it.
    """
    if mask is not None or query.shape[2] <= 1:
        return
    if is_causal is None:
        # The default of transformers: a module without the attribute is causal.
        is_causal = bool(getattr(module, "is_causal", True))
    if is_causal:
        raise RuntimeError(
            "causal attention without a mask: "
            "a method that reads it or adds to it would see later tokens"
        )


def _make_additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Turn a boolean mask into an additive one; return any other mask as it is.

    Every query sees at least one of its own keys. So the smallest number of the type can take the
    place of minus infinity, which would give NaN in a row that is masked completely.
    """
    if mask is None or mask.dtype != torch.bool:
        return mask
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill(~mask, torch.finfo(dtype).min)


def _prepend_prefix(
    prefix: nn.Module, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Put the keys and values of a prefix first; every query may see them (Li & Liang 2021)."""
    keys, values = prefix()
    # The prefix joins after the projections, so no position shifts.
    key = torch.cat([keys.to(key.dtype).expand(key.shape[0], -1, -1, -1), key], 2)
    value = torch.cat([values.to(value.dtype).expand(value.shape[0], -1, -1, -1), value], 2)
    if mask is not None:
        # The mask is additive here, so a padding of 0 leaves the prefix visible.
        mask = functional.pad(mask, (keys.shape[-2], 0))
    return key, value, mask


register_attention(NAME, attend)
