"""Cross-attention in the bottleneck of LoRA: a baseline of the routing-functions paper.

Qu et al., ECCV 2024; the release calls it split-attn. For the n adapted maps of one module, with
k' = n * floor(rank / 4) and without biases:

    t = A_t x_H     i = A_i x_R     q = W_q t     K = W_k i     V = W_v i
    m = A_up W_o concat_j softmax(q_j K_j^T / sqrt(k' / heads)) V_j
    y = W x + b + (alpha / rank) B m          with the j-th part of m for the j-th map

Text is the query and the image gives keys and values. With one visual token the softmax is 1, and
A_t, W_q and W_k would learn nothing: so the method needs a backbone with `context: tokens`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlpeft.baselines.lora import LoRA, LowRankSpans, Span
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import shape
from vlpeft.benchmark.contract.sites import VisualContext, count
from vlpeft.benchmark.core.config import Positive
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register

REDUCTION = 4  # of the release: the attention works on a quarter of the rank


@register(
    "cross_attention_lora",
    paper="Qu et al. 2024",
    needs=("linears", "visual_context", "visual_tokens"),
)
@dataclass(frozen=True)
class CrossAttentionLoRA(LoRA):
    """LoRA in whose bottleneck the text attends to the visual tokens, with maps of its own.

    It has more parameters than LoRA of the same rank, unlike routing functions.
    """

    heads: Positive = 4

    def wrap(self, module: nn.Module, spans: Sequence[Span], backbone: Backbone) -> LowRankSpans:
        """Return the module with its update."""
        self._check_heads(len(spans))
        return CrossAttentionLinear(
            module, spans, self, backbone.context_width, backbone.visual_context
        )

    def trainable(self, backbone: Backbone) -> int:
        """Count (d + c) k' + 4 k'^2 + k' n rank and rank x outputs for each module.

        d and c are the widths of its input and of a visual token.
        """
        total = 0
        for slot, spans in self._targets(backbone):
            self._check_heads(len(spans))
            inner = self.inner_width(len(spans))
            inputs, _ = shape(slot.module)
            total += (inputs + backbone.context_width) * inner + 4 * inner**2
            total += inner * len(spans) * self.rank
            total += sum(self.rank * (stop - start) for start, stop in spans)
        if self.per_task:
            total *= backbone.active_task.count
        return total + count(self._extra_parameters(backbone))

    def inner_width(self, maps: int) -> int:
        """Return k', the width of the attention of a module with so many adapted maps."""
        return maps * (self.rank // REDUCTION)

    def _check_heads(self, maps: int) -> None:
        """Raise UserError if the width of the attention cannot be split into heads."""
        inner = self.inner_width(maps)
        if inner == 0 or inner % self.heads:
            raise UserError(
                f"heads: {self.heads} heads cannot share {inner} features, a quarter of the rank "
                f"for each of {maps} maps; choose a rank that is a multiple of "
                f"{REDUCTION * self.heads}"
            )


class CrossAttentionLinear(LowRankSpans):
    """A frozen linear map plus scale * B m on each of its spans; see the top of this file."""

    def __init__(
        self,
        base: nn.Module,
        spans: Sequence[Span],
        method: CrossAttentionLoRA,
        visual_width: int,
        context: VisualContext,
    ) -> None:
        super().__init__(base, spans, method.rank, method.alpha)
        inputs, _ = shape(base)
        inner = method.inner_width(len(spans))
        self.heads = method.heads
        self.context = context
        self.dropout = nn.Dropout(method.dropout)
        self.text = _matrix(inner, inputs)
        self.image = _matrix(inner, visual_width)
        self.query = _matrix(inner, inner)
        self.key = _matrix(inner, inner)
        self.value = _matrix(inner, inner)
        self.out = _matrix(inner, inner)
        self.up = _matrix(len(spans) * method.rank, inner)
        self.lora_b = self.make_up_projection()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, inputs) to (batch, length, outputs)."""
        y: Tensor = self.base(x)
        low = self.attend(x)
        return self.add_update(y.flatten(0, -2), low.flatten(0, -2)).view(y.shape)

    def attend(self, x: Tensor) -> Tensor:
        """Return m, (batch, length, spans * rank), of text states (batch, length, inputs)."""
        # The release drops the image's states for keys and for values apart.
        image = functional.linear(self.context.value, self.image)
        query = self._split(functional.linear(functional.linear(x, self.text), self.query))
        key = self._split(functional.linear(self.dropout(image), self.key))
        value = self._split(functional.linear(self.dropout(image), self.value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        return functional.linear(functional.linear(self.dropout(mixed), self.out), self.up)

    def _split(self, states: Tensor) -> Tensor:
        """Return (batch, heads, length, width of a head) of (batch, length, k')."""
        batch, length, width = states.shape
        return states.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


def _matrix(outputs: int, inputs: int) -> nn.Parameter:
    """Return a weight drawn like nn.Linear's."""
    weight = nn.Parameter(torch.empty(outputs, inputs))
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    return weight
