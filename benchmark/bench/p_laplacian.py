"""A p-adapter of BLIP-base's text decoder, compared with a transcription of the released code."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting, row
from vlpeft.benchmark.bench._sides import TimedStep, kept_bytes, time_row, turns
from vlpeft.benchmark.plan.verify.p_laplacian import Shape, forward, parts

BENCH = "p_laplacian"


# The release's batches of one GPU, its longest texts, and image tokens after pooling (there are
# 197 before, at 224 px).
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


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Compare time and kept bytes for each shape."""
    for shape in (TINY,) if setting.quick else (*SHAPES, UNPOOLED):
        sides = [partial(step, shape, literal=literal) for literal in (False, True)]
        pairs = turns(sides[0], sides[1], setting)
        yield time_row(
            BENCH, shape.name, pairs, setting, "at least", 10.0 if shape is UNPOOLED else 2.0
        )
        block, output, seen = parts(shape, torch.device("cpu"))
        kept = [
            kept_bytes(partial(forward, block, output, seen, shape, literal=literal), block)
            for literal in (False, True)
        ]
        yield row(
            BENCH,
            f"{shape.name}, kept for the backward",
            "bytes",
            [(kept[0], kept[1])],
            "at least",
            4.0,
        )


def step(shape: Shape, device: torch.device, *, literal: bool) -> TimedStep:
    """Return one forward and backward pass."""
    block, output, seen = parts(shape, device)

    def both() -> float:
        made = forward(block, output, seen, shape, literal=literal)
        torch.autograd.backward(made.square().mean())
        return float(made.detach().square().mean())

    return both
