"""The p-adapter as the authors' code computes it (github.com/wuhy68/p-Adapter, 27ea4b44).

It differs from the paper's equations in nearly everything: nodes are projected down before they
are aggregated, degrees are left out, and a gate multiplies the result (see `docs/papers`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlpeft.benchmark.contract.attention import Attention, Seen, merge_heads
from vlpeft.benchmark.contract.parameters import init_normal
from vlpeft.benchmark.contract.sites import Site
from vlpeft.benchmark.core.errors import UserError
from vlpeft.methods.p_adapter_graph import (
    Concat,
    Laplacian,
    as_float32,
    linear,
    query_nodes,
    split_heads,
)
from vlpeft.methods.p_laplacian import release_step


class ReleaseAdapter(nn.Module):
    """o + Wu [gelu(Wg o) * Z]: a gated bottleneck, where Z aggregates over the attention graph.

    Nodes are projected by the frozen Wo and then down to `size`. Head h of the attention is the
    graph of slice h of them.

    Cross-attention has query nodes and value nodes. Its keys are pooled to `image_tokens`. The term
    beta X_i of equation (15) vanishes there: the code reads an off-diagonal block of a diagonal
    matrix.

    Self-attention has value nodes only. Its rows are the last of them, so that decoding with a
    cache computes the same as training. `cached_graph` uses the graph of cross-attention while text
    is generated from a cache, as the release does. Ranking has no cache in the release, so it
    always uses the graph of training.
    """

    def __init__(
        self,
        site: Site,
        attention: Attention,
        laplacian: Laplacian,
        *,
        size: int,
        concat: Concat,
        image_tokens: int | None,
        cached_graph: bool,
    ) -> None:
        super().__init__()
        self.laplacian = laplacian
        # All three maps start from N(0, 0.02^2): the adapter is not the identity at first.
        self.down = init_normal(nn.Linear(site.width, size))
        # With the gate as third map, p and mu, these are 222,146 parameters at width 768 and
        # size 96.
        self.gate = init_normal(nn.Linear(site.width, size))
        self.up = init_normal(nn.Linear(size, site.width))
        self.attention = attention
        # A tuple hides Wo from nn.Module, so that it does not become a submodule of the adapter.
        self.projection = (site.projections["output"].slot.module,)
        self.concat = concat
        self.cross = site.kind == "cross"
        self.cached_graph = cached_graph
        self.image_tokens: int | None = None
        if self.cross:
            self.image_tokens = image_tokens

    def forward(self, output: Tensor) -> Tensor:
        """Adapt the attention's output (batch, queries, width); the shape stays the same."""
        # Autocast would round the probabilities and the tiny constant that is added to them.
        with torch.autocast(output.device.type, enabled=False):
            aggregated = self.aggregate(as_float32(self.attention.take()))
        # The gate is not in the paper. With it, an adapter has half more parameters than a plain
        # one of the same size; over all sites of BLIP, a third more.
        gate = functional.gelu(self.gate(output), approximate="none")
        y: Tensor = self.up(gate * aggregated.to(output.dtype))
        # The residual is the ordinary output of the attention. In the paper, U takes its place.
        return output + y

    def aggregate(self, seen: Seen) -> Tensor:
        """Return Z, (batch, queries, size)."""
        query, value, a = seen
        if self.image_tokens is not None:
            bins = pooling(a.shape[-1], self.image_tokens, a)
            # Neighbouring bins share a token, and the class token falls into the first bin. The
            # paper does not pool.
            value = bins.T @ value
            # Pooled probabilities are means, so a row sums to less than 1, as in the release.
            a = a @ bins
        heads, queries, keys = a.shape[1:]
        nodes = self.nodes(value, heads)
        bipartite = self._is_bipartite(queries, keys)
        if bipartite:
            rows = self.nodes(query_nodes(query, self.concat), heads)
        else:
            # The graph of training: no query nodes, and the causal probabilities as they are.
            rows = nodes[..., keys - queries :, :]
        # Degrees D are left out, as in the release. Rows of `a` sum to 1 only without pooling.
        p, ratio = self.laplacian(a.dtype)
        # In self-attention, e = 1e-8 gives self-loops a huge weight. On random causal attention
        # they hold over 99 % of a row at p = 1.5. Z is then almost the token's own value, behind a
        # gate.
        return merge_heads(release_step(a, rows, nodes, p, ratio, loops=not bipartite))

    def nodes(self, x: Tensor, heads: int) -> Tensor:
        """Project states to nodes, F = (x Wo + bo) Wi + bi.

        (batch, n, width) becomes (batch, heads, n, size / heads). The two maps are multiplied
        first: that costs width x width x size once, in place of n x width x width per example.
        """
        weight, bias = linear(self.projection[0], x.dtype)
        # As in the release, nodes go through Wo together with its bias.
        down, low = linear(self.down, x.dtype)
        both = functional.linear(x, down @ weight, functional.linear(bias, down, low))
        return split_heads(both, heads)

    def _is_bipartite(self, queries: int, keys: int) -> bool:
        """Check whether queries are nodes of their own, apart from the values."""
        if self.cross:
            return True
        # With a cache there are more keys than queries, from the second token on.
        return self.cached_graph and self.attention.generating and queries < keys


def pooling(keys: int, bins: int, like: Tensor) -> Tensor:
    """Return adaptive average pooling as a matrix, (keys, bins).

    Bin i is the mean of the keys from floor(i keys / bins) to ceil((i + 1) keys / bins), as in
    torch's `adaptive_avg_pool1d`. `like` gives dtype and device.
    Raises UserError if there are more bins than keys.
    """
    if bins > keys:
        raise UserError(
            f"image_tokens: {bins} is more than the {keys} available keys; choose at most {keys}"
        )
    key = torch.arange(keys, device=like.device)[:, None]
    i = torch.arange(bins, device=like.device)
    starts = i * keys // bins
    stops = -(-(i + 1) * keys // bins)  # the ceiling of a quotient of integers
    inside = ((key >= starts) & (key < stops)).to(like.dtype)
    return inside / inside.sum(0)
