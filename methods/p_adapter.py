"""p-Adapter: an adapter that aggregates over the attention graph (Wu et al., AAAI 2024).

An attention with probabilities M (queries x keys) is read as a bipartite graph between query nodes
and value nodes. The frozen output projection Wo maps both. One step of p-Laplacian message passing
re-weights the edges by ||gradient||^(p-2):

    A'_ij = A_ij || sqrt(A_ij / D_ii) X_i - sqrt(A_ij / D_jj) X_j ||^(p-2)        (12), (14)
    alpha_i = 1 / (sum_j A'_ij / D_ii + 2 mu / p),   beta_i = (2 mu / p) alpha_i  (13)
    U_i = alpha_i sum_j (D_ii D_jj)^(-1/2) A'_ij X_j + beta_i X_i                 (11), (15)

The equations and the released code differ in nearly everything else. So both are here: see
`ReleaseAdapter` and `PaperAdapter`.

p is unconstrained in both. A run whose p becomes 0 or negative stops at the next point of its
training curve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from vlpeft.baselines.adapter import Bottleneck, Parallel
from vlpeft.benchmark.contract.attention import Attention
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import Method, check_rank, select_sites
from vlpeft.benchmark.contract.sites import Site, SiteKind, TowerSide
from vlpeft.benchmark.core.config import Fraction, Positive, PositiveFloat
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register
from vlpeft.methods.p_adapter_graph import Concat, Laplacian
from vlpeft.methods.p_adapter_paper import PaperAdapter
from vlpeft.methods.p_adapter_release import ReleaseAdapter

Gnn = Literal["pgnn", "gcn", "appnp", "gcnii"]


@register("p_adapter", paper="Wu et al. 2024", needs=("sublayers", "attention"))
@dataclass(frozen=True)
class PAdapter(Method):
    """p-Laplacian adapters behind attentions, and plain adapters at feed-forward sub-layers.

    The papers' `size` is 96.

    `variant: release` is the authors' code; its feed-forward adapter is parallel, on the input of
    the sub-layer. `variant: paper` is the equations; its feed-forward adapter is sequential.

    `mu`: the release trains a number s per layer and uses mu (2 + tanh s), which starts at 2 mu.
    The paper calls mu a hyper-parameter, so there it is used as given and does not train.

    Table 2 of the paper (paper variant): `gcn` is the plain adapter. `appnp` and `gcnii` take one
    step, K = 1. Their `teleport` and `identity` are our choice, since the paper gives none.

    Table 3: `concat` chooses the features of the query nodes.
    """

    variant: Literal["release", "paper"] = "release"
    # The paper's 96 is the width 768 divided by the reduction 8 of the release.
    size: Positive = 16
    places: Annotated[tuple[SiteKind, ...], Field(min_length=1)] = ("self", "cross", "ffn")
    # Fig. 3 of the paper also draws adapters in the encoder. Its text and its code train the
    # decoder only.
    sides: Annotated[tuple[TowerSide, ...], Field(min_length=1)] = ("encoder", "decoder")
    # The release starts p at 1.75 (COCO), 1.5 (SNLI-VE) and 1.25 (VQA). Table 4 of the paper fixes
    # it at these three values; the learned p is best in every column.
    p: PositiveFloat = 1.5
    # On VQA the learned p is only 0.01 better than the best fixed one (Table 4).
    learnable_p: bool = True
    # The release sets 0.1 for COCO and VQA, and 10 for SNLI-VE.
    # So its mu starts at 0.2 or at 20. The paper gives no value.
    mu: PositiveFloat = 0.1
    gnn: Gnn = "pgnn"
    # The weight of a node's own features in appnp and gcnii.
    teleport: Fraction = 0.1
    # The weight of the identity map, against the bottleneck, in gcnii.
    identity: Fraction = 0.5
    # Table 3: queries score best. Zeros lose 0.35 on average, and noise loses 0.55.
    concat: Concat = "query"
    # The degree D of a value node: 1, or the column sum of (14), which sees later queries.
    degrees: Literal["row", "graph"] = "row"
    # Release only: cross-attention pools values and probabilities to this number of keys.
    # It is 24 for COCO and SNLI-VE and 16 for VQA, from 197 image tokens at 224 px.
    image_tokens: Positive | None = None
    # Release only: cached decoding uses another graph than training.
    release_cached_graph: bool = False

    def inject(self, backbone: Backbone) -> None:
        """Put an adapter at each chosen sub-layer."""
        sites = select_sites(backbone, self.places, self.sides)
        self._check_variant()
        self._check_queries(sites)
        self._check_unused(sites)
        for site in sites:
            check_rank(self.size, site.width, "size")
            module = site.output.module
            if site.kind == "ffn" and self.variant == "release":
                # LN(FFN(x) + x + U relu(D x + b) + c), where x is the sub-layer's input.
                adapter = Bottleneck(site.width, self.size, "relu", residual=False)
                reader = site.projections["up"].slot.module
                site.output.replace(Parallel(module, adapter, reader))
            else:
                # Before the residual and the LayerNorm, as in Fig. 3 of the paper.
                site.output.replace(nn.Sequential(module, self._make_adapter(site)))

    def trainable(self, backbone: Backbone) -> int:
        """Count two maps and their biases per site; p and a third map come on top at attentions.

        The third map and the raw mu belong to the release, p only to a learnable p.
        """
        sites = select_sites(backbone, self.places, self.sides)
        return sum(self._count(site) for site in sites)

    def _count(self, site: Site) -> int:
        # At width 768 and size 96 a plain adapter has 148,320 parameters, the release's 222,146.
        total = 2 * site.width * self.size + self.size + site.width
        if site.kind == "ffn" or self.gnn != "pgnn":
            return total
        # The paper learns one p per layer, so every adapter has its own.
        total += int(self.learnable_p)
        if self.variant == "release":
            # The gate, and the raw mu.
            total += site.width * self.size + self.size + 1
        return total

    def _check_variant(self) -> None:
        """Refuse settings of the other variant."""
        release = self.variant == "release"
        # The release has no code for the networks of Table 2, and it leaves degrees out.
        if release and (self.gnn, self.degrees) != ("pgnn", "row"):
            raise UserError(
                "gnn, degrees: these belong to the paper's equations; set `variant: paper`"
            )
        # Pooled tokens and the other graph in decoding occur in the code only. The paper mentions
        # neither.
        if not release and (self.image_tokens or self.release_cached_graph):
            raise UserError(
                "image_tokens, release_cached_graph: these belong to the released code; "
                "set `variant: release`"
            )
        if self.gnn != "pgnn" and self.degrees == "graph":
            raise UserError("degrees: graph belongs to the p-Laplacian; set `gnn: pgnn`")

    def _check_queries(self, sites: list[Site]) -> None:
        """Refuse settings about query nodes, caches and images where there are none."""
        crossed = any(site.kind == "cross" for site in sites)
        cached = self.release_cached_graph and any(_is_causal_self(site) for site in sites)
        if self.concat != "query" and not self._has_query_nodes(crossed=crossed, cached=cached):
            raise UserError(
                "concat: there are no query nodes here "
                "(gcn; release, but for cross-attention); leave `concat: query`"
            )
        if self.release_cached_graph and not cached:
            raise UserError(
                "release_cached_graph: no causal self-attention here, so nothing is cached; "
                "leave it false"
            )
        if self.image_tokens and not crossed:
            raise UserError("image_tokens: no cross-attention here; leave it out")

    def _has_query_nodes(self, *, crossed: bool, cached: bool) -> bool:
        if self.gnn == "gcn":
            return False
        return self.variant == "paper" or crossed or cached

    def _check_unused(self, sites: list[Site]) -> None:
        """Refuse a changed setting that has no effect: a sweep over it would repeat one cell."""
        defaults = PAdapter()
        used = set(self._used_settings(sites))
        for name in ("gnn", "concat", "p", "mu", "learnable_p", "teleport", "identity"):
            if name not in used and getattr(self, name) != getattr(defaults, name):
                raise UserError(
                    f"{name}: changes nothing with these `places` and this `gnn`; leave it out"
                )

    def _used_settings(self, sites: list[Site]) -> Iterator[str]:
        """Yield the settings of the graph that have an effect at these sites."""
        if all(site.kind == "ffn" for site in sites):
            return
        yield from ("gnn", "concat")
        if self.gnn == "pgnn":
            yield from ("p", "mu", "learnable_p")
        if self.gnn in ("appnp", "gcnii"):
            yield "teleport"
        if self.gnn == "gcnii":
            yield "identity"

    def _make_adapter(self, site: Site) -> nn.Module:
        # gcn: the attention's output is already M V Wo, so there is nothing left to aggregate.
        if site.kind == "ffn" or self.gnn == "gcn":
            return Bottleneck(site.width, self.size, "relu", residual=True)
        attention = site.attention
        if attention is None:
            raise UserError(
                f"{site.name}: this backbone does not expose its attention; choose other `places`"
            )
        self._check_attention(site, attention)
        # The graph needs the probabilities, which fused attention never returns.
        attention.record()
        if self.variant == "release":
            return self._make_release_adapter(site, attention)
        return self._make_paper_adapter(site, attention)

    def _check_attention(self, site: Site, attention: Attention) -> None:
        """Refuse settings that this attention cannot follow."""
        # D_jj sums a column of M over all queries, so later queries change earlier rows. Decoding
        # with a cache could not reproduce it.
        if self.degrees == "graph" and (site.kind == "cross" or attention.causal):
            raise UserError(
                f"degrees: graph at {site.name} lets earlier tokens see later queries; "
                "set `degrees: row`, or other `sides`"
            )
        if self.image_tokens and site.kind == "cross" and not attention.fixed_keys:
            raise UserError(
                f"image_tokens: {site.name} attends to padded keys, so bins would depend on "
                "the batch; leave it out"
            )
        # Slice h of a node goes with head h. Wo and the down-projection mix the heads, so this
        # pairing is arbitrary, in the release too.
        if self.variant == "release" and self.size % attention.heads:
            raise UserError(
                f"size: {self.size} is cut into one slice per head; "
                f"choose a multiple of {attention.heads}"
            )

    def _make_release_adapter(self, site: Site, attention: Attention) -> ReleaseAdapter:
        return ReleaseAdapter(
            site,
            attention,
            self._make_laplacian(site, train_mu=True),
            size=self.size,
            concat=self.concat,
            image_tokens=self.image_tokens,
            cached_graph=self.release_cached_graph,
        )

    def _make_paper_adapter(self, site: Site, attention: Attention) -> PaperAdapter:
        laplacian = None
        if self.gnn == "pgnn":
            laplacian = self._make_laplacian(site, train_mu=False)
        return PaperAdapter(
            site,
            attention,
            laplacian,
            size=self.size,
            gnn=self.gnn,
            concat=self.concat,
            graph_degrees=self.degrees == "graph",
            teleport=self.teleport,
            identity=self.identity,
        )

    def _make_laplacian(self, site: Site, *, train_mu: bool) -> Laplacian:
        return Laplacian(
            site.name, p=self.p, learnable_p=self.learnable_p, mu=self.mu, train_mu=train_mu
        )


def _is_causal_self(site: Site) -> bool:
    return site.kind == "self" and site.attention is not None and site.attention.causal
