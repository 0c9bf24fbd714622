"""VL-PET: adapters under a gate in the encoder, and beside the decoder's cross-attention values (Hu et al., ICCV 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vlpeft.baselines.adapter import Adapter, Bottleneck, Parallel
from vlpeft.baselines.compacter import Compacter
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import (
    Method,
    check_rank,
    find_layer_norms,
    init_normal,
    select_sites,
    unfreeze,
)
from vlpeft.benchmark.contract.sites import EncoderMask, Site, SiteKind, count
from vlpeft.benchmark.core.config import Positive, PositiveFloat
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register


@register("vl_pet", paper="Hu et al. 2023", needs=("sublayers", "linears", "encoder"))
@dataclass(frozen=True)
class VLPET(Method):
    """In the encoder, with X what a sub-layer reads, H what it gives and f a bottleneck: H1 = H + f(H), then scale G(X, H1) H1.

    G is one number an example (`small`), a token (`middleX`), a channel (`middleY`), or a token and channel (`large`). In
    the decoder, f(E) stands beside the value projection of cross-attention, E being the encoder's output. The paper's
    multi-head down-projection, heads side by side, is one linear map of all of H; nothing tells the two apart.

    `variant: release`, by which the published numbers were made, and `paper` differ by what small and middleX look at
    (X and H1; X and H) and by middleY's gate (1 + z; 1 + sigmoid(z)). The paper's table 9: `modules` puts the adapters of
    VL-Adapter or of Compacter under the gate, and behind the decoder's cross-attention. BART-base has `size: 96`.
    """

    gate: Literal["small", "middleX", "middleY", "large"] = "large"
    variant: Literal["release", "paper"] = "release"
    size: Positive = 16  # of the bottlenecks, and of the large gate's
    places: Annotated[tuple[SiteKind, ...], Field(min_length=1)] = (
        "self",
        "cross",
        "ffn",
    )  # sub-layers of the encoder
    modules: Literal["vl_pet", "adapter", "compacter"] = "vl_pet"
    scale: PositiveFloat = 1.0
    norms: bool = True  # the encoder's LayerNorms train
    release_padding: bool = (
        False  # small: the release averages over padding too, so that a result depends on its batch
    )

    def inject(self, backbone: Backbone) -> None:
        """Put gated bottlenecks into the encoder, plain ones into the decoder."""
        encoder, decoder = self._sites(backbone)
        self._check(backbone, decoder)
        unfreeze(self._norms(backbone))
        for site in encoder:
            check_rank(self.size, site.width, "size")
            reader = site.projections["up" if site.kind == "ffn" else "query"].slot.module
            bottleneck = self._maker.bottleneck(site.width, backbone)
            site.output.replace(
                Gated(
                    site.output.module,
                    bottleneck,
                    reader,
                    Gate(self, site.width, backbone.encoder_mask),
                    self,
                )
            )
        for site in decoder:
            if self.modules == "vl_pet":
                value = site.projections["value"].slot
                value.replace(
                    Beside(
                        value.module, Bottleneck(site.width, self.size, "gelu_new", residual=False)
                    )
                )
            else:
                site.output.replace(
                    nn.Sequential(site.output.module, self._maker.bottleneck(site.width, backbone))
                )

    def trainable(self, backbone: Backbone) -> int:
        """One bottleneck for each site; gates of 2 width + 1 (small), width + 1, width or a bottleneck (large); LayerNorms."""
        encoder, decoder = self._sites(backbone)
        total = sum(
            _bottleneck_count(self._maker, site.width) for site in (*encoder, *decoder)
        ) + count(self._norms(backbone))
        for site in encoder:
            large = _bottleneck_count(Adapter(self.size), site.width)
            total += {
                "small": 2 * site.width + 1,
                "middleX": site.width + 1,
                "middleY": site.width,
                "large": large,
            }[self.gate]
        return total

    @property
    def _maker(self) -> Adapter:
        made = Compacter if self.modules == "compacter" else Adapter
        return made(size=self.size, activation="gelu_new")

    def _sites(self, backbone: Backbone) -> tuple[list[Site], list[Site]]:
        """Those of the encoder, and the decoder's cross-attentions."""
        crossed = [
            site for site in backbone.sites if site.side == "decoder" and site.kind == "cross"
        ]
        return select_sites(backbone, self.places, ("encoder",)), crossed

    def _norms(self, backbone: Backbone) -> list[nn.Parameter]:
        return (
            [p for norm in find_layer_norms(backbone.encoder) for p in norm.parameters()]
            if self.norms
            else []
        )

    def _check(self, backbone: Backbone, decoder: list[Site]) -> None:
        """Refuse settings that would change nothing."""
        if self.variant == "paper" and self.gate == "large":
            raise UserError("variant: paper and release have the same large gate; leave it out")
        if self.release_padding and self.gate != "small":
            raise UserError(
                "release_padding: only the small gate averages over tokens; leave it out, or set `gate: small`"
            )
        if self.modules == "adapter" and not decoder:
            raise UserError(
                f"modules: adapter differs from vl_pet in a decoder alone, which {backbone.name} has not; leave it out"
            )


def _bottleneck_count(maker: Adapter, width: int) -> int:
    return maker.map_count(width, maker.size) + maker.map_count(maker.size, width)


class Gated(Parallel):
    """scale G(X, H1) H1 with H1 = H + f(H)."""

    def __init__(
        self,
        base: nn.Module,
        bottleneck: Bottleneck,
        reader: nn.Module,
        gate: nn.Module,
        method: VLPET,
    ) -> None:
        super().__init__(base, bottleneck, reader)
        self.gate, self.scale, self.sees_h = gate, method.scale, method.variant == "paper"

    def forward(self, h: Tensor) -> Tensor:
        """(batch, tokens, inputs of base) to (batch, tokens, width)."""
        h = self.base(h)
        modified = self.bottleneck(h)
        y: Tensor = self.gate(self.take(), h if self.sees_h else modified) * modified
        return y if self.scale == 1 else self.scale * y


class Gate(nn.Module):
    """G(x, h)."""

    def __init__(self, method: VLPET, width: int, mask: EncoderMask) -> None:
        super().__init__()
        self.kind, self.squash, self.mask = (
            method.gate,
            method.variant == "paper",
            None if method.release_padding else mask,
        )
        if self.kind == "middleY":
            self.z = nn.Parameter(torch.empty(width).normal_(std=0.02))
        elif self.kind == "large":
            self.score: nn.Module = Bottleneck(width, method.size, "gelu_new", residual=False)
        else:
            self.score = init_normal(nn.Linear(2 * width if self.kind == "small" else width, 1))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Two of (batch, tokens, width) to (batch, 1, 1), (batch, tokens, 1), (width,) or (batch, tokens, width)."""
        match self.kind:
            case "small":
                return self.mean(torch.sigmoid(self.score(torch.cat([x, h], -1))))
            case "middleX":
                return torch.sigmoid(self.score(x + h))
            case "middleY":
                return 1 + (torch.sigmoid(self.z) if self.squash else self.z)
            case "large":
                return torch.sigmoid(self.score(x))

    def mean(self, g: Tensor) -> Tensor:
        """Over tokens, (batch, tokens, 1) to (batch, 1, 1)."""
        if self.mask is None:
            return g.mean(1, keepdim=True)
        real = self.mask.value.to(g.dtype).unsqueeze(-1)
        return (g * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)


class Beside(nn.Module):
    """base(e) + f(e)."""

    def __init__(self, base: nn.Module, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.base, self.bottleneck = base, bottleneck

    def forward(self, e: Tensor) -> Tensor:
        """(..., width of e) to (..., width)."""
        y: Tensor = self.base(e) + self.bottleneck(e)
        return y
