"""Formulas that run in a faster form, compared with their transcription, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from vlpeft.benchmark.contract.attention import Seen
from vlpeft.benchmark.plan.verify import transcriptions as _literal
from vlpeft.benchmark.plan.verify.check import Check, JSONValue
from vlpeft.benchmark.plan.verify.p_laplacian import Shape, forward, parts
from vlpeft.benchmark.plan.verify.waves import fingerprint, wave
from vlpeft.methods.routing import mul_expand, project

# Both sides are computed here, in float64, so only the order of additions differs.
SAME = 1e-7
VALUE = 1e-6
SHAPES = (
    Shape("self", 2, 6, 6, width=32, heads=2, size=8),
    Shape("cross", 2, 5, 9, width=32, heads=2, size=8),
    Shape("cross, pooled", 2, 5, 9, 4, width=32, heads=2, size=8),
)
# Our function, its transcription, and the number of image tokens.
ROUTES = {
    "mul_expand": (mul_expand, _literal.mul_expand, 1),
    "project": (project, _literal.project, 3),
}


def checks(device: torch.device) -> Iterator[Check]:
    """Yield the checks of the fused p-Laplacian and of the routing functions without matrices."""
    for shape in SHAPES:
        name = f"p-Laplacian, {shape.name}"
        fused = partial(p_laplacian, shape, device, literal=False)
        literal = partial(p_laplacian, shape, device, literal=True)
        yield Check(f"{name}: fused = literal", fused, SAME, expected=literal)
        yield Check(f"{name}: value", literal, VALUE)
    for function in ROUTES:
        name = f"routing, {function}"
        products = partial(route, function, device, literal=False)
        matrices = partial(route, function, device, literal=True)
        yield Check(f"{name}: products = matrices", products, SAME, expected=matrices)
        yield Check(f"{name}: value", matrices, VALUE)


def p_laplacian(shape: Shape, device: torch.device, *, literal: bool) -> JSONValue:
    """Return fingerprints of output and gradients of a p-adapter (release) after an attention."""
    block, output, seen = parts(shape, device)
    block.double()
    for name, tensor in block.named_parameters():
        tensor.data = wave(name, tensor.shape, 0.3).to(device)
        if name.endswith(".p"):
            tensor.data.fill_(1.5)
    query = wave("query", seen.query.shape).to(device)
    value = wave("value", seen.value.shape).to(device)
    weights = torch.softmax(wave("scores", seen.probabilities.shape).to(device), -1)
    output = wave("output", output.shape).to(device).requires_grad_()
    query.requires_grad_()
    made = forward(block, output, Seen(query, value, weights), shape, literal=literal)
    torch.autograd.backward(made.square().sum())
    grads = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
    found = _fingerprints({**grads, "query": query.grad, "input": output.grad})
    return {"output": fingerprint("output", made), **found}


def route(name: str, device: torch.device, *, literal: bool) -> JSONValue:
    """Return fingerprints of output and gradients of a routing function."""
    ours, transcribed, tokens = ROUTES[name]
    function = transcribed if literal else ours
    text = wave("text", (2, 5, 8)).to(device).requires_grad_()
    vision = wave("vision", (2, tokens, 8)).to(device).requires_grad_()
    made = function(text, vision)
    torch.autograd.backward(made.square().sum())
    return _fingerprints({"output": made, "text": text.grad, "vision": vision.grad})


def _fingerprints(tensors: dict[str, Tensor | None]) -> dict[str, JSONValue]:
    """Return fingerprints of the tensors that are not None."""
    found: dict[str, JSONValue] = {}
    for name, tensor in tensors.items():
        if tensor is not None:
            found[name] = fingerprint(name, tensor)
    return found
