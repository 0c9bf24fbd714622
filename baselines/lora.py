"""LoRA: a low-rank update beside a frozen linear map (Hu et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import (
    LowRank,
    Method,
    PerTask,
    UnfreezeGroup,
    check_rank,
    check_roles,
    extra_parameters,
    select_sites,
    shape,
    targets,
    unfreeze,
)
from vlpeft.benchmark.contract.sites import SiteKind, Slot, TowerSide, count
from vlpeft.benchmark.core.config import Fraction, Positive, PositiveFloat, added_field
from vlpeft.benchmark.core.registry import register

Role = Literal["query", "key", "value", "output", "up", "down"]
Span = tuple[int, int]


@register("lora", paper="Hu et al. 2022", needs=("linears",))
@dataclass(frozen=True)
class LoRA(Method):
    """A low-rank update B A x, scaled by alpha / rank, beside the projections named in `targets`.

    `places` and `sides` narrow where: query and key of the decoder's attentions are `targets: [query, key]`,
    `places: [self, cross]`, `sides: [decoder]`. Query, key, value and output are an attention's, up and down a feed-forward's.
    `also_train` unfreezes `norms` (of the sites) and `target_biases` (of the adapted projections), as the routing-functions
    release does, or `biases` (all), as VL-Adapter does, or `all_norms`. `per_task` gives every task of a joint cell an update of
    its own (VL-Adapter's multiple LoRA).
    """

    rank: Positive = 8
    alpha: PositiveFloat = 16.0
    targets: Annotated[tuple[Role, ...], Field(min_length=1)] = ("query", "value")
    places: Annotated[tuple[SiteKind, ...], Field(min_length=1)] = ("self", "cross", "ffn")
    sides: Annotated[tuple[TowerSide, ...], Field(min_length=1)] = ("encoder", "decoder")
    dropout: Fraction = 0.0
    also_train: tuple[UnfreezeGroup | Literal["target_biases"], ...] = ()
    per_task: bool = added_field(False)

    def inject(self, backbone: Backbone) -> None:
        """Wrap every module that computes a target; a fused module is wrapped once."""
        check_roles(backbone, self.targets, select_sites(backbone, self.places, self.sides))
        unfreeze(self._extras(backbone))
        for slot, spans in self._targets(backbone):
            check_rank(
                self.rank,
                min(*shape(slot.module), *(stop - start for start, stop in spans)),
                "rank",
            )
            slot.replace(self._wrapped(slot.module, spans, backbone))

    def _wrapped(self, module: nn.Module, spans: Sequence[Span], backbone: Backbone) -> nn.Module:
        if self.per_task:
            return PerTask(lambda: self.wrap(module, spans, backbone), backbone.active_task)
        return self.wrap(module, spans, backbone)

    def wrap(self, module: nn.Module, spans: Sequence[Span], backbone: Backbone) -> LoRALinear:  # noqa: ARG002 - routing reads it
        """The module with its update."""
        return LoRALinear(module, spans, self.rank, self.alpha, self.dropout)

    def trainable(self, backbone: Backbone) -> int:
        """rank x (inputs + outputs) for each target, plus what `also_train` names."""
        total = 0
        for slot, spans in self._targets(backbone):
            inputs, _ = shape(slot.module)
            total += sum(self.rank * (inputs + stop - start) for start, stop in spans)
        return total * (backbone.active_task.count if self.per_task else 1) + count(
            self._extras(backbone)
        )

    def _targets(self, backbone: Backbone) -> list[tuple[Slot, tuple[Span, ...]]]:
        return list(targets(select_sites(backbone, self.places, self.sides), self.targets))

    def _extras(self, backbone: Backbone) -> list[nn.Parameter]:
        found = {
            id(p): p
            for p in extra_parameters(
                backbone, (g for g in self.also_train if g != "target_biases")
            )
        }
        if "target_biases" in self.also_train:
            modules = (slot.module for slot, _ in self._targets(backbone))
            found |= {
                id(p): p
                for module in modules
                for name, p in module.named_parameters()
                if name == "bias"
            }
        return list(found.values())


class LoRALinear(nn.Module):
    """A frozen linear map plus scale * B A x on each of its `spans`.

    A is (spans * rank, inputs): the down-projections of all spans, stacked. B is (outputs of all spans, rank).
    A starts uniform in +-1/sqrt(inputs) and B at zero, so the update starts at zero.
    """

    def __init__(
        self, base: nn.Module, spans: Sequence[Span], rank: int, alpha: float, dropout: float
    ) -> None:
        super().__init__()
        inputs, self.outputs = shape(base)
        self.base, self.spans, self.rank, self.scale = base, tuple(spans), rank, alpha / rank
        self.cuts = _cuts(spans, self.outputs)
        self.dropout = nn.Dropout(dropout)
        self.lora_a = nn.Parameter(torch.empty(len(spans) * rank, inputs))
        self.lora_b = nn.Parameter(torch.zeros(sum(stop - start for start, stop in spans), rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        y: Tensor = self.base(x)
        return self.add_update(y.flatten(0, -2), self.bottleneck(self.down(x)).flatten(0, -2)).view(
            y.shape
        )

    def down(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., spans * rank)."""
        return functional.linear(self.dropout(x), self.lora_a)

    def bottleneck(self, low: Tensor) -> Tensor:
        """What happens between the projections: nothing in LoRA, routing in its routed form."""
        return low

    def add_update(self, y: Tensor, low: Tensor) -> Tensor:
        """scale * B low, (tokens, spans * rank), added to the spans of y, (tokens, outputs); one fused product for each span."""
        lengths = [stop - start for start, stop in self.spans]
        updates = zip(
            low.chunk(len(self.spans), -1), self.lora_b.split_with_sizes(lengths), strict=True
        )
        parts = []
        for part, (_, adapted) in zip(
            y.split_with_sizes([size for size, _ in self.cuts], -1), self.cuts, strict=True
        ):
            if adapted:
                piece, b = next(updates)
                parts.append(torch.addmm(part, piece, b.T, alpha=self.scale))
            else:
                parts.append(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    @torch.no_grad()
    def delta_weight(self) -> Tensor:
        """The update as one matrix (outputs, inputs): what merging adds to the base weight."""
        down = self.lora_a.T  # row i is the bottleneck of unit input i
        return self.add_update(down.new_zeros(down.shape[0], self.outputs), down).T

    @torch.no_grad()
    def low_rank(self) -> LowRank:
        """The same as two factors: those of several spans lie in one, a block for each."""
        b = self.lora_b.new_zeros(self.outputs, len(self.spans) * self.rank)
        done = 0
        for i, (start, stop) in enumerate(self.spans):
            b[start:stop, i * self.rank : (i + 1) * self.rank] = self.lora_b[
                done : done + stop - start
            ]
            done += stop - start
        return LowRank(self.base, self.lora_a, b, self.scale)


def _cuts(spans: Sequence[Span], outputs: int) -> list[tuple[int, bool]]:
    """The outputs in order, as sizes of pieces: adapted or not."""
    found, done = [], 0
    for start, stop in spans:
        found += [(start - done, False), (stop - start, True)]
        done = stop
    return [(size, adapted) for size, adapted in [*found, (outputs - done, False)] if size]
