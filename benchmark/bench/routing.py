"""The rank-1 routing functions, compared with their k x k matrices, forward and backward.

The sizes are those of the routing paper's VQA: rank 128.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting
from vlpeft.benchmark.bench._sides import TimedStep, time_row, turns
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.plan.verify import transcriptions as _literal

BENCH = "routing"
ROWS = (
    ("mul_expand", "mul_expand", "mul_expand, vs x_t x''_v", 1.6),
    ("project", "project", "project, vs x_t (x_v^T x_v)", 1.6),
    ("project", "project_in_order", "project, vs (x_t x_v^T) x_v", None),
)
FULL, TINY = (64, 21, 128), (2, 3, 4)  # examples, length with the visual prefix, rank


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Return a row for each function and transcription.

    Evaluated from left to right, `project` has no matrix that could be saved.
    """
    shape = TINY if setting.quick else FULL
    for function, literal, name, required in ROWS:
        ours, other = (partial(step, function, shape, literal=each) for each in ("", literal))
        yield time_row(BENCH, name, turns(ours, other, setting), setting, "at least", required)


def step(
    function: str, shape: tuple[int, int, int], device: torch.device, *, literal: str
) -> TimedStep:
    """Return one pass of R(x_t, x_v) and its gradient, ours or a literal transcription."""
    torch.manual_seed(0)
    batch, length, rank = shape
    text, vision = (
        torch.randn(batch, n, rank, device=device, requires_grad=True) for n in (length, 1)
    )
    module: Any = METHODS.entry("routing_lora").load().__module__
    route = getattr(_literal, literal) if literal else routes(module)(function, "paper")
    grad = torch.randn(batch, length, rank, device=device)

    def both() -> float:
        found = route(text, vision)
        torch.autograd.backward(found, grad, inputs=[text, vision])
        text.grad = vision.grad = None
        return float(found.detach().mean())

    return both


def routes(module: str) -> Any:
    """Return `routing_function` of the method's file; a bench knows methods only by name."""
    from importlib import import_module

    return import_module(module).routing_function
