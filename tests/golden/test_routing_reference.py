"""Routing functions against the authors' modules (reference/) and against literal equations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from tests.conftest import Case
from vlpeft.baselines.lora import LoRALinear
from vlpeft.benchmark.contract.sites import VisualContext
from vlpeft.benchmark.core.errors import UserError
from vlpeft.methods.routing import RoutedBottleneck, RoutedLoRALinear, routing_function

REFERENCE = Path(__file__).parent / "reference"
FUNCTIONS = ("add", "mul", "mul_expand", "project")
EXACT = {"rtol": 1e-9, "atol": 1e-9}
RANDOM = settings(max_examples=25, deadline=None)
sizes = st.integers(1, 6)
seeds = st.integers(0, 2**31)
functions = st.sampled_from(FUNCTIONS)


def test_the_reference_holds_every_function_on_both_layouts() -> None:
    found = {path.stem for path in REFERENCE.glob("*.npz")}
    assert found >= {
        f"routing_{layout}_{function}" for layout in ("gpt2", "roberta") for function in FUNCTIONS
    }


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("layout", ["gpt2", "roberta"])
def test_outputs_and_gradients_equal_the_authors(layout: str, function: str) -> None:
    with np.load(REFERENCE / f"routing_{layout}_{function}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    width = arrays["hidden"].shape[-1]
    base = frozen(arrays["weight"], arrays["bias"], fused=layout == "gpt2")
    spans = [(0, width), (2 * width, 3 * width)] if layout == "gpt2" else [(0, width)]
    context = VisualContext()
    context.value = arrays["visual"]
    rank, alpha = int(arrays["meta.rank"]), float(arrays["meta.alpha"])
    layer = RoutedLoRALinear(
        base, spans, rank, alpha, 0.0, routing_function(function, "release"), 1, context
    ).double()
    fill(layer, arrays["lora_A"], arrays["lora_B"])
    hidden = arrays["hidden"].clone().requires_grad_()
    output = layer(hidden)
    (output * arrays["loss_weight"]).sum().backward()
    torch.testing.assert_close(output, arrays["output"], **EXACT)
    torch.testing.assert_close(hidden.grad, arrays["grad_hidden"], **EXACT)
    torch.testing.assert_close(layer.lora_a.grad, arrays["grad_lora_A"], **EXACT)
    torch.testing.assert_close(layer.lora_b.grad, arrays["grad_lora_B"], **EXACT)


# The equations for one token at a time, with the matrices that they name.


def literal(function: str, text: Tensor, vision: Tensor, *, reshaped: bool = False) -> Tensor:
    """Compute R(x_t, x_v) of (batch, length, k) and (batch, tokens, k)."""
    rows = [
        [_token(function, token, vision[b], reshaped=reshaped) for token in text[b]]
        for b in range(text.shape[0])
    ]
    return torch.stack([torch.stack(row) for row in rows])


def _token(function: str, text: Tensor, vision: Tensor, *, reshaped: bool) -> Tensor:
    k = text.numel()
    if function == "add":
        return torch.stack([text[i] + vision[0, i] for i in range(k)])
    if function == "mul":
        return torch.stack([text[i] * vision[0, i] for i in range(k)])
    if function == "mul_expand":
        square = torch.stack([vision[0]] * k)  # x''_v: k identical rows
        return text @ square
    if reshaped:  # x_t reshape(x_v, (k, tokens)) x_v
        tokens = vision.shape[0]
        flat = [vision[i, j] for i in range(tokens) for j in range(k)]
        matrix = torch.stack(
            [
                torch.stack([flat[row * tokens + column] for column in range(tokens)])
                for row in range(k)
            ]
        )
        return torch.einsum("k,kt,tj->j", text, matrix, vision)
    outer = torch.zeros(k, k, dtype=text.dtype)  # x_v^T x_v, one visual token after another
    for token in vision:
        outer = outer + torch.outer(token, token)
    return text @ outer


def normal(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@RANDOM
@given(functions, st.sampled_from(["paper", "release"]), sizes, sizes, sizes, seeds)
def test_every_function_equals_its_equation(
    function: str, variant: Any, batch: int, length: int, k: int, seed: int
) -> None:
    text, vision = normal(seed, (batch, length, k), (batch, 1, k))
    torch.testing.assert_close(
        routing_function(function, variant)(text, vision), literal(function, text, vision), **EXACT
    )


@RANDOM
@given(sizes, sizes, sizes, sizes, seeds)
def test_project_over_several_tokens(
    batch: int, length: int, tokens: int, k: int, seed: int
) -> None:
    """The paper transposes, the release reshapes."""
    text, vision = normal(seed, (batch, length, k), (batch, tokens, k))
    torch.testing.assert_close(
        routing_function("project", "paper")(text, vision),
        literal("project", text, vision),
        **EXACT,
    )
    release = literal("project", text, vision, reshaped=True)
    torch.testing.assert_close(
        routing_function("project", "release")(text, vision), release, **EXACT
    )


def test_the_variants_of_project_differ_over_several_tokens_only() -> None:
    text, one, several = normal(0, (2, 3, 4), (2, 1, 4), (2, 5, 4))
    paper, release = routing_function("project", "paper"), routing_function("project", "release")
    torch.testing.assert_close(paper(text, one), release(text, one), **EXACT)
    assert not torch.allclose(paper(text, several), release(text, several), rtol=1e-3)


@pytest.mark.parametrize("variant", ["paper", "release"])
@pytest.mark.parametrize("function", ["add", "mul", "mul_expand"])
def test_several_visual_tokens_are_refused(function: Any, variant: Any) -> None:
    text, several = normal(
        0, (2, 5, 4), (2, 5, 4)
    )  # as many tokens as words, so that broadcasting would not fail
    with pytest.raises(UserError, match="context: pooled"):
        routing_function(function, variant)(text, several)


# LoRA with a routing function.


def frozen(weight: Tensor, bias: Tensor, *, fused: bool) -> nn.Module:
    base = (
        Conv1D(weight.shape[1], weight.shape[0])
        if fused
        else nn.Linear(weight.shape[1], weight.shape[0])
    )
    base = base.double().requires_grad_(False)
    base.weight.copy_(weight)
    base.bias.copy_(bias)
    return base


@torch.no_grad()
def fill(layer: LoRALinear, a: Tensor, b: Tensor) -> None:
    layer.lora_a.copy_(a)
    layer.lora_b.copy_(b)


def fused_layer(
    function: Any,
    variant: Any,
    width: int,
    rank: int,
    a: Tensor,
    b: Tensor,
    w: Tensor,
    c: Tensor,
    v: Tensor,
) -> RoutedLoRALinear:
    context = VisualContext()
    context.value = v
    spans = [(0, width), (2 * width, 3 * width)]
    groups = len(spans) if variant == "paper" else 1
    base = frozen(w, c, fused=True)
    layer = RoutedLoRALinear(
        base, spans, rank, 2.0 * rank, 0.0, routing_function(function, variant), groups, context
    ).double()
    fill(layer, a, b)
    return layer


@RANDOM
@given(
    functions,
    st.sampled_from(["paper", "release"]),
    sizes,
    sizes,
    st.integers(2, 6),
    st.integers(1, 3),
    seeds,
)
def test_routed_lora_on_a_fused_projection(
    function: str, variant: str, batch: int, length: int, width: int, rank: int, seed: int
) -> None:
    """`release` routes the bottlenecks of query and value as one vector, `paper` each alone."""
    hidden, vision, w, c, a, b = normal(
        seed,
        (batch, length, width),
        (batch, 1, width),
        (width, 3 * width),
        (3 * width,),
        (2 * rank, width),
        (2 * width, rank),
    )
    text, image = hidden @ a.T, vision @ a.T
    if variant == "release":
        mixed = literal(function, text, image)
        for_query, for_value = mixed[..., :rank], mixed[..., rank:]
    else:
        for_query = literal(function, text[..., :rank], image[..., :rank])
        for_value = literal(function, text[..., rank:], image[..., rank:])
    expected = hidden @ w + c
    expected[..., :width] += 2.0 * for_query @ b[:width].T
    expected[..., 2 * width :] += 2.0 * for_value @ b[width:].T
    torch.testing.assert_close(
        fused_layer(function, variant, width, rank, a, b, w, c, vision)(hidden), expected, **EXACT
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_variants_on_a_fused_projection(function: str) -> None:
    """Element-wise functions agree in both.

    A scalar shared by query and value makes the others differ.
    """
    hidden, vision, w, c, a, b = normal(3, (2, 5, 8), (2, 1, 8), (8, 24), (24,), (6, 8), (16, 3))
    paper, release = (
        fused_layer(function, variant, 8, 3, a, b, w, c, vision)(hidden)
        for variant in ("paper", "release")
    )
    if function in ("add", "mul"):
        assert torch.equal(paper, release)
    else:
        assert not torch.allclose(paper, release, rtol=1e-3)


@RANDOM
@given(sizes, sizes, st.integers(1, 8), st.integers(1, 4), seeds)
def test_add_is_lora_on_the_sum_of_text_and_vision(
    batch: int, length: int, width: int, rank: int, seed: int
) -> None:
    hidden, vision, w, c, a, b = normal(
        seed,
        (batch, length, width),
        (batch, 1, width),
        (width, width),
        (width,),
        (rank, width),
        (width, rank),
    )
    context = VisualContext()
    context.value = vision
    base = frozen(w, c, fused=False)
    routed = RoutedLoRALinear(
        base, [(0, width)], rank, 3.0, 0.0, routing_function("add", "paper"), 1, context
    ).double()
    plain = LoRALinear(base, [(0, width)], rank, 3.0, 0.0).double()
    fill(routed, a, b)
    fill(plain, a, b)
    expected = hidden @ w.T + c + (plain(hidden + vision) - base(hidden + vision))
    torch.testing.assert_close(routed(hidden), expected, **EXACT)
    assert plain.delta_weight().shape == (width, width)
    with pytest.raises(NotImplementedError, match="depends on the image"):
        routed.delta_weight()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("backbone", ["vit_roberta", "vit_gpt2"])
def test_a_routed_lora_starts_as_the_frozen_model(backbone: str, function: str) -> None:
    routed = Case("routing_lora", backbone, {"function": function})
    adapted = routed.losses(routed.build(seed=0))
    torch.manual_seed(0)  # the same head
    assert torch.equal(adapted, routed.losses(routed.fresh().eval()))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("backbone", ["vit_roberta", "vit_gpt2"])
def test_the_variants_of_the_method_differ_if_a_scalar_is_shared(
    backbone: str, function: str
) -> None:
    """They differ on GPT-2's fused projection if the function shares a scalar, never on RoBERTa."""
    paper, release = (
        with_updates(backbone, {"function": function, "variant": v}) for v in ("paper", "release")
    )
    if backbone == "vit_gpt2" and function in ("mul_expand", "project"):
        assert not torch.allclose(paper, release, rtol=1e-4)
    else:
        torch.testing.assert_close(paper, release, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("variant", "groups"), [("paper", 2), ("release", 1)])
def test_the_release_routes_query_and_value_of_gpt2_as_one_vector(
    variant: str, groups: int
) -> None:
    built = Case("routing_lora", "vit_gpt2", {"variant": variant}).build()
    layers = [module for module in built.modules() if isinstance(module, RoutedLoRALinear)]
    assert {(len(layer.spans), layer.groups) for layer in layers} == {(2, groups)}


def with_updates(backbone: str, changed: dict[str, Any]) -> Tensor:
    """Return the losses of a routed model with random up-projections."""
    case = Case("routing_lora", backbone, changed)
    built = case.build(seed=0)
    torch.manual_seed(1)
    for layer in (module for module in built.modules() if isinstance(module, LoRALinear)):
        nn.init.normal_(layer.lora_b, std=0.1)
    return case.losses(built)


def test_reading_the_visual_context_outside_a_forward_is_an_error() -> None:
    layer = RoutedLoRALinear(
        nn.Linear(4, 4), [(0, 4)], 2, 2.0, 0.0, routing_function("add", "paper"), 1, VisualContext()
    )
    with pytest.raises(RuntimeError, match="outside a backbone's forward"):
        layer(torch.zeros(1, 1, 4))


@pytest.mark.parametrize("backbone", ["vit_roberta", "vit_gpt2"])
def test_a_target_of_another_width_than_the_image_is_refused(backbone: str) -> None:
    with pytest.raises(UserError, match="leave `down` out of `targets`"):
        Case("routing_lora", backbone, {"targets": ["down"]}).build()


@pytest.mark.parametrize("method", ["routing_lora", "routing_adapter"])
@pytest.mark.parametrize("backbone", ["vit_roberta", "vit_gpt2"])
def test_only_project_takes_a_backbone_of_many_visual_tokens(backbone: str, method: str) -> None:
    for function in FUNCTIONS:
        case = Case(method, backbone, {"function": function}, {"context": "tokens"})
        assert ("context: pooled" in case.refusal()) == (function != "project")
    assert torch.isfinite(case.losses(case.build())).all()


# Adapters with a routing function.

ACTIVATIONS = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_new": lambda z: functional.gelu(z, approximate="tanh"),
}


@RANDOM
@given(
    functions,
    st.sampled_from(sorted(ACTIVATIONS)),
    st.booleans(),
    sizes,
    sizes,
    st.integers(2, 6),
    st.integers(1, 4),
    seeds,
)
def test_a_routed_adapter_equals_its_equation(
    function: Any,
    activation: str,
    residual: bool,
    batch: int,
    length: int,
    width: int,
    size: int,
    seed: int,
) -> None:
    """U act(R(D h + b, D x_R + b)) + c (+ h), with one down-projection for text and vision."""
    h, vision, d, bias, u, c = normal(
        seed,
        (batch, length, width),
        (batch, 1, width),
        (size, width),
        (size,),
        (width, size),
        (width,),
    )
    context = VisualContext()
    context.value = vision
    adapter = RoutedBottleneck(
        width, size, activation, residual, routing_function(function, "release"), context
    ).double()
    with torch.no_grad():
        for parameter, value in (
            (adapter.down.weight, d),
            (adapter.down.bias, bias),
            (adapter.up.weight, u),
            (adapter.up.bias, c),
        ):
            parameter.copy_(value)
    ours = (adapter.down.weight, adapter.down.bias, adapter.up.weight, adapter.up.bias)
    theirs = [array.requires_grad_() for array in (d, bias, u, c)]
    mixed = literal(function, h @ d.T + bias, vision @ d.T + bias)
    expected = ACTIVATIONS[activation](mixed) @ u.T + c + (h if residual else 0)
    output = adapter(h)
    torch.testing.assert_close(output, expected, **EXACT)
    for found, wanted in zip(
        torch.autograd.grad(output.sum(), ours),
        torch.autograd.grad(expected.sum(), theirs),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, **EXACT)
