"""The formulas that run in a faster form, compared with their literal transcription, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from vlpeft.benchmark.contract.attention import Seen
from vlpeft.benchmark.verify import transcriptions as _literal
from vlpeft.benchmark.verify.check import Check, Value
from vlpeft.benchmark.verify.p_laplacian import Shape, forward, parts
from vlpeft.benchmark.verify.waves import fingerprint, wave
from vlpeft.methods.routing import mul_expand, project

# Both sides are computed here, in float64, so that only the order of additions differs.
SAME = 1e-7
SHAPES = (
    Shape("self", 2, 6, 6, width=32, heads=2, size=8),
    Shape("cross", 2, 5, 9, width=32, heads=2, size=8),
    Shape("cross, pooled", 2, 5, 9, 4, width=32, heads=2, size=8),
)
ROUTES = {
    "mul_expand": (mul_expand, _literal.mul_expand, 1),
    "project": (project, _literal.project, 3),
}


def checks(device: torch.device) -> Iterator[Check]:
    """The fused p-Laplacian and the routing functions without matrices."""
    for shape in SHAPES:
        sides = [partial(p_laplacian, shape, device, literal=literal) for literal in (False, True)]
        yield Check(
            f"p-Laplacian, {shape.name}: fused = literal", sides[0], SAME, expected=sides[1]
        )
        yield Check(
            f"p-Laplacian, {shape.name}: value",
            partial(p_laplacian, shape, device, literal=True),
            1e-6,
        )
    for name in ROUTES:
        sides = [partial(route, name, device, literal=literal) for literal in (False, True)]
        yield Check(f"routing, {name}: products = matrices", sides[0], SAME, expected=sides[1])
        yield Check(f"routing, {name}: value", sides[1], 1e-6)


def p_laplacian(shape: Shape, device: torch.device, *, literal: bool) -> Value:
    """Output and gradients of a release p-adapter behind an attention."""
    block, output, seen = parts(shape, device)
    block.double()
    for name, tensor in block.named_parameters():
        tensor.data = wave(name, tensor.shape, 0.3).to(device)
        if name.endswith(".p"):
            tensor.data.fill_(1.5)
    query, value = (
        wave(name, each.shape).to(device)
        for name, each in (("query", seen.query), ("value", seen.value))
    )
    weights = torch.softmax(wave("scores", seen.probabilities.shape).to(device), -1)
    output = wave("output", output.shape).to(device).requires_grad_()
    query.requires_grad_()
    made = forward(block, output, Seen(query, value, weights), shape, literal=literal)
    torch.autograd.backward(made.square().sum())
    grads = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
    return {
        "output": fingerprint("output", made),
        **_prints({**grads, "query": query.grad, "input": output.grad}),
    }


def route(name: str, device: torch.device, *, literal: bool) -> Value:
    """Output and gradients of a routing function."""
    ours, transcribed, tokens = ROUTES[name]
    text = wave("text", (2, 5, 8)).to(device).requires_grad_()
    vision = wave("vision", (2, tokens, 8)).to(device).requires_grad_()
    made = (transcribed if literal else ours)(text, vision)
    torch.autograd.backward(made.square().sum())
    return _prints({"output": made, "text": text.grad, "vision": vision.grad})


def _prints(tensors: dict[str, Tensor | None]) -> dict[str, Value]:
    return {
        name: fingerprint(name, tensor) for name, tensor in tensors.items() if tensor is not None
    }
