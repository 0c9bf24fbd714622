"""(IA)3: learned factors on keys, values and the inner state of feed-forwards.

Liu et al., NeurIPS 2022 (arXiv 2205.05638):

    k <- l_k * (W_k x + b)        v <- l_v * (W_v x + b)        ffn: W_2 (l_ff * act(W_1 x))

All factors start at 1. Every attention has them, cross-attention included. t-few's code scales the
outputs of key and value, bias included, and so does this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from vlpeft.baselines.lora import Span
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.linear import scale_inputs, scale_outputs
from vlpeft.benchmark.contract.method import Method, select_sites, shape, targets
from vlpeft.benchmark.contract.sites import Site, SiteKind, Slot, TowerSide
from vlpeft.benchmark.core.registry import register

SCALED = ("key", "value")


@register("ia3", paper="Liu et al. 2022", needs=("linears",))
@dataclass(frozen=True)
class IA3(Method):
    """A learned factor for each feature of keys and values, and of the feed-forwards' inner state.

    `places` and `sides` narrow the choice. peft's own defaults differ from the paper: query and
    value for BART, for example, and the whole fused projection for GPT-2.
    """

    places: Annotated[tuple[SiteKind, ...], Field(min_length=1)] = ("self", "cross", "ffn")
    sides: Annotated[tuple[TowerSide, ...], Field(min_length=1)] = ("encoder", "decoder")

    def inject(self, backbone: Backbone) -> None:
        """Wrap what computes keys and values, and the second map of each feed-forward."""
        for slot, spans in self._outputs(backbone):
            slot.replace(ScaledOutputs(slot.module, spans))
        for slot in self._inputs(backbone):
            slot.replace(ScaledInputs(slot.module))

    def trainable(self, backbone: Backbone) -> int:
        """Count the outputs of keys and values, and the inputs of the second maps."""
        outputs = sum(stop - start for _, spans in self._outputs(backbone) for start, stop in spans)
        return outputs + sum(shape(slot.module)[0] for slot in self._inputs(backbone))

    def _sites(self, backbone: Backbone) -> list[Site]:
        return select_sites(backbone, self.places, self.sides)

    def _outputs(self, backbone: Backbone) -> list[tuple[Slot, tuple[Span, ...]]]:
        """Return the modules that compute keys and values, and the spans of these."""
        return list(targets(self._sites(backbone), SCALED))

    def _inputs(self, backbone: Backbone) -> Iterator[Slot]:
        """Yield the second map of each feed-forward."""
        for slot, _ in targets(self._sites(backbone), ("down",)):
            yield slot


class ScaledOutputs(nn.Module):
    """A linear map, some of whose outputs are multiplied by learned factors.

    Args:
        base: The map.
        spans: [start, stop) of the outputs, in order.
    """

    def __init__(self, base: nn.Module, spans: Sequence[Span]) -> None:
        super().__init__()
        _, self.outputs = shape(base)
        self.base = base
        self.spans = tuple(spans)
        self.factors = nn.Parameter(torch.ones(sum(stop - start for start, stop in spans)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        y: Tensor = self.base(x)
        return y * self._all_factors()

    def _all_factors(self) -> Tensor:
        """Return a factor for each output; it is 1 outside the spans."""
        pieces, done, taken = [], 0, 0
        for start, stop in self.spans:
            pieces.append(self.factors.new_ones(start - done))
            pieces.append(self.factors[taken : taken + stop - start])
            done, taken = stop, taken + stop - start
        pieces.append(self.factors.new_ones(self.outputs - done))
        return torch.cat(pieces)

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Return the map with the factors in its weight and bias."""
        return scale_outputs(self.base, self._all_factors())


class ScaledInputs(nn.Module):
    """A linear map whose inputs are multiplied by learned factors."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        inputs, _ = shape(base)
        self.base = base
        self.factors = nn.Parameter(torch.ones(inputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        y: Tensor = self.base(x * self.factors)
        return y

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Return the map with the factors in the columns of its weight."""
        return scale_inputs(self.base, self.factors)
