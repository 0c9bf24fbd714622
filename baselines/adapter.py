"""Adapter: a bottleneck with a nonlinearity behind a frozen sub-layer (Houlsby et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from transformers.activations import ACT2FN

from benchmark.backbones.base import Backbone
from benchmark.config import Positive
from benchmark.method import Method, Site, check_rank, init_normal, unfreeze
from benchmark.registry import register

Place = Literal["attention", "ffn"]


@register("adapter", paper="Houlsby et al. 2019", needs=("sublayers",))
@dataclass(frozen=True)
class Adapter(Method):
    """h + U act(D h + b) + c on the output of sub-layers, before the block's residual.

    Both maps start from N(0, 0.02). `residual: false` and `share_in_block: true` are what the routing-functions
    release does on RoBERTa and on GPT-2.
    """

    size: Positive = 16
    places: Annotated[tuple[Place, ...], Field(min_length=1)] = ("attention", "ffn")
    activation: Literal["relu", "gelu", "gelu_new"] = "gelu"
    residual: bool = True
    share_in_block: bool = False  # one adapter a block, used behind both sub-layers
    also_train: tuple[Literal["norms"], ...] = ()

    def inject(self, backbone: Backbone) -> None:
        """Put a bottleneck behind each chosen sub-layer."""
        made: dict[str, Bottleneck] = {}
        for site in self._sites(backbone):
            check_rank(self.size, site.width, "size")
            key = self._key(site)
            if key not in made:
                made[key] = self.bottleneck(site.width, backbone)
            site.output.replace(nn.Sequential(site.output.module, made[key]))
        if self.also_train:
            unfreeze(p for site in backbone.sites for p in site.norm.parameters())

    def bottleneck(self, width: int, backbone: Backbone) -> Bottleneck:  # noqa: ARG002 - routing reads it
        """The module to add."""
        return Bottleneck(width, self.size, self.activation, self.residual)

    def trainable(self, backbone: Backbone) -> int:
        """2 x width x size + width + size for each distinct adapter, plus what `also_train` names."""
        distinct = {self._key(site): site.width for site in self._sites(backbone)}
        norms = sum(p.numel() for site in backbone.sites for p in site.norm.parameters())
        return sum(2 * width * self.size + width + self.size for width in distinct.values()) + (norms if self.also_train else 0)

    def _sites(self, backbone: Backbone) -> list[Site]:
        return [site for site in backbone.sites if ("ffn" if site.kind == "ffn" else "attention") in self.places]

    def _key(self, site: Site) -> str:
        return f"{site.side}.{site.layer}" if self.share_in_block else site.name


class Bottleneck(nn.Module):
    """Down-projection, nonlinearity, up-projection, optional residual."""

    def __init__(self, width: int, size: int, activation: str, residual: bool) -> None:
        super().__init__()
        self.down = init_normal(nn.Linear(width, size))
        self.up = init_normal(nn.Linear(size, width))
        self.activation, self.residual = ACT2FN[activation], residual

    def forward(self, h: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        y: Tensor = self.up(self.activation(self.bottleneck(self.down(h))))
        return h + y if self.residual else y

    def bottleneck(self, low: Tensor) -> Tensor:
        """What happens behind the down-projection: nothing here, routing in the routed form."""
        return low
