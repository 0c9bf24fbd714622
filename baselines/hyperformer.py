"""HyperFormer: a network generates the adapters of tasks and layers (Mahabadi et al., ACL 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import Method, check_rank, select_sites
from vlpeft.benchmark.contract.parameters import (
    UnfreezeGroup,
    extra_parameters,
    init_normal,
    unfreeze,
)
from vlpeft.benchmark.contract.sites import ActiveTask, Site, SiteKind, TowerSide, count
from vlpeft.benchmark.core.config import Positive
from vlpeft.benchmark.core.libraries.transformers import make_activation
from vlpeft.benchmark.core.registry import register


@register("hyperformer", paper="Mahabadi et al. 2021", needs=("sublayers",))
@dataclass(frozen=True)
class HyperFormer(Method):
    """Sequential adapters h + U act(D h + b) + c, generated for each task and each layer.

    e = LN(W2 relu(W1 [task; layer])) has `projected` numbers. It is computed once per layer of a
    side. One linear map per side and kind of sub-layer turns it into D, b, U and c.

    Both sides share the task embeddings. These start from N(0, 1). Layer embeddings and linear maps
    start from N(0, 0.02^2).

    The sizes are those of the VL-Adapter benchmark, except `size`, which is 96 there.
    """

    size: Positive = 16
    places: Annotated[tuple[SiteKind, ...], Field(min_length=1)] = ("self", "cross", "ffn")
    sides: Annotated[tuple[TowerSide, ...], Field(min_length=1)] = ("encoder", "decoder")
    activation: Literal["relu", "gelu", "gelu_new"] = "gelu_new"
    # The width of a task's embedding, and of a layer's.
    embedding: Positive = 512
    hidden: Positive = 128
    projected: Positive = 8
    # VL-Adapter's 5.79 % include all LayerNorms: set `all_norms` to reproduce them.
    also_train: tuple[UnfreezeGroup, ...] = ()

    def inject(self, backbone: Backbone) -> None:
        """Put a generated adapter behind each chosen sub-layer."""
        unfreeze(extra_parameters(backbone, self.also_train))
        sites = select_sites(backbone, self.places, self.sides)
        tasks = nn.Parameter(torch.randn(backbone.active_task.count, self.embedding))
        sources = {
            side: TaskEmbedding(self, tasks, layers, backbone.active_task)
            for side, layers in _count_layers(sites).items()
        }
        generators: dict[tuple[TowerSide, SiteKind], nn.Linear] = {}
        for site in sites:
            check_rank(self.size, site.width, "size")
            # VL-Adapter has one generator per stack and kind of block. Layers differ only through
            # e.
            key = (site.side, site.kind)
            if key not in generators:
                generators[key] = init_normal(
                    nn.Linear(self.projected, _adapter_count(site.width, self.size))
                )
            adapter = Generated(site, sources[site.side], generators[key], self)
            site.output.replace(nn.Sequential(site.output.module, adapter))

    def trainable(self, backbone: Backbone) -> int:
        """Count the embeddings, one network per side, and one generator per side and kind.

        `also_train` comes on top.
        """
        sites = select_sites(backbone, self.places, self.sides)
        layers = _count_layers(sites)
        generators = {
            (site.side, site.kind): (self.projected + 1) * _adapter_count(site.width, self.size)
            for site in sites
        }
        first = (2 * self.embedding + 1) * self.hidden
        second = (self.hidden + 1) * self.projected
        norm = 2 * self.projected
        network = first + second + norm
        embeddings = (backbone.active_task.count + sum(layers.values())) * self.embedding
        added = sum(generators.values()) + len(layers) * network + embeddings
        return added + count(extra_parameters(backbone, self.also_train))


def _count_layers(sites: list[Site]) -> dict[TowerSide, int]:
    """Return the number of layers per side."""
    layers: dict[TowerSide, int] = {}
    for site in sites:
        layers[site.side] = max(layers.get(site.side, 0), site.layer + 1)
    return layers


def _adapter_count(width: int, size: int) -> int:
    """Count the scalars of D, b, U and c."""
    return 2 * width * size + size + width


class TaskEmbedding(nn.Module):
    """The embedding e of each layer of one side, for the task of the current batch."""

    def __init__(
        self, method: HyperFormer, tasks: nn.Parameter, layers: int, active: ActiveTask
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.active = active
        self.layers = nn.Parameter(torch.empty(layers, method.embedding).normal_(std=0.02))
        # Both are built before either is initialised: each construction draws random numbers.
        first = nn.Linear(2 * method.embedding, method.hidden)
        second = nn.Linear(method.hidden, method.projected)
        self.network = nn.Sequential(
            init_normal(first),
            nn.ReLU(),
            init_normal(second),
            # The eps is that of VL-Adapter; torch's default is 1e-5.
            nn.LayerNorm(method.projected, eps=1e-6),
        )

    def forward(self, layer: Tensor) -> Tensor:
        """Return e, (projected,), of the layer with this number, a scalar tensor."""
        task = self.tasks[self.active.index]
        e: Tensor = self.network(torch.cat([task, functional.embedding(layer, self.layers)]))
        return e


class Generated(nn.Module):
    """An adapter without weights of its own."""

    def __init__(
        self, site: Site, source: TaskEmbedding, generator: nn.Linear, method: HyperFormer
    ) -> None:
        super().__init__()
        self.source = source
        self.generator = generator
        # A tensor: with a plain number the compiler would build another graph for each layer.
        self.layer: Tensor
        self.register_buffer("layer", torch.tensor(site.layer), persistent=False)
        self.width = site.width
        self.size = method.size
        self.activation = make_activation(method.activation)

    def forward(self, h: Tensor) -> Tensor:
        """Map (..., width) to (..., width)."""
        down, low, up, high = self.weights()
        y: Tensor = functional.linear(self.activation(functional.linear(h, down, low)), up, high)
        # VL-Adapter switches the LayerNorms inside these adapters off.
        return h + y

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return D (size, width), b (size,), U (width, size) and c (width,).

        They are those of the task of the current batch.
        """
        matrix = self.width * self.size
        down, low, up, high = self.generator(self.source(self.layer)).split(
            [matrix, self.size, matrix, self.width]
        )
        return down.view(self.size, self.width), low, up.view(self.width, self.size), high
