"""The fused step against the same formulas with one operation per line, and finite differences.

Autograd differentiates the plain formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlpeft.methods.p_laplacian import epsilon, paper_step, release_step

EXPONENTS = (1.0, 1.25, 1.5, 2.0, 2.5)


def plain_release(
    a: Tensor, rows: Tensor, nodes: Tensor, p: Tensor, ratio: Tensor, *, loops: bool
) -> Tensor:
    difference = (a + epsilon()).sqrt().unsqueeze(-1) * (
        nodes.unsqueeze(-3) - rows.unsqueeze(-2)
    ) + epsilon()
    edges = a * difference.square().sum(-1).pow((p - 2) / 2)
    alpha = 1 / (edges.sum(-1, keepdim=True) + ratio)
    return alpha * (edges @ nodes) + (ratio * alpha * rows if loops else 0)


def plain_paper(
    m: Tensor, query: Tensor, value: Tensor, gram: Tensor, p: Tensor, ratio: Tensor
) -> Tensor:
    difference = query.unsqueeze(-2) - value.unsqueeze(-3)
    edges = m * (m * ((difference @ gram.unsqueeze(-3)) * difference).sum(-1)).pow((p - 2) / 2)
    alpha = 1 / (edges.sum(-1, keepdim=True) + ratio)
    return alpha * (edges @ value + ratio * query)


def inputs(shape: tuple[int, ...], size: int, p: float, *, gram: bool) -> list[Tensor]:
    """Make probabilities, queries, nodes, an optional Gram matrix, p and r in float64.

    `shape` is (..., queries, keys).
    """
    probabilities = torch.randn(shape, dtype=torch.float64).softmax(-1)
    rows, nodes = (torch.randn(*shape[:-2], n, size, dtype=torch.float64) for n in shape[-2:])
    factor = torch.randn(*shape[1:-2], size, size + 2, dtype=torch.float64)
    scalars = [torch.tensor([x], dtype=torch.float64) for x in (p, 0.4)]
    return [
        x.requires_grad_()
        for x in (probabilities, rows, nodes, *([factor @ factor.mT] if gram else []), *scalars)
    ]


@given(
    st.booleans(),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from(EXPONENTS),
    st.integers(0, 2**31),
)
@settings(max_examples=25)
def test_release_step_equals_the_plain_formula(
    loops: bool, queries: int, keys: int, size: int, p: float, seed: int
) -> None:
    torch.manual_seed(seed)
    leaves = inputs((2, 3, queries, keys), size, p, gram=False)
    compare(release_step(*leaves, loops=loops), plain_release(*leaves, loops=loops), leaves)


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from(EXPONENTS),
    st.integers(0, 2**31),
)
@settings(max_examples=25)
def test_paper_step_equals_the_plain_formula(
    queries: int, keys: int, size: int, p: float, seed: int
) -> None:
    torch.manual_seed(seed)
    leaves = inputs((2, 3, queries, keys), size, p, gram=True)
    compare(paper_step(*leaves), plain_paper(*leaves), leaves)


def compare(found: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    weight = torch.randn_like(expected)
    for one, other in zip(
        *(torch.autograd.grad((x * weight).sum(), leaves) for x in (found, expected)), strict=True
    ):
        assert (one - other).abs().max() <= 1e-5 * (1 + other.abs().max())


@pytest.mark.parametrize("p", [1.25, 2.0, 2.5])
@pytest.mark.parametrize("form", ["release", "release, loops", "paper"])
def test_gradients_against_finite_differences(form: str, p: float) -> None:
    torch.manual_seed(0)
    leaves = inputs((2, 2, 3, 4), 3, p, gram=form == "paper")
    if form == "paper":
        leaves[3] = leaves[3].detach().requires_grad_()

        def step(*x: Tensor) -> Tensor:
            return paper_step(
                *x[:3], (x[3] + x[3].mT) / 2, *x[4:]
            )  # a Gram matrix is symmetric, and so must be its perturbation
    else:

        def step(*x: Tensor) -> Tensor:
            return release_step(*x, loops=form != "release")

    assert torch.autograd.gradcheck(step, leaves)


def test_probabilities_of_zero_have_their_gradient() -> None:
    """A causal mask hides keys: the weight is 0 and its derivative is N^t."""
    torch.manual_seed(0)
    leaves = inputs((1, 1, 3, 3), 4, 1.5, gram=False)
    with torch.no_grad():
        leaves[0].mul_(torch.ones(3, 3).tril())
    compare(release_step(*leaves, loops=True), plain_release(*leaves, loops=True), leaves)


def test_tensors_kept_for_the_backward() -> None:
    """As large as the probabilities: they and the factors of their weights are kept."""
    torch.manual_seed(0)
    leaves = inputs((2, 2, 24, 32), 4, 1.5, gram=False)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        release_step(*leaves, loops=True)
    assert sum(elements >= leaves[0].numel() for elements in kept.values()) == 2


FORMS = ("release", "release, loops", "paper")


def leaves_and_step(
    form: str, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], Callable[..., Tensor]]:
    torch.manual_seed(0)
    leaves = [
        x.detach().to(dtype).requires_grad_()
        for x in inputs((2, 2, 3, 4), 3, 1.5, gram=form == "paper")
    ]
    return leaves, paper_step if form == "paper" else partial(release_step, loops=form != "release")


@pytest.mark.parametrize("form", FORMS)
def test_a_second_backward_gives_the_same_bits(form: str) -> None:
    """The backward pass works in place on tensors that it makes, never on those that are kept."""
    leaves, step = leaves_and_step(form)
    found = step(*leaves).square().sum()
    one, other = (torch.autograd.grad(found, leaves, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("form", FORMS)
def test_two_uses_of_the_same_tensors_add_up(form: str) -> None:
    leaves, step = leaves_and_step(form)
    once = torch.autograd.grad(step(*leaves).sum(), leaves)
    twice = torch.autograd.grad((step(*leaves) + step(*leaves)).sum(), leaves)
    for one, two in zip(once, twice, strict=True):
        torch.testing.assert_close(two, 2 * one)


@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_of_gradients_is_refused(form: str) -> None:
    """It would be wrong without an error."""
    leaves, step = leaves_and_step(form)
    first = torch.autograd.grad(step(*leaves).square().sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(torch.stack([x.sum() for x in first]).sum())


@pytest.mark.parametrize("form", FORMS)
def test_the_memory_layout_does_not_matter(form: str) -> None:
    """Inputs and the gradient are strided, and neither is written to."""
    leaves, step = leaves_and_step(form)
    strided = [x.detach().mT.contiguous().mT.requires_grad_() if x.ndim > 1 else x for x in leaves]
    assert not strided[0].is_contiguous()
    before = [x.detach().clone() for x in strided]
    weight = torch.randn(3, 2, 2, 3, dtype=torch.float64).permute(1, 2, 0, 3)
    for one, other in zip(
        *(torch.autograd.grad(step(*x), x, weight) for x in (leaves, strided)), strict=True
    ):
        torch.testing.assert_close(one, other)
    assert all(map(torch.equal, before, strided))


@pytest.mark.parametrize("form", FORMS)
def test_a_backward_under_autocast_is_exact(form: str) -> None:
    leaves, step = leaves_and_step(form, torch.float32)
    found = step(*leaves).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        under = torch.autograd.grad(found, leaves, retain_graph=True)
    assert all(map(torch.equal, under, torch.autograd.grad(found, leaves)))
    precise, step = leaves_and_step(form)
    expected = torch.autograd.grad(step(*precise).square().sum(), precise)
    for one, other in zip(under, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-4)


def test_equal_nodes_have_no_gradient_through_their_distance() -> None:
    """Their N is m e^2, a constant; only the aggregation passes a gradient to them."""
    torch.manual_seed(0)
    leaves = inputs((1, 2, 3, 3), 4, 1.5, gram=False)
    with torch.no_grad():
        leaves[2][..., 0, :] = leaves[1][..., 0, :]
    a, rows, nodes, p, ratio = leaves
    same = torch.zeros(3, 3, dtype=torch.bool)
    same[0, 0] = True
    apart = nodes.unsqueeze(-3) - rows.unsqueeze(-2)
    apart = torch.where(same[..., None], apart.detach(), apart)
    norm = ((a + epsilon()).sqrt().unsqueeze(-1) * apart + epsilon()).square().sum(-1)
    edges = a * norm.pow((p - 2) / 2)
    alpha = 1 / (edges.sum(-1, keepdim=True) + ratio)
    compare(release_step(*leaves, loops=True), alpha * (edges @ nodes + ratio * rows), leaves)
