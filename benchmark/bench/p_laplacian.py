"""One p-adapter of BLIP-base's text decoder, forward and backward, beside a literal transcription of the released code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmark.attention import Seen
from benchmark.bench._literal import LiteralBlock, LiteralAttention, p_adapter
from benchmark.bench._rows import BenchRow, Setting, row
from benchmark.bench._sides import TimedStep, kept_bytes, time_row, turns
from benchmark.config import parse
from benchmark.grid import METHODS

BENCH = "p_laplacian"


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


# The release's batches of one GPU, longest texts, and image tokens after pooling (224 px: 197 before).
SHAPES = (
    Shape("VQA, self", 8, 40, 40),
    Shape("VQA, cross", 8, 40, 197, 16),
    Shape("SNLI-VE, self", 8, 100, 100),
    Shape("SNLI-VE, cross", 8, 100, 197, 24),
    Shape("COCO, self", 16, 40, 40),
    Shape("COCO, cross", 16, 40, 197, 24),
)
UNPOOLED = Shape("100 queries x 197 keys", 8, 100, 197)
TINY = Shape("tiny", 2, 5, 9, 4, width=32, heads=2, size=8)


def run(setting: Setting) -> Iterator[BenchRow]:
    """Time and kept bytes at each shape."""
    for shape in (TINY,) if setting.quick else (*SHAPES, UNPOOLED):
        sides = [partial(step, shape, literal=literal) for literal in (False, True)]
        pairs = turns(sides[0], sides[1], setting)
        yield time_row(BENCH, shape.name, pairs, setting, "at least", 10.0 if shape is UNPOOLED else 2.0)
        block, output, seen = parts(shape, torch.device("cpu"))
        kept = [kept_bytes(partial(forward, block, output, seen, shape, literal=literal), block) for literal in (False, True)]
        yield row(BENCH, f"{shape.name}, kept for the backward", "bytes", [(kept[0], kept[1])], "at least", 4.0)


def step(shape: Shape, device: torch.device, *, literal: bool) -> TimedStep:
    """Forward and backward."""
    block, output, seen = parts(shape, device)

    def both() -> float:
        made = forward(block, output, seen, shape, literal=literal)
        torch.autograd.backward(made.square().mean())
        return float(made.detach().square().mean())

    return both


def parts(shape: Shape, device: torch.device) -> tuple[LiteralBlock, Tensor, Seen]:
    """Adapter, the attention's output, and what it has seen.

    All that text makes has a gradient, since layers below are adapted; what an image makes has none.
    """
    torch.manual_seed(0)
    method = parse(METHODS.load("p_adapter"), {"size": shape.size, "image_tokens": shape.tokens}, "p_adapter")
    shown = LiteralAttention(shape.heads, causal=not shape.cross, fixed_keys=shape.cross)
    block = LiteralBlock("cross" if shape.cross else "self", nn.Linear(shape.width, shape.width).requires_grad_(False), shown, method).to(device)
    scores = torch.randn(shape.batch, shape.heads, shape.queries, shape.keys, device=device)
    if not shape.cross:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    query, value = (torch.randn(shape.batch, n, shape.width, device=device) for n in (shape.queries, shape.keys))
    seen = Seen(query.requires_grad_(), value.requires_grad_(not shape.cross), scores.softmax(-1).requires_grad_())
    return block, torch.randn_like(query).requires_grad_(), seen


def forward(block: LiteralBlock, output: Tensor, seen: Seen, shape: Shape, *, literal: bool) -> Tensor:
    """What the adapter makes of the attention's output, (batch, queries, width)."""
    if literal:
        return p_adapter(block.adapter, block.projection, output, seen, bipartite=shape.cross, tokens=shape.tokens)
    block.attention.shown = seen
    made: Tensor = block.adapter(output)
    return made
