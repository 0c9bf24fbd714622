"""One p-Laplacian message passing, as ours or as its literal transcription."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlpeft.benchmark.contract.attention import Seen
from vlpeft.benchmark.contract.method import METHODS
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.verify.transcriptions import LiteralAttention, LiteralBlock, p_adapter


@dataclass(frozen=True)
class Shape:
    """One attention of a training step: examples, queries, keys; what the keys are pooled to; the graph."""

    name: str
    batch: int
    queries: int
    keys: int
    tokens: int | None = None
    width: int = 768
    heads: int = 12
    size: int = 96

    @property
    def cross(self) -> bool:
        """Whether queries look at an image."""
        return self.keys != self.queries


def parts(shape: Shape, device: torch.device) -> tuple[LiteralBlock, Tensor, Seen]:
    """Adapter, the attention's output, and what it has seen.

    All that text makes has a gradient, since layers below are adapted; what an image makes has none.
    """
    torch.manual_seed(0)
    method = parse(
        METHODS.load("p_adapter"), {"size": shape.size, "image_tokens": shape.tokens}, "p_adapter"
    )
    shown = LiteralAttention(shape.heads, causal=not shape.cross, fixed_keys=shape.cross)
    block = LiteralBlock(
        "cross" if shape.cross else "self",
        nn.Linear(shape.width, shape.width).requires_grad_(False),
        shown,
        method,
    ).to(device)
    scores = torch.randn(shape.batch, shape.heads, shape.queries, shape.keys, device=device)
    if not shape.cross:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    query, value = (
        torch.randn(shape.batch, n, shape.width, device=device) for n in (shape.queries, shape.keys)
    )
    seen = Seen(
        query.requires_grad_(),
        value.requires_grad_(not shape.cross),
        scores.softmax(-1).requires_grad_(),
    )
    return block, torch.randn_like(query).requires_grad_(), seen


def forward(
    block: LiteralBlock, output: Tensor, seen: Seen, shape: Shape, *, literal: bool
) -> Tensor:
    """What the adapter makes of the attention's output, (batch, queries, width)."""
    if literal:
        return p_adapter(
            block.adapter,
            block.projection,
            output,
            seen,
            bipartite=shape.cross,
            tokens=shape.tokens,
        )
    block.attention.shown = seen
    made: Tensor = block.adapter(output)
    return made
