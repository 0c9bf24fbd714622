"""The authors' formulas, transcribed with every node, edge and matrix that they make.

Our faster forms are compared with these.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlpeft.benchmark.contract.attention import Attention, Seen
from vlpeft.benchmark.contract.method import Method
from vlpeft.benchmark.contract.sites import Projection, Site, Slot


class LiteralAttention(Attention):
    """An attention that shows what it is given."""

    def __init__(self, heads: int, *, causal: bool = False, fixed_keys: bool = False) -> None:
        module: Any = nn.Module()
        module.num_heads = heads
        super().__init__(module, None, causal=causal, fixed_keys=fixed_keys)
        self.shown: Seen | None = None
        self.generating = True

    def take(self) -> Seen:
        """Return what was assigned to `shown`, once."""
        if self.shown is None:
            raise RuntimeError("nothing is shown")
        seen, self.shown = self.shown, None
        return seen


class LiteralBlock(nn.Module):
    """The end of an attention: its output projection, then what a method puts after it.

    With `in_place`, the slot of the method is the projection itself.
    """

    def __init__(
        self,
        kind: Any,
        projection: nn.Module,
        attention: LiteralAttention,
        method: Method,
        *,
        in_place: bool = False,
    ) -> None:
        super().__init__()
        self.projection, self.behind, self.attention = projection, nn.Identity(), attention
        width = projection.get_parameter("bias").numel()
        projections = {"output": Projection(Slot(self, "projection"), (0, width))}
        slot = Slot(self, "projection" if in_place else "behind")
        self.site = Site(
            f"layer.0.{kind}",
            kind,
            "decoder",
            0,
            width,
            projections,
            slot,
            nn.LayerNorm(width),
            attention,
        )
        method.inject(SimpleNamespace(name="block", sites=[self.site]))  # type: ignore[arg-type]

    @property
    def adapter(self) -> Any:
        """The module that the method has added."""
        return self.site.output.module[1]  # type: ignore[index]

    def forward(self, context: Tensor, seen: Seen) -> Tensor:
        """Map (batch, queries, width) to the same shape."""
        self.attention.shown = seen
        found: Tensor = self.behind(self.projection(context))
        return found


def p_adapter(
    adapter: Any,
    projection: nn.Module,
    output: Tensor,
    seen: Seen,
    *,
    bipartite: bool,
    tokens: int | None,
) -> Tensor:
    """Return o + adapter(o) as the release of the p-Adapter computes it.

    It makes the full adjacency of all nodes, and all their differences: (batch, heads, nodes,
    nodes, size / heads).

    Args:
        adapter: its weights are used, not its forward pass.
        projection: the output projection of the attention.
        output: the attention's output: (batch, queries, width).
        seen: query, value and probabilities of the attention.
        bipartite: queries and keys are different nodes, as in cross-attention.
        tokens: number that the keys are pooled to; None keeps all.
    """
    query, value, a = seen
    heads, q = a.shape[1], a.shape[2]
    if tokens:
        value = functional.adaptive_avg_pool1d(value.mT, tokens).mT
        a = functional.adaptive_avg_pool1d(a.flatten(0, 1), tokens).view(*a.shape[:3], tokens)
    nodes = value
    if bipartite:
        nodes = torch.cat([query, value], 1)
        a = _bipartite_adjacency(a)
    low: Tensor = adapter.down(projection(nodes))
    f = low.view(*low.shape[:2], heads, -1).transpose(1, 2)
    p, mu = adapter.laplacian.p, adapter.laplacian.c * (2 + torch.tanh(adapter.laplacian.raw_mu))
    # The gradient of f along every edge, and from its norm the p-Laplacian weights.
    g = (a + 1e-8).sqrt().unsqueeze(-1) * (f.unsqueeze(2) - f.unsqueeze(3))
    renormalised = a * torch.linalg.vector_norm(g + 1e-8, dim=-1) ** (p - 2)
    alpha = 1 / (renormalised.sum(-1) + 2 * mu / p)
    beta = torch.diag_embed(2 * mu / p * alpha)
    w = torch.diag_embed(alpha) @ renormalised
    if bipartite:
        z = w[:, :, :q, q:] @ f[:, :, q:] + beta[:, :, :q, q:] @ f[:, :, q:]
    else:
        z = w @ f + beta @ f
    merged = z.transpose(1, 2).flatten(2)
    found: Tensor = output + adapter.up(functional.gelu(adapter.gate(output)) * merged)
    return found


def _bipartite_adjacency(a: Tensor) -> Tensor:
    """Return the adjacency of queries and keys together, from attention (..., queries, keys)."""
    queries, keys = a.shape[2], a.shape[3]
    from_queries = torch.cat([a.new_zeros(*a.shape[:2], queries, queries), a], -1)
    from_keys = torch.cat([a.mT, a.new_zeros(*a.shape[:2], keys, keys)], -1)
    return torch.cat([from_queries, from_keys], 2)


def mul_expand(text: Tensor, vision: Tensor) -> Tensor:
    """Return x_t x''_v, with the k x k matrix of k rows x_v."""
    return text @ vision.expand(-1, vision.shape[-1], -1)


def project(text: Tensor, vision: Tensor) -> Tensor:
    """Return x_t (x_v^T x_v), with the k x k matrix.

    The formula of the paper does not say which product comes first.
    """
    return text @ (vision.mT @ vision)


def project_in_order(text: Tensor, vision: Tensor) -> Tensor:
    """Return (x_t x_v^T) x_v, from left to right as ours does. This makes no k x k matrix."""
    return (text @ vision.mT) @ vision
