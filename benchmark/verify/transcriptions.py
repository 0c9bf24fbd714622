"""What ours is measured beside: the authors' formulas, transcribed with every node, edge and matrix that they make."""

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
        """What was put into `shown`, once."""
        if self.shown is None:
            raise RuntimeError("nothing is shown")
        seen, self.shown = self.shown, None
        return seen


class LiteralBlock(nn.Module):
    """The end of an attention: output projection, then what a method puts behind it; `in_place`: its slot is the projection itself."""

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
        """What the method has put there."""
        return self.site.output.module[1]  # type: ignore[index]

    def forward(self, context: Tensor, seen: Seen) -> Tensor:
        """(batch, queries, width) to the same."""
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
    """o + adapter(o) of the p-Adapter release: the full adjacency of all nodes, and (batch, heads, nodes, nodes, size / heads) differences.

    `tokens`: how many the keys are pooled to.
    """
    query, value, a = seen
    heads, q = a.shape[1], a.shape[2]
    if tokens:
        value = functional.adaptive_avg_pool1d(value.mT, tokens).mT
        a = functional.adaptive_avg_pool1d(a.flatten(0, 1), tokens).view(*a.shape[:3], tokens)
    nodes = value
    if bipartite:
        nodes = torch.cat([query, value], 1)
        keys = value.shape[1]
        a = torch.cat(
            [
                torch.cat([a.new_zeros(*a.shape[:2], q, q), a], -1),
                torch.cat([a.mT, a.new_zeros(*a.shape[:2], keys, keys)], -1),
            ],
            2,
        )
    low: Tensor = adapter.down(projection(nodes))
    f = low.view(*low.shape[:2], heads, -1).transpose(1, 2)
    p, mu = adapter.laplacian.p, adapter.laplacian.c * (2 + torch.tanh(adapter.laplacian.raw_mu))
    g = (a + 1e-8).sqrt().unsqueeze(-1) * (f.unsqueeze(2) - f.unsqueeze(3))
    renormalised = a * torch.linalg.vector_norm(g + 1e-8, dim=-1) ** (p - 2)
    alpha = 1 / (renormalised.sum(-1) + 2 * mu / p)
    beta = torch.diag_embed(2 * mu / p * alpha)
    w = torch.diag_embed(alpha) @ renormalised
    z = (
        w[:, :, :q, q:] @ f[:, :, q:] + beta[:, :, :q, q:] @ f[:, :, q:]
        if bipartite
        else w @ f + beta @ f
    )
    merged = z.transpose(1, 2).flatten(2)
    found: Tensor = output + adapter.up(functional.gelu(adapter.gate(output)) * merged)
    return found


def mul_expand(text: Tensor, vision: Tensor) -> Tensor:
    """x_t x''_v, with the k x k matrix of k rows x_v."""
    return text @ vision.expand(-1, vision.shape[-1], -1)


def project(text: Tensor, vision: Tensor) -> Tensor:
    """x_t (x_v^T x_v), with the k x k matrix: the formula does not say which product comes first."""
    return text @ (vision.mT @ vision)


def project_in_order(text: Tensor, vision: Tensor) -> Tensor:
    """(x_t x_v^T) x_v, from left to right, which makes no matrix; as ours does."""
    return (text @ vision.mT) @ vision
