"""HyperFormer: adapters whose weights a network makes from what task and what layer they serve (Mahabadi et al., ACL 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import (
    Method,
    UnfreezeGroup,
    check_rank,
    extra_parameters,
    init_normal,
    select_sites,
    unfreeze,
)
from vlpeft.benchmark.contract.sites import ActiveTask, Site, SiteKind, TowerSide, count
from vlpeft.benchmark.core.config import Positive
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.libraries.transformers import make_activation


@register("hyperformer", paper="Mahabadi et al. 2021", needs=("sublayers",))
@dataclass(frozen=True)
class HyperFormer(Method):
    """Sequential adapters h + U act(D h + b) + c behind sub-layers, generated for each task of the cell and each layer.

    e = LN(W2 relu(W1 [task; layer])), of `projected` numbers, is made once for each layer of a side; one linear map for each
    side and kind of sub-layer turns it into D, b, U and c. Task embeddings serve both sides and start from N(0, 1), layer
    embeddings and linear maps from N(0, 0.02). The sizes are those of the VL-Adapter benchmark, but for `size`, there 96.
    """

    size: Positive = 16
    places: Annotated[tuple[SiteKind, ...], Field(min_length=1)] = ("self", "cross", "ffn")
    sides: Annotated[tuple[TowerSide, ...], Field(min_length=1)] = ("encoder", "decoder")
    activation: Literal["relu", "gelu", "gelu_new"] = "gelu_new"
    embedding: Positive = 512  # width of a task's and of a layer's embedding
    hidden: Positive = 128
    projected: Positive = 8
    also_train: tuple[UnfreezeGroup, ...] = ()

    def inject(self, backbone: Backbone) -> None:
        """Put a generated adapter behind each chosen sub-layer."""
        unfreeze(extra_parameters(backbone, self.also_train))
        sites = select_sites(backbone, self.places, self.sides)
        tasks = nn.Parameter(torch.randn(backbone.active_task.count, self.embedding))
        sources = {
            side: TaskEmbedding(self, tasks, layers, backbone.active_task)
            for side, layers in _layers(sites).items()
        }
        generators: dict[tuple[TowerSide, SiteKind], nn.Linear] = {}
        for site in sites:
            check_rank(self.size, site.width, "size")
            key = (site.side, site.kind)
            if key not in generators:
                generators[key] = init_normal(
                    nn.Linear(self.projected, _adapter_count(site.width, self.size))
                )
            adapter = Generated(site, sources[site.side], generators[key], self)
            site.output.replace(nn.Sequential(site.output.module, adapter))

    def trainable(self, backbone: Backbone) -> int:
        """Embeddings; for each side a network; for each side and kind of sub-layer a generator; and what `also_train` names."""
        sites = select_sites(backbone, self.places, self.sides)
        generators = {
            (site.side, site.kind): (self.projected + 1) * _adapter_count(site.width, self.size)
            for site in sites
        }
        network = (
            (2 * self.embedding + 1) * self.hidden
            + (self.hidden + 1) * self.projected
            + 2 * self.projected
        )
        embeddings = (backbone.active_task.count + sum(_layers(sites).values())) * self.embedding
        added = sum(generators.values()) + len(_layers(sites)) * network + embeddings
        return added + count(extra_parameters(backbone, self.also_train))


def _layers(sites: list[Site]) -> dict[TowerSide, int]:
    """How many layers each side has."""
    return {
        side: 1 + max(site.layer for site in sites if site.side == side)
        for side in dict.fromkeys(site.side for site in sites)
    }


def _adapter_count(width: int, size: int) -> int:
    return 2 * width * size + size + width


class TaskEmbedding(nn.Module):
    """e of each layer of one side, for the task of the present batch."""

    def __init__(
        self, method: HyperFormer, tasks: nn.Parameter, layers: int, active: ActiveTask
    ) -> None:
        super().__init__()
        self.tasks, self.active = tasks, active
        self.layers = nn.Parameter(torch.empty(layers, method.embedding).normal_(std=0.02))
        first, second = (
            nn.Linear(2 * method.embedding, method.hidden),
            nn.Linear(method.hidden, method.projected),
        )
        self.network = nn.Sequential(
            init_normal(first),
            nn.ReLU(),
            init_normal(second),
            nn.LayerNorm(method.projected, eps=1e-6),
        )

    def forward(self, layer: Tensor) -> Tensor:
        """(projected,), of the layer with this number."""
        e: Tensor = self.network(
            torch.cat([self.tasks[self.active.index], functional.embedding(layer, self.layers)])
        )
        return e


class Generated(nn.Module):
    """An adapter that holds no weights of its own."""

    def __init__(
        self, site: Site, source: TaskEmbedding, generator: nn.Linear, method: HyperFormer
    ) -> None:
        super().__init__()
        self.source, self.generator = source, generator
        self.layer: Tensor
        self.register_buffer(
            "layer", torch.tensor(site.layer), persistent=False
        )  # a number would be another graph for each layer
        self.width, self.size, self.activation = (
            site.width,
            method.size,
            make_activation(method.activation),
        )

    def forward(self, h: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        down, low, up, high = self.weights()
        y: Tensor = functional.linear(self.activation(functional.linear(h, down, low)), up, high)
        return h + y

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """D (size, width), b (size,), U (width, size) and c (width,) for the task of the present batch."""
        matrix = self.width * self.size
        down, low, up, high = self.generator(self.source(self.layer)).split(
            [matrix, self.size, matrix, self.width]
        )
        return down.view(self.size, self.width), low, up.view(self.width, self.size), high
