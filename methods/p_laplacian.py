"""One step of p-Laplacian message passing as one operation of autograd.

    Z_i = alpha_i (sum_j E_ij X_j + r X_i),   E = A N^t,   alpha_i = 1 / (sum_j E_ij + r)

with t = (p - 2) / 2 and r = 2 mu / p. N is the squared norm of the gradient at each edge. The
equations of the paper are in `methods/p_adapter.py`.

Only A and N^t live until the backward pass, of the tensors as large as A. The backward computes
the others again. Written as ordinary operations, autograd would keep about ten of them.
Gradients are exact, and of first order only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

Backward = Callable[[Any, Tensor], tuple[Tensor | None, ...]]


def release_step(
    a: Tensor, rows: Tensor, nodes: Tensor, p: Tensor, ratio: Tensor, *, loops: bool
) -> Tensor:
    """Return Z of the released code, (..., q, m), where N = || sqrt(A + e) (F_j - F_i) + e ||^2.

    a is (..., q, k), rows (index i) are (..., q, m), nodes (index j) are (..., k, m); p and ratio
    have shape (1,). Without `loops` the term r X_i is left out.

    Let c be the mean of F over its m dimensions. Then N is exactly

        (A + e) ||(F_j - c_j) - (F_i - c_i)||^2 + m (sqrt(A + e) (c_j - c_i) + e)^2

    This form needs no tensor of size q k m. It is a sum of squares, so nothing cancels. Between
    equal nodes N is m e^2, and its subgradient is taken as 0.
    """
    stepped: Tensor = _ReleaseStep.apply(a, rows, nodes, p, ratio, loops)
    return stepped


def paper_step(
    m: Tensor, query: Tensor, value: Tensor, gram: Tensor, p: Tensor, ratio: Tensor
) -> Tensor:
    """Return Z of equations (14) and (13) before Wo, (..., q, d).

    Here N = M ||(X_i - X_j) Wo||^2, and gram = Wo Wo^T is (..., d, d). m is (..., q, k), query
    (index i) is (..., q, d), value (index j) is (..., k, d); p and ratio have shape (1,).

    Edges whose weight would be infinite get 0, as in the code of p-GNN (Fu et al. 2022).
    """
    stepped: Tensor = _PaperStep.apply(m, query, value, gram, p, ratio)
    return stepped


def _without_autocast(backward: Backward) -> Backward:
    """Turn autocast off in a backward.

    The forward ran without it, but `loss.backward()` may be called where it is on.
    """

    @wraps(backward)
    def run(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            return backward(ctx, grad)

    return run


class _ReleaseStep(Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, rows: Tensor, nodes: Tensor, p: Tensor, ratio: Tensor, loops: bool
    ) -> Tensor:
        norm = _release_norm(a, *_centre(rows, nodes), nodes.shape[-1])[0]
        # N is a squared norm, so the exponent p - 2 of (12) is halved.
        # In place: N is not needed again, since the backward recomputes it.
        factor = norm.pow_((p - 2) / 2)
        z, alpha = _aggregate(a * factor, rows, nodes, ratio, loops)
        ctx.save_for_backward(a, rows, nodes, p, ratio, factor, alpha, z)
        ctx.loops = loops
        return z

    @staticmethod
    @once_differentiable
    @_without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, rows, nodes, p, ratio, factor, alpha, z = ctx.saved_tensors
        # One product is cheaper to repeat than to keep: it is as large as A.
        edges = a * factor
        d_edges, d_rows, d_nodes, d_ratio = _aggregate_backward(
            grad, edges, rows, nodes, ratio, ctx.loops, alpha, z
        )
        size = nodes.shape[-1]
        x, y, gap = _centre(rows, nodes)
        norm, squared, root, along = _release_norm(a, x, y, gap, size)
        d_norm, d_p = _power_backward(edges.mul_(d_edges), norm, p)
        # Where the clamp acts, N is constant.
        d_norm.masked_fill_(norm <= torch.finfo(norm.dtype).tiny, 0.0)
        d_along = (d_norm * along).mul_(2 * size)
        # A enters E directly, the first square by the factor A + e, and `along` by the root.
        d_a = d_edges.mul_(factor).addcmul_(d_norm, squared)
        d_a = d_a.addcdiv_(d_along * gap, root, value=0.5)
        # Terms between equal nodes add nothing, but their huge factor would cost all digits.
        equal = squared == 0
        d_gap = d_along.mul_(root).masked_fill_(equal & (gap == 0), 0.0)
        d_squared = d_norm.mul_(root.square_()).masked_fill_(equal, 0.0)
        to_x, to_y = _distance_backward(d_squared, x, y)
        # `gap` is the difference of the means, so each dimension gets 1 / m of its gradient.
        d_rows = d_rows + to_x - d_gap.sum(-1, keepdim=True) / size
        d_nodes = d_nodes + to_y + d_gap.sum(-2).unsqueeze(-1) / size
        return d_a, d_rows, d_nodes, d_p, d_ratio, None


class _PaperStep(Function):
    @staticmethod
    def forward(
        ctx: Any, m: Tensor, query: Tensor, value: Tensor, gram: Tensor, p: Tensor, ratio: Tensor
    ) -> Tensor:
        # M ||x - y||^2 is the squared norm of sqrt(M) (x - y). So no tensor of q k d numbers is
        # built.
        energy = gram_distance(query, value, gram).mul_(m)
        positive = energy > 0
        powers = energy.masked_fill_(~positive, 1.0).pow_((p - 2) / 2)
        # For p < 2 the weight of such an edge would be infinite. At p = 2 it is M itself.
        factor = torch.where(positive, powers, (p == 2).to(m.dtype))
        z, alpha = _aggregate(m * factor, query, value, ratio, loops=True)
        ctx.save_for_backward(m, query, value, gram, p, ratio, factor, alpha, z)
        return z

    @staticmethod
    @once_differentiable
    @_without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        m, query, value, gram, p, ratio, factor, alpha, z = ctx.saved_tensors
        edges = m * factor
        d_edges, d_query, d_value, d_ratio = _aggregate_backward(
            grad, edges, query, value, ratio, True, alpha, z
        )
        squared = gram_distance(query, value, gram)
        energy = m * squared
        absent = energy <= 0
        weighted = edges.mul_(d_edges).masked_fill_(absent, 0.0)
        d_energy, d_p = _power_backward(weighted, energy.masked_fill_(absent, 1.0), p)
        d_m = d_edges.mul_(factor).addcmul_(d_energy, squared)
        d_squared = d_energy.mul_(m)
        to_query, to_value = _distance_backward(d_squared, query, value)
        d_gram = None
        if ctx.needs_input_grad[3]:
            d_gram = (query.mT @ to_query + value.mT @ to_value) / 2
        return d_m, d_query + to_query @ gram, d_value + to_value @ gram, d_gram, d_p, d_ratio


def epsilon() -> float:
    """Return the constant e of the release, inside the root and inside the norm.

    The code of p-GNN sets edges of infinite weight to 0; the release adds e in place of that. It
    is a function because torch 2.11 cannot compile a layer whose two adapters read one global
    number.
    """
    return 1e-8


def _aggregate(
    edges: Tensor, rows: Tensor, nodes: Tensor, ratio: Tensor, loops: bool
) -> tuple[Tensor, Tensor]:
    """Return Z, (..., q, m), and alpha, (..., q, 1), from the edges E, (..., q, k)."""
    alpha = 1 / (edges.sum(-1, keepdim=True) + ratio)  # (13)
    mixed = edges @ nodes
    if loops:
        mixed = mixed.addcmul_(ratio, rows)  # beta X = alpha r X
    return alpha * mixed, alpha


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
    """Return the gradients of E, rows, nodes and r.

    The gradient of alpha is grad . Z / alpha. The derivative of alpha by E_ij and by r is
    -alpha^2. Their product, alpha grad . Z, is shared by all edges of a row.
    """
    scaled = alpha * grad
    shared = (scaled * z).sum(-1, keepdim=True)
    d_edges = (scaled @ nodes.mT).sub_(shared)
    d_nodes = edges.mT @ scaled
    if not loops:
        return d_edges, torch.zeros_like(rows), d_nodes, -shared.sum().view(1)
    d_ratio = ((scaled * rows).sum() - shared.sum()).view(1)
    return d_edges, ratio * scaled, d_nodes, d_ratio


def _power_backward(weighted: Tensor, norm: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of N and p, where `weighted` is E times the gradient of E.

    The derivative of A N^t by N is t E / N, and by t it is E log N.
    """
    d_p = (weighted * norm.log()).sum().view(1) / 2
    return weighted.mul_((p - 2) / 2).div_(norm), d_p


def _centre(rows: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows and nodes without their means, and the gaps between the means, (..., q, k)."""
    row_mean = rows.mean(-1, keepdim=True)
    node_mean = nodes.mean(-1, keepdim=True)
    return rows - row_mean, nodes - node_mean, node_mean.mT - row_mean


def _release_norm(
    a: Tensor, x: Tensor, y: Tensor, gap: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return N and three tensors that its gradient needs, all (..., q, k).

    These are the squared distance of the centred nodes, sqrt(A + e), and `along`, the part of the
    norm along the means. The squared distance is exactly 0 between equal nodes.
    """
    # A matrix product would leave rounding errors where nodes are equal.
    squared = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square_()
    shifted = a + epsilon()
    norm = squared * shifted
    root = shifted.sqrt_()
    along = (gap * root).add_(epsilon())
    norm.addcmul_(along, along, value=size)
    # N is 0 where the two terms of `along` cancel; a negative power of 0 would be infinite.
    return norm.clamp_min_(torch.finfo(norm.dtype).tiny), squared, root, along


def _distance_backward(grad: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and y from that of ||x_i - y_j||^2; `grad` is overwritten."""
    grad = grad.mul_(2)
    d_x = grad.sum(-1, keepdim=True) * x - grad @ y
    d_y = grad.sum(-2).unsqueeze(-1) * y - grad.mT @ x
    return d_x, d_y


def gram_distance(x: Tensor, y: Tensor, gram: Tensor) -> Tensor:
    """Return ||(x_i - y_j) W||^2, (..., q, k), with gram = W W^T.

    The result is 0 where rounding leaves no digits of it.
    """
    xg = x @ gram
    norms = (xg * x).sum(-1, keepdim=True) + ((y @ gram) * y).sum(-1).unsqueeze(-2)
    # Numbers of similar size are subtracted here. Their rounding error is what the mask removes.
    squared = norms - 2 * xg @ y.mT
    return squared.masked_fill_(squared <= 32 * torch.finfo(squared.dtype).eps * norms, 0.0)
