"""VL-PET: gated adapters in the encoder, and adapters parallel to value projections in the decoder.

Hu et al., ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vlpeft.baselines.adapter import Adapter, Bottleneck, Parallel, input_reader
from vlpeft.baselines.compacter import Compacter
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import Method, check_rank, select_sites
from vlpeft.benchmark.contract.parameters import find_layer_norms, init_normal, unfreeze
from vlpeft.benchmark.contract.sites import EncoderMask, Site, SiteKind, count
from vlpeft.benchmark.core.config import Positive, PositiveFloat
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register


@register("vl_pet", paper="Hu et al. 2023", needs=("sublayers", "linears", "encoder"))
@dataclass(frozen=True)
class VLPET(Method):
    """Gated bottlenecks in the encoder, and plain ones in the decoder.

    In the encoder, X is the input of a sub-layer, H is its output and f is a bottleneck. The method
    computes H1 = H + f(H), then scale G(X, H1) H1. The gate G is one number per example (`small`),
    per token (`middleX`), per channel (`middleY`), or per token and channel (`large`).

    In the decoder, f(E) is added to the value projection of cross-attention, where E is the
    encoder's output. The paper has a multi-head down-projection, with one head next to the other.
    That equals one linear map of all of H.

    `variant: release` made the published numbers. `variant: paper` differs in two points. Small and
    middleX read X and H, in place of X and H1. The gate of middleY is 1 + sigmoid(z), in place of
    1 + z.

    Table 9 of the paper: `modules` puts the adapters of VL-Adapter or of Compacter under the gate,
    and behind the decoder's cross-attention. BART-base has `size: 96`.
    """

    gate: Literal["small", "middleX", "middleY", "large"] = "large"
    # Parameter counts are the same in both, so they cannot show which one was run.
    variant: Literal["release", "paper"] = "release"
    # The size of the bottlenecks, and of the large gate's bottleneck.
    size: Positive = 16
    # Sub-layers of the encoder.
    places: Annotated[tuple[SiteKind, ...], Field(min_length=1)] = ("self", "cross", "ffn")
    modules: Literal["vl_pet", "adapter", "compacter"] = "vl_pet"
    # 1 on BART-base, 0.3 on T5-base.
    scale: PositiveFloat = 1.0
    # True: the encoder's LayerNorms train. The decoder's stay frozen, as in the release.
    norms: bool = True
    # The small gate of the release averages over padding too, so a result depends on its batch.
    release_padding: bool = False

    def inject(self, backbone: Backbone) -> None:
        """Put gated bottlenecks into the encoder, and plain ones into the decoder."""
        encoder, decoder = self._select_sites(backbone)
        self._check(backbone, decoder)
        unfreeze(self._norm_parameters(backbone))
        for site in encoder:
            check_rank(self.size, site.width, "size")
            site.output.replace(self._make_gated(site, backbone))
        for site in decoder:
            if self.modules == "vl_pet":
                value = site.projections["value"].slot
                bottleneck = Bottleneck(site.width, self.size, "gelu_new", residual=False)
                # The value projection only, with no gate and no scale.
                value.replace(ParallelBottleneck(value.module, bottleneck))
            else:
                # Only cross-attention keeps the module of the original method, as the authors say
                # in issue 4 of their repository.
                adapter = self._adapter_method.bottleneck(site.width, backbone)
                site.output.replace(nn.Sequential(site.output.module, adapter))

    def trainable(self, backbone: Backbone) -> int:
        """Count one bottleneck per site, one gate per site of the encoder, and its LayerNorms.

        The gates have 2 width + 1 (small), width + 1 (middleX) or width (middleY) parameters, or
        those of a bottleneck (large).
        """
        encoder, decoder = self._select_sites(backbone)
        total = count(self._norm_parameters(backbone))
        for site in (*encoder, *decoder):
            total += _bottleneck_count(self._adapter_method, site.width)
        for site in encoder:
            total += self._gate_count(site.width)
        return total

    def _gate_count(self, width: int) -> int:
        match self.gate:
            case "small":
                return 2 * width + 1
            case "middleX":
                return width + 1
            case "middleY":
                return width
            case "large":
                return _bottleneck_count(Adapter(self.size), width)

    def _make_gated(self, site: Site, backbone: Backbone) -> Gated:
        # The bottleneck is drawn before the gate, as in every result measured so far.
        bottleneck = self._adapter_method.bottleneck(site.width, backbone)
        gate = Gate(self, site.width, backbone.encoder_mask)
        return Gated(site.output.module, bottleneck, input_reader(site), gate, self)

    @property
    def _adapter_method(self) -> Adapter:
        """The method whose bottlenecks are put under the gate."""
        if self.modules == "compacter":
            return Compacter(size=self.size, activation="gelu_new")
        return Adapter(size=self.size, activation="gelu_new")

    def _select_sites(self, backbone: Backbone) -> tuple[list[Site], list[Site]]:
        """Return the sites of the encoder, and the decoder's cross-attentions."""
        encoder = select_sites(backbone, self.places, ("encoder",))
        decoder = [
            site for site in backbone.sites if site.side == "decoder" and site.kind == "cross"
        ]
        return encoder, decoder

    def _norm_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        if not self.norms:
            return []
        return [p for norm in find_layer_norms(backbone.encoder) for p in norm.parameters()]

    def _check(self, backbone: Backbone, decoder: Sequence[Site]) -> None:
        """Refuse settings without an effect."""
        if self.variant == "paper" and self.gate == "large":
            raise UserError("variant: paper and release have the same large gate; leave it out")
        if self.release_padding and self.gate != "small":
            raise UserError(
                "release_padding: only the small gate averages over tokens; "
                "leave it out, or set `gate: small`"
            )
        if self.modules == "adapter" and not decoder:
            raise UserError(
                "modules: adapter differs from vl_pet only in a decoder, "
                f"and {backbone.name} has none; leave it out"
            )


def _bottleneck_count(method: Adapter, width: int) -> int:
    return method.map_count(width, method.size) + method.map_count(method.size, width)


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
        self.gate = gate
        self.scale = method.scale
        self.gate_reads_h = method.variant == "paper"

    def forward(self, h: Tensor) -> Tensor:
        """Map (batch, tokens, inputs of base) to (batch, tokens, width)."""
        h = self.base(h)
        # H1 = H + f(H): the bottleneck has its own residual.
        modified = self.bottleneck(h)
        # Fig. 3 of the paper gates on X and H. The code gates on X and H1, after the bottleneck.
        if not self.gate_reads_h:
            h = modified
        y: Tensor = self.gate(self.take(), h) * modified
        # The release runs no multiplication at scale 1 either.
        if self.scale == 1:
            return y
        return self.scale * y


class Gate(nn.Module):
    """The gate G(x, h).

    Raw scores go through a sigmoid, except in the release's middleY gate.
    """

    def __init__(self, method: VLPET, width: int, mask: EncoderMask) -> None:
        super().__init__()
        self.kind = method.gate
        self.squash = method.variant == "paper"
        self.mask: EncoderMask | None = mask
        if method.release_padding:
            self.mask = None
        self.score: nn.Module
        match self.kind:
            case "small":
                self.score = init_normal(nn.Linear(2 * width, 1))
            case "middleX":
                self.score = init_normal(nn.Linear(width, 1))
            case "middleY":
                # z starts near 0, so this gate starts near 1. The other gates start near 1/2: at
                # first they halve the encoder's sub-layers.
                self.z = nn.Parameter(torch.empty(width).normal_(std=0.02))
            case "large":
                self.score = Bottleneck(width, method.size, "gelu_new", residual=False)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the gate of two tensors (batch, tokens, width).

        Its shape is (batch, 1, 1) for small, (batch, tokens, 1) for middleX, (width,) for middleY
        and (batch, tokens, width) for large.
        """
        match self.kind:
            case "small":
                return self.mean(torch.sigmoid(self.score(torch.cat([x, h], -1))))
            case "middleX":
                return torch.sigmoid(self.score(x + h))
            case "middleY":
                # The same factors for all tokens and examples; z starts near 0.
                return 1 + self._channel_gate()
            case "large":
                return torch.sigmoid(self.score(x))

    def mean(self, g: Tensor) -> Tensor:
        """Average over tokens, (batch, tokens, 1) to (batch, 1, 1); padding does not count."""
        if self.mask is None:
            # As in the release: the same example has another gate in a batch with longer texts.
            return g.mean(1, keepdim=True)
        real = self.mask.value.to(g.dtype).unsqueeze(-1)
        return (g * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)

    def _channel_gate(self) -> Tensor:
        if self.squash:
            return torch.sigmoid(self.z)
        return self.z


class ParallelBottleneck(nn.Module):
    """base(e) + f(e)."""

    def __init__(self, base: nn.Module, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.base = base
        self.bottleneck = bottleneck

    def forward(self, e: Tensor) -> Tensor:
        """Map (..., width of e) to (..., width)."""
        y: Tensor = self.base(e) + self.bottleneck(e)
        return y
