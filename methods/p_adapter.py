"""p-Adapter: an adapter that aggregates over the attention graph by p-Laplacian message passing (Wu et al., AAAI 2024).

An attention with probabilities M (queries x keys) is read as a bipartite graph between query nodes and value nodes,
both mapped by the frozen output projection Wo. One step of message passing re-weights its edges by ||gradient||^(p-2):

    A'_ij = A_ij || sqrt(A_ij / D_ii) X_i - sqrt(A_ij / D_jj) X_j ||^(p-2)                      (12), (14)
    alpha_i = 1 / (sum_j A'_ij / D_ii + 2 mu / p),   beta_i = (2 mu / p) alpha_i               (13)
    U_i = alpha_i sum_j (D_ii D_jj)^(-1/2) A'_ij X_j + beta_i X_i                             (11), (15)

The equations and the released code differ in nearly everything else, so both are here: `ReleaseAdapter`, `PaperAdapter`.
p is unconstrained in both; a run whose p has become 0 or negative is stopped at the next point of its curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers import Conv1D

from vlpeft.baselines.adapter import Bottleneck, Parallel
from vlpeft.benchmark.contract.attention import Attention, Seen, merge_heads
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import Method, check_rank, init_normal, select_sites
from vlpeft.benchmark.contract.sites import Site, SiteKind, TowerSide
from vlpeft.benchmark.core.config import Fraction, Positive, PositiveFloat
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register
from vlpeft.methods.p_laplacian import paper_step, release_step

Gnn = Literal["pgnn", "gcn", "appnp", "gcnii"]
Concat = Literal["query", "zero", "noise"]


@register("p_adapter", paper="Wu et al. 2024", needs=("sublayers", "attention"))
@dataclass(frozen=True)
class PAdapter(Method):
    """p-Laplacian adapters behind attentions, plain ones at feed-forward sub-layers; `size` is 96 at full size.

    `variant: release` is the authors' code (its FFN adapter is parallel, on the FFN's input), `variant: paper` the
    equations (sequential FFN adapter). `mu`: the release trains a raw mu s per layer and uses mu (2 + tanh s), which
    starts at 2 mu; the paper calls mu a hyper-parameter, so there it is used as it stands and does not train.

    Table 2 (paper variant): `gcn` is the plain adapter; `appnp` and `gcnii` take one step, K = 1, with our `teleport` and
    `identity`, since the paper gives none. Table 3: `concat` says what stands in the place of the query nodes; `noise` is
    drawn anew each forward, at evaluation too, as in the release's commented lines.
    """

    variant: Literal["release", "paper"] = "release"
    size: Positive = 16
    places: Annotated[tuple[SiteKind, ...], Field(min_length=1)] = ("self", "cross", "ffn")
    sides: Annotated[tuple[TowerSide, ...], Field(min_length=1)] = ("encoder", "decoder")
    p: PositiveFloat = 1.5
    learnable_p: bool = True
    mu: PositiveFloat = 0.1
    gnn: Gnn = "pgnn"
    teleport: Fraction = 0.1  # weight of a node's own features in appnp and gcnii
    identity: Fraction = 0.5  # weight of the identity map, against the bottleneck, in gcnii
    concat: Concat = "query"
    degrees: Literal["row", "graph"] = (
        "row"  # D of value nodes: the row's own, 1, or the column sum of (14), which sees later queries
    )
    image_tokens: Positive | None = (
        None  # release: cross-attention pools values and probabilities to so many keys
    )
    release_cached_graph: bool = False  # release: cached decoding uses another graph than training

    def inject(self, backbone: Backbone) -> None:
        """Put an adapter at each chosen sub-layer."""
        sites = select_sites(backbone, self.places, self.sides)
        self._check(sites)
        for site in sites:
            check_rank(self.size, site.width, "size")
            module = site.output.module
            if site.kind == "ffn" and self.variant == "release":
                adapter = Bottleneck(site.width, self.size, "relu", residual=False)
                site.output.replace(Parallel(module, adapter, site.projections["up"].slot.module))
            else:
                site.output.replace(nn.Sequential(module, self._adapter(site)))

    def trainable(self, backbone: Backbone) -> int:
        """Per site: two maps (release at attentions: three), their biases; at attentions also raw mu (release) and p (learnable)."""
        return sum(
            self._parameters(site) for site in select_sites(backbone, self.places, self.sides)
        )

    def _parameters(self, site: Site) -> int:
        plain = 2 * site.width * self.size + self.size + site.width
        if site.kind == "ffn" or self.gnn != "pgnn":
            return plain
        return (
            plain
            + self.learnable_p
            + (site.width * self.size + self.size + 1 if self.variant == "release" else 0)
        )

    def _check(self, sites: list[Site]) -> None:
        """Refuse settings that would change nothing here."""
        release, crossed = self.variant == "release", any(site.kind == "cross" for site in sites)
        cached = self.release_cached_graph and any(
            site.kind == "self" and site.attention is not None and site.attention.causal
            for site in sites
        )
        if release and (self.gnn, self.degrees) != ("pgnn", "row"):
            raise UserError(
                "gnn, degrees: these are of the paper's equations; set `variant: paper`"
            )
        if not release and (self.image_tokens or self.release_cached_graph):
            raise UserError(
                "image_tokens, release_cached_graph: these are of the released code; set `variant: release`"
            )
        if self.gnn != "pgnn" and self.degrees == "graph":
            raise UserError("degrees: graph is of the p-Laplacian; set `gnn: pgnn`")
        if self.concat != "query" and (self.gnn == "gcn" or (release and not (crossed or cached))):
            raise UserError(
                "concat: there are no query nodes here (gcn; release, but for cross-attention); leave `concat: query`"
            )
        if self.release_cached_graph and not cached:
            raise UserError(
                "release_cached_graph: no causal self-attention here, so nothing is cached; leave it false"
            )
        if self.image_tokens and not crossed:
            raise UserError("image_tokens: no cross-attention here; leave it out")
        defaults, attended = PAdapter(), any(site.kind != "ffn" for site in sites)
        for name, used in {
            "gnn": attended,
            "concat": attended,
            **dict.fromkeys(("p", "mu", "learnable_p"), attended and self.gnn == "pgnn"),
            "teleport": attended and self.gnn in ("appnp", "gcnii"),
            "identity": attended and self.gnn == "gcnii",
        }.items():
            if not used and getattr(self, name) != getattr(defaults, name):
                raise UserError(
                    f"{name}: changes nothing with these `places` and this `gnn`; leave it out"
                )

    def _adapter(self, site: Site) -> nn.Module:
        if (
            site.kind == "ffn" or self.gnn == "gcn"
        ):  # for gcn, aggregating M V Wo again gives what is there
            return Bottleneck(site.width, self.size, "relu", residual=True)
        attention = site.attention
        if attention is None:
            raise UserError(
                f"{site.name}: this backbone does not show its attention; choose other `places`"
            )
        if self.degrees == "graph" and (site.kind == "cross" or attention.causal):
            raise UserError(
                f"degrees: graph at {site.name} lets earlier tokens see later queries; set `degrees: row`, or other `sides`"
            )
        if self.image_tokens and site.kind == "cross" and not attention.fixed_keys:
            raise UserError(
                f"image_tokens: {site.name} attends to padded keys, so bins would depend on the batch; leave it out"
            )
        if self.variant == "release" and self.size % attention.heads:
            raise UserError(
                f"size: {self.size} is cut into one slice a head; choose a multiple of {attention.heads}"
            )
        attention.record()
        return (
            ReleaseAdapter(self, site, attention)
            if self.variant == "release"
            else PaperAdapter(self, site, attention)
        )


class Laplacian(nn.Module):
    """The scalars p and mu of one layer; with `train_mu`, mu is c (2 + tanh s), s from 0."""

    def __init__(self, method: PAdapter, name: str, *, train_mu: bool) -> None:
        super().__init__()
        self.name, self.c = name, method.mu
        self.p = nn.Parameter(torch.full((1,), method.p), requires_grad=method.learnable_p)
        self.raw_mu = nn.Parameter(torch.zeros(1)) if train_mu else None

    def mu(self) -> Tensor:
        """(1,)."""
        return (
            torch.full_like(self.p, self.c)
            if self.raw_mu is None
            else self.c * torch.tanh(self.raw_mu) + 2 * self.c
        )

    def forward(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """p and 2 mu / p, (1,) each."""
        return self.p.to(dtype), (2 * self.mu() / self.p).to(dtype)

    def scalars(self) -> Mapping[str, float]:
        """What the record keeps of the training."""
        if self.p.item() <= 0:
            raise UserError(
                f"p of {self.name} became {self.p.item():.3g}; lower `lr`, spare it weight decay, or fix p"
            )
        return {f"{self.name}.p": self.p.item(), f"{self.name}.mu": self.mu().item()}


class ReleaseAdapter(nn.Module):
    """o + Wu [gelu(Wg o) * Z], where Z aggregates nodes that are projected by Wo and then down, slice h of them by head h.

    Cross-attention has query and value nodes (keys pooled to `image_tokens`); beta acts on nothing there. Self-attention
    has value nodes only, and its rows are the last of them, so that cached decoding computes what training does;
    `release_cached_graph` uses the graph of cross-attention instead while text is written from a cache; not in ranking, where
    the release has no cache.
    """

    def __init__(self, method: PAdapter, site: Site, attention: Attention) -> None:
        super().__init__()
        self.laplacian = Laplacian(method, site.name, train_mu=True)
        self.down, self.gate = (init_normal(nn.Linear(site.width, method.size)) for _ in range(2))
        self.up = init_normal(nn.Linear(method.size, site.width))
        self.attention, self.projection = (
            attention,
            (site.projections["output"].slot.module,),
        )  # a tuple: Wo is no submodule
        self.concat, self.cross, self.cached_graph = (
            method.concat,
            site.kind == "cross",
            method.release_cached_graph,
        )
        self.image_tokens = method.image_tokens if self.cross else None

    def forward(self, output: Tensor) -> Tensor:
        """(batch, queries, width), the attention's output, to the same."""
        with torch.autocast(output.device.type, enabled=False):
            aggregated = self.aggregate(_exact(self.attention.take()))
        y: Tensor = self.up(
            functional.gelu(self.gate(output), approximate="none") * aggregated.to(output.dtype)
        )
        return output + y

    def aggregate(self, seen: Seen) -> Tensor:
        """Z, (batch, queries, size)."""
        query, value, a = seen
        if self.image_tokens is not None:
            bins = pooling(a.shape[-1], self.image_tokens, a)
            value, a = bins.T @ value, a @ bins
        queries, keys = a.shape[-2:]
        bipartite = self.cross or (
            self.cached_graph and self.attention.generating and queries < keys
        )
        nodes = self.nodes(value, a.shape[1])
        rows = (
            self.nodes(query_nodes(query, self.concat), a.shape[1])
            if bipartite
            else nodes[..., keys - queries :, :]
        )
        return merge_heads(
            release_step(a, rows, nodes, *self.laplacian(a.dtype), loops=not bipartite)
        )

    def nodes(self, x: Tensor, heads: int) -> Tensor:
        """F = (x Wo + bo) Wi + bi, as one map; (batch, n, width) to (batch, heads, n, size / heads)."""
        weight, bias = linear(self.projection[0], x.dtype)
        down, low = linear(self.down, x.dtype)
        return _split(
            functional.linear(x, down @ weight, functional.linear(bias, down, low)), heads
        )


class PaperAdapter(Bottleneck):
    """Equations (14) to (16) for many heads: U takes the place of the attention's output, then act(U Wdown) Wup + U.

    The paper has one head. Here each head h has its own graph, with probabilities M_h and the nodes Q^h Wo^h and V^h Wo^h
    (Wo^h: its rows of Wo), and the heads' results are summed, as attention does. Aggregation is linear in the nodes, so
    Wo and its bias act once, on the concatenated heads, and distances need only the Gram matrix of Wo^h.

    M is taken before the attention's dropout, as in the release, and the dropout before the adapter does not act on U.
    """

    def __init__(self, method: PAdapter, site: Site, attention: Attention) -> None:
        super().__init__(site.width, method.size, "relu", residual=method.gnn != "gcnii")
        self.laplacian = (
            Laplacian(method, site.name, train_mu=False) if method.gnn == "pgnn" else None
        )
        self.attention, self.projection = (
            attention,
            (site.projections["output"].slot.module,),
        )  # a tuple: Wo is no submodule
        self.concat, self.graph_degrees = method.concat, method.degrees == "graph"
        self.gnn, self.teleport, self.identity = method.gnn, method.teleport, method.identity

    def forward(self, output: Tensor) -> Tensor:
        """(batch, queries, width), the attention's output, to the same."""
        with torch.autocast(output.device.type, enabled=False):
            seen = _exact(self.attention.take())
            heads = seen.probabilities.shape[1]
            query, value = (
                _split(query_nodes(seen.query, self.concat), heads),
                _split(seen.value, heads),
            )
            mixed = merge_heads(self.mix(query, value, seen.probabilities))
        u = self.projection[0](mixed.to(output.dtype))  # (15)
        y = super().forward(u)  # (16)
        return torch.lerp(y, u, self.identity) if self.gnn == "gcnii" else y

    def mix(self, query: Tensor, value: Tensor, m: Tensor) -> Tensor:
        """U before Wo, (batch, heads, queries, head width)."""
        if self.laplacian is None:
            return (1 - self.teleport) * (m @ value) + self.teleport * query
        if self.graph_degrees:
            value = value / column_degrees(m).sqrt().unsqueeze(
                -1
            )  # enters (14) and (15) alike; a query's own degree is 1
        weight, _ = linear(self.projection[0], m.dtype)
        rows = weight.T.reshape(m.shape[1], -1, weight.shape[0])  # Wo^h, (heads, head width, width)
        return paper_step(m, query, value, rows @ rows.mT, *self.laplacian(m.dtype))


def column_degrees(m: Tensor) -> Tensor:
    """D_jj of value nodes, (batch, heads, keys): column sums of (batch, heads, n, n), 1 for nodes that none reads.

    The rows of padding do not count: a padded token is one that receives no attention in any head.
    """
    real = (m.sum((1, 2), keepdim=True) > 0).mT
    degrees = (m * real).sum(-2)
    return torch.where(degrees > 0, degrees, 1.0)


def pooling(keys: int, bins: int, like: Tensor) -> Tensor:
    """Adaptive average pooling as a matrix, (keys, bins): bin i is the mean of floor(i keys / bins) to ceil((i + 1) keys / bins)."""
    if bins > keys:
        raise UserError(
            f"image_tokens: {bins} is more than the {keys} keys there are; choose at most {keys}"
        )
    key, i = torch.arange(keys, device=like.device)[:, None], torch.arange(bins, device=like.device)
    inside = ((key >= i * keys // bins) & (key < -(-(i + 1) * keys // bins))).to(like.dtype)
    return inside / inside.sum(0)


def query_nodes(query: Tensor, concat: Concat) -> Tensor:
    """What the query nodes are made of (Table 3)."""
    if concat == "query":
        return query
    return torch.zeros_like(query) if concat == "zero" else torch.randn_like(query)


def linear(module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias of an nn.Linear or of GPT-2's transposed Conv1D."""
    weight, bias = module.get_parameter("weight").to(dtype), module.get_parameter("bias").to(dtype)
    return weight.T if isinstance(module, Conv1D) else weight, bias


def _exact(seen: Seen) -> Seen:
    """In float32 at least: the release's 1e-8 is lost in anything less."""
    return Seen(*(x.to(torch.promote_types(x.dtype, torch.float32)) for x in seen))


def _split(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)
