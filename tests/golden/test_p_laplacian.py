"""The fused step against the same formulas one operation a line, which autograd differentiates, and against finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.p_laplacian import EPSILON, paper_step, release_step

EXPONENTS = (1.0, 1.25, 1.5, 2.0, 2.5)


def plain_release(a: Tensor, rows: Tensor, nodes: Tensor, p: Tensor, ratio: Tensor, *, loops: bool) -> Tensor:
    difference = (a + EPSILON).sqrt().unsqueeze(-1) * (nodes.unsqueeze(-3) - rows.unsqueeze(-2)) + EPSILON
    edges = a * difference.square().sum(-1).pow((p - 2) / 2)
    alpha = 1 / (edges.sum(-1, keepdim=True) + ratio)
    return alpha * (edges @ nodes) + (ratio * alpha * rows if loops else 0)


def plain_paper(m: Tensor, query: Tensor, value: Tensor, gram: Tensor, p: Tensor, ratio: Tensor) -> Tensor:
    difference = query.unsqueeze(-2) - value.unsqueeze(-3)
    edges = m * (m * ((difference @ gram.unsqueeze(-3)) * difference).sum(-1)).pow((p - 2) / 2)
    alpha = 1 / (edges.sum(-1, keepdim=True) + ratio)
    return alpha * (edges @ value + ratio * query)


def inputs(shape: tuple[int, ...], size: int, p: float, *, gram: bool) -> list[Tensor]:
    """Probabilities, queries, nodes, perhaps a Gram matrix, p and r, in float64; shape is (..., queries, keys)."""
    probabilities = torch.randn(shape, dtype=torch.float64).softmax(-1)
    rows, nodes = (torch.randn(*shape[:-2], n, size, dtype=torch.float64) for n in shape[-2:])
    factor = torch.randn(*shape[1:-2], size, size + 2, dtype=torch.float64)
    scalars = [torch.tensor([x], dtype=torch.float64) for x in (p, 0.4)]
    return [x.requires_grad_() for x in (probabilities, rows, nodes, *([factor @ factor.mT] if gram else []), *scalars)]


@given(st.booleans(), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.sampled_from(EXPONENTS), st.integers(0, 2**31))
@settings(max_examples=25)
def test_release_step_equals_the_plain_formula(loops: bool, queries: int, keys: int, size: int, p: float, seed: int) -> None:
    torch.manual_seed(seed)
    leaves = inputs((2, 3, queries, keys), size, p, gram=False)
    compare(release_step(*leaves, loops=loops), plain_release(*leaves, loops=loops), leaves)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.sampled_from(EXPONENTS), st.integers(0, 2**31))
@settings(max_examples=25)
def test_paper_step_equals_the_plain_formula(queries: int, keys: int, size: int, p: float, seed: int) -> None:
    torch.manual_seed(seed)
    leaves = inputs((2, 3, queries, keys), size, p, gram=True)
    compare(paper_step(*leaves), plain_paper(*leaves), leaves)


def compare(found: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    weight = torch.randn_like(expected)
    for one, other in zip(*(torch.autograd.grad((x * weight).sum(), leaves) for x in (found, expected)), strict=True):
        assert (one - other).abs().max() <= 1e-5 * (1 + other.abs().max())


@pytest.mark.parametrize("p", [1.25, 2.0, 2.5])
@pytest.mark.parametrize("form", ["release", "release, loops", "paper"])
def test_gradients_against_finite_differences(form: str, p: float) -> None:
    torch.manual_seed(0)
    leaves = inputs((2, 2, 3, 4), 3, p, gram=form == "paper")
    if form == "paper":
        leaves[3] = leaves[3].detach().requires_grad_()

        def step(*x: Tensor) -> Tensor:
            return paper_step(*x[:3], (x[3] + x[3].mT) / 2, *x[4:])  # a Gram matrix is symmetric, and so is what may be done to it
    else:

        def step(*x: Tensor) -> Tensor:
            return release_step(*x, loops=form != "release")

    assert torch.autograd.gradcheck(step, leaves)


def test_probabilities_of_zero_have_their_gradient() -> None:
    """What a causal mask hides: the weight is 0, its derivative is N^t."""
    torch.manual_seed(0)
    leaves = inputs((1, 1, 3, 3), 4, 1.5, gram=False)
    with torch.no_grad():
        leaves[0].mul_(torch.ones(3, 3).tril())
    compare(release_step(*leaves, loops=True), plain_release(*leaves, loops=True), leaves)


def test_what_is_kept_for_the_backward() -> None:
    """As large as the probabilities: themselves and the factors of their weights."""
    torch.manual_seed(0)
    leaves = inputs((2, 2, 24, 32), 4, 1.5, gram=False)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        release_step(*leaves, loops=True)
    assert sum(elements >= leaves[0].numel() for elements in kept.values()) == 2
