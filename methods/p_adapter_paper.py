"""The p-adapter by the equations of the paper (Wu et al., AAAI 2024, equations (14) to (16))."""

from __future__ import annotations

import torch
from torch import Tensor

from vlpeft.baselines.adapter import Bottleneck
from vlpeft.benchmark.contract.attention import Attention, merge_heads
from vlpeft.benchmark.contract.sites import Site
from vlpeft.methods.p_adapter_graph import (
    Concat,
    Laplacian,
    as_float32,
    linear,
    query_nodes,
    split_heads,
)
from vlpeft.methods.p_laplacian import paper_step


class PaperAdapter(Bottleneck):
    """Equations (14) to (16): U replaces the attention's output, then act(U Wdown) Wup + U.

    The paper has one head. Here each head h has its own graph: the probabilities M_h, and the nodes
    Q^h Wo^h and V^h Wo^h, where Wo^h are the rows of Wo for this head. The results of the heads are
    summed, as in attention.

    Aggregation is linear in the nodes. So Wo and its bias act once, on the concatenated heads.
    Distances need only the Gram matrix of Wo^h.

    M is taken before the attention's dropout, as in the release. The dropout before the adapter
    does not act on U.

    Without a `laplacian`, U is one step of APPNP: (1 - teleport) M V + teleport Q. GCNII adds the
    identity map: U' = (1 - identity) act(U Wdown) Wup + identity U.
    """

    def __init__(
        self,
        site: Site,
        attention: Attention,
        laplacian: Laplacian | None,
        *,
        size: int,
        gnn: str,
        concat: Concat,
        graph_degrees: bool,
        teleport: float,
        identity: float,
    ) -> None:
        # The paper names ReLU only as an example of its nonlinearity.
        super().__init__(site.width, size, "relu", residual=gnn != "gcnii")
        self.laplacian = laplacian
        self.attention = attention
        # A tuple hides Wo from nn.Module, so that it does not become a submodule of the adapter.
        self.projection = (site.projections["output"].slot.module,)
        self.concat = concat
        self.graph_degrees = graph_degrees
        self.gnn = gnn
        self.teleport = teleport
        self.identity = identity

    def forward(self, output: Tensor) -> Tensor:
        """Adapt the attention's output (batch, queries, width); the shape stays the same."""
        # A small distance is raised to a negative power, so half precision is too coarse here.
        with torch.autocast(output.device.type, enabled=False):
            seen = as_float32(self.attention.take())
            heads = seen.probabilities.shape[1]
            query = split_heads(query_nodes(seen.query, self.concat), heads)
            value = split_heads(seen.value, heads)
            mixed = merge_heads(self.mix(query, value, seen.probabilities))
        u = self.projection[0](mixed.to(output.dtype))  # (15)
        y = super().forward(u)  # (16)
        if self.gnn == "gcnii":
            return torch.lerp(y, u, self.identity)
        return y

    def mix(self, query: Tensor, value: Tensor, m: Tensor) -> Tensor:
        """Return U before Wo, (batch, heads, queries, head width).

        query and value are (batch, heads, nodes, head width), m is (batch, heads, queries, keys).
        """
        if self.laplacian is None:
            # One step of personalised PageRank: a node keeps a share of its own features.
            return (1 - self.teleport) * (m @ value) + self.teleport * query
        # The paper does not say what a causal decoder should do; `row` needs no later query.
        if self.graph_degrees:
            # D_jj^(-1/2) enters (14) and (15) in the same way. A query's own degree is 1, as
            # softmax rows sum to 1.
            value = value / column_degrees(m).sqrt().unsqueeze(-1)
        weight, _ = linear(self.projection[0], m.dtype)
        # Wo^h, (heads, head width, width).
        rows = weight.T.reshape(m.shape[1], -1, weight.shape[0])
        p, ratio = self.laplacian(m.dtype)
        return paper_step(m, query, value, rows @ rows.mT, p, ratio)


def column_degrees(m: Tensor) -> Tensor:
    """Return the degrees D_jj of the value nodes, (batch, heads, keys).

    They are the column sums of m, (batch, heads, n, n), or 1 for a node that no query reads. Rows
    of padding do not count: a padded token is one that receives no attention in any head.
    """
    real = (m.sum((1, 2), keepdim=True) > 0).mT
    degrees = (m * real).sum(-2)
    # A node that no query reads has degree 0, and 1 / sqrt(0) is infinite.
    return torch.where(degrees > 0, degrees, 1.0)
