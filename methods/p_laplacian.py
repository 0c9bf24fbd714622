"""One step of p-Laplacian message passing (equations in `methods/p_adapter.py`) as one operation of autograd.

    Z_i = alpha_i (sum_j E_ij X_j + r X_i),   E = A N^t,   alpha_i = 1 / (sum_j E_ij + r),   t = (p - 2) / 2,   r = 2 mu / p

N is the squared norm of each edge. Of tensors as large as A only A itself and N^t live until the backward, which computes
the others again; written as one operation a line, autograd would keep about ten. Gradients are exact, of first order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

Backward = Callable[[Any, Tensor], tuple[Tensor | None, ...]]
EPSILON = 1e-8  # the release's, inside the root and inside the norm


def release_step(
    a: Tensor, rows: Tensor, nodes: Tensor, p: Tensor, ratio: Tensor, *, loops: bool
) -> Tensor:
    """Z of the released code, (..., q, m), where N = || sqrt(A + e) (F_j - F_i) + e ||^2.

    a (..., q, k), rows i (..., q, m), nodes j (..., k, m), p and ratio (1,). Without `loops` the term r X_i is left out.

    With c the mean of F over its m dimensions and F - c the rest, N is exactly
    (A + e) ||(F_j - c_j) - (F_i - c_i)||^2 + m (sqrt(A + e) (c_j - c_i) + e)^2: no tensor of size q k m, and, as a sum of
    squares, no cancellation. Between equal nodes it is m e^2, and its subgradient is taken as 0.
    """
    stepped: Tensor = _ReleaseStep.apply(a, rows, nodes, p, ratio, loops)
    return stepped


def paper_step(
    m: Tensor, query: Tensor, value: Tensor, gram: Tensor, p: Tensor, ratio: Tensor
) -> Tensor:
    """Z of (14) and (13) before Wo, (..., q, d), where N = M ||(X_i - X_j) Wo||^2 and gram = Wo Wo^T, (..., d, d).

    m (..., q, k), query i (..., q, d), value j (..., k, d). Edges whose weight would be infinite get 0, as in p-GNN's code.
    """
    stepped: Tensor = _PaperStep.apply(m, query, value, gram, p, ratio)
    return stepped


def _exactly(backward: Backward) -> Backward:
    """Keep autocast away from a backward that is called where it is on: the forward was computed without."""

    @wraps(backward)
    def without(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            return backward(ctx, grad)

    return without


class _ReleaseStep(Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, rows: Tensor, nodes: Tensor, p: Tensor, ratio: Tensor, loops: bool
    ) -> Tensor:
        factor = _release_norm(a, *_centred(rows, nodes), nodes.shape[-1])[0].pow_((p - 2) / 2)
        z, alpha = _aggregate(a * factor, rows, nodes, ratio, loops)
        ctx.save_for_backward(a, rows, nodes, p, ratio, factor, alpha, z)
        ctx.loops = loops
        return z

    @staticmethod
    @once_differentiable
    @_exactly
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, rows, nodes, p, ratio, factor, alpha, z = ctx.saved_tensors
        edges = a * factor
        d_edges, d_rows, d_nodes, d_ratio = _aggregate_backward(
            grad, edges, rows, nodes, ratio, ctx.loops, alpha, z
        )
        size, (x, y, gap) = nodes.shape[-1], _centred(rows, nodes)
        norm, squared, root, along = _release_norm(a, x, y, gap, size)
        d_norm, d_p = _power_backward(edges.mul_(d_edges), norm, p)
        d_norm.masked_fill_(norm <= torch.finfo(norm.dtype).tiny, 0.0)
        d_along = (d_norm * along).mul_(2 * size)
        d_a = (
            d_edges.mul_(factor).addcmul_(d_norm, squared).addcdiv_(d_along * gap, root, value=0.5)
        )
        equal = (
            squared == 0
        )  # such terms add nothing, but their factor is huge and would cost all digits
        d_gap = d_along.mul_(root).masked_fill_(equal & (gap == 0), 0.0)
        to_x, to_y = _distance_backward(d_norm.mul_(root.square_()).masked_fill_(equal, 0.0), x, y)
        d_rows = d_rows + to_x - d_gap.sum(-1, keepdim=True) / size
        d_nodes = d_nodes + to_y + d_gap.sum(-2).unsqueeze(-1) / size
        return d_a, d_rows, d_nodes, d_p, d_ratio, None


class _PaperStep(Function):
    @staticmethod
    def forward(
        ctx: Any, m: Tensor, query: Tensor, value: Tensor, gram: Tensor, p: Tensor, ratio: Tensor
    ) -> Tensor:
        energy = gram_distance(query, value, gram).mul_(m)
        some = energy > 0
        factor = torch.where(
            some, energy.masked_fill_(~some, 1.0).pow_((p - 2) / 2), (p == 2).to(m.dtype)
        )
        z, alpha = _aggregate(m * factor, query, value, ratio, loops=True)
        ctx.save_for_backward(m, query, value, gram, p, ratio, factor, alpha, z)
        return z

    @staticmethod
    @once_differentiable
    @_exactly
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        m, query, value, gram, p, ratio, factor, alpha, z = ctx.saved_tensors
        edges = m * factor
        d_edges, d_query, d_value, d_ratio = _aggregate_backward(
            grad, edges, query, value, ratio, True, alpha, z
        )
        squared = gram_distance(query, value, gram)
        energy = m * squared
        none = energy <= 0
        d_energy, d_p = _power_backward(
            edges.mul_(d_edges).masked_fill_(none, 0.0), energy.masked_fill_(none, 1.0), p
        )
        d_m = d_edges.mul_(factor).addcmul_(d_energy, squared)
        d_squared = d_energy.mul_(m)
        to_query, to_value = _distance_backward(d_squared, query, value)
        d_gram = (
            (query.mT @ to_query + value.mT @ to_value) / 2 if ctx.needs_input_grad[3] else None
        )
        return d_m, d_query + to_query @ gram, d_value + to_value @ gram, d_gram, d_p, d_ratio


def _aggregate(
    edges: Tensor, rows: Tensor, nodes: Tensor, ratio: Tensor, loops: bool
) -> tuple[Tensor, Tensor]:
    """Z and alpha, (..., q, 1)."""
    alpha = 1 / (edges.sum(-1, keepdim=True) + ratio)
    mixed = edges @ nodes
    return alpha * (mixed.addcmul_(ratio, rows) if loops else mixed), alpha


def _aggregate_backward(
    grad: Tensor,
    edges: Tensor,
    rows: Tensor,
    nodes: Tensor,
    ratio: Tensor,
    loops: bool,
    alpha: Tensor,
    z: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of E, rows, nodes and r. That of alpha is grad . Z / alpha, and alpha's own of E_ij and r is -alpha^2."""
    scaled = alpha * grad
    shared = (scaled * z).sum(-1, keepdim=True)
    d_edges, d_nodes = (scaled @ nodes.mT).sub_(shared), edges.mT @ scaled
    if not loops:
        return d_edges, torch.zeros_like(rows), d_nodes, -shared.sum().view(1)
    return d_edges, ratio * scaled, d_nodes, ((scaled * rows).sum() - shared.sum()).view(1)


def _power_backward(weighted: Tensor, norm: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of N and p, where `weighted` is E times E's gradient: N^t gives t E / N and, of t, E log N."""
    d_p = (weighted * norm.log()).sum().view(1) / 2
    return weighted.mul_((p - 2) / 2).div_(norm), d_p


def _centred(rows: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and nodes without their means, and the gaps between the means, (..., q, k)."""
    row_mean, node_mean = rows.mean(-1, keepdim=True), nodes.mean(-1, keepdim=True)
    return rows - row_mean, nodes - node_mean, node_mean.mT - row_mean


def _release_norm(
    a: Tensor, x: Tensor, y: Tensor, gap: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """N; squared distance of the centred nodes, exactly 0 between equal ones; sqrt(A + e); and what is added along the means."""
    squared = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square_()
    shifted = a + EPSILON
    norm = squared * shifted
    root = shifted.sqrt_()
    along = (gap * root).add_(EPSILON)
    norm.addcmul_(along, along, value=size)
    return (
        norm.clamp_min_(torch.finfo(norm.dtype).tiny),
        squared,
        root,
        along,
    )  # clamped where along is 0: the terms cancel


def _distance_backward(grad: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ||x_i - y_j||^2."""
    grad = grad.mul_(2)
    return grad.sum(-1, keepdim=True) * x - grad @ y, grad.sum(-2).unsqueeze(-1) * y - grad.mT @ x


def gram_distance(x: Tensor, y: Tensor, gram: Tensor) -> Tensor:
    """||(x_i - y_j) W||^2 with gram = W W^T, (..., q, k); 0 where it is lost in rounding."""
    xg = x @ gram
    norms = (xg * x).sum(-1, keepdim=True) + ((y @ gram) * y).sum(-1).unsqueeze(-2)
    squared = norms - 2 * xg @ y.mT
    return squared.masked_fill_(squared <= 32 * torch.finfo(squared.dtype).eps * norms, 0.0)
