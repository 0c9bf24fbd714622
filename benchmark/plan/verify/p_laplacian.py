"""One p-Laplacian message passing: our version, or its literal transcription."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.attention import Seen
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.plan.verify.transcriptions import LiteralAttention, LiteralBlock, p_adapter


@dataclass(frozen=True)
class Shape:
    """The sizes of one attention in a training step."""

    name: str
    batch: int
    queries: int
    keys: int
    tokens: int | None = None  # number that the keys are pooled to
    width: int = 768
    heads: int = 12
    size: int = 96  # of the adapter

    @property
    def cross(self) -> bool:
        """Whether queries look at an image. Then the graph is bipartite."""
        return self.keys != self.queries


def parts(shape: Shape, device: torch.device) -> tuple[LiteralBlock, Tensor, Seen]:
    """Return a block with its adapter, the output of its attention, and what that has seen.

    Tensors that come from text need a gradient, because lower layers are adapted as well. Those
    that come from an image need none.
    """
    torch.manual_seed(0)
    block = _block(shape).to(device)
    scores = torch.randn(shape.batch, shape.heads, shape.queries, shape.keys, device=device)
    if not shape.cross:
        causal = torch.ones_like(scores, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(causal, -torch.inf)
    query = torch.randn(shape.batch, shape.queries, shape.width, device=device)
    value = torch.randn(shape.batch, shape.keys, shape.width, device=device)
    seen = Seen(
        query.requires_grad_(),
        value.requires_grad_(not shape.cross),
        scores.softmax(-1).requires_grad_(),
    )
    return block, torch.randn_like(query).requires_grad_(), seen


def _block(shape: Shape) -> LiteralBlock:
    settings = {"size": shape.size, "image_tokens": shape.tokens}
    return LiteralBlock(
        "cross" if shape.cross else "self",
        nn.Linear(shape.width, shape.width).requires_grad_(False),
        LiteralAttention(shape.heads, causal=not shape.cross, fixed_keys=shape.cross),
        parse(METHODS.load("p_adapter"), settings, "p_adapter"),
    )


def forward(
    block: LiteralBlock, output: Tensor, seen: Seen, shape: Shape, *, literal: bool
) -> Tensor:
    """Return the adapter's output for the attention's output: (batch, queries, width)."""
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
