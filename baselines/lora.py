"""LoRA: a low-rank update of a frozen linear map (Hu et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
    check_rank,
    check_roles,
    select_sites,
    shape,
    targets,
)
from vlpeft.benchmark.contract.parameters import UnfreezeGroup, extra_parameters, unfreeze
from vlpeft.benchmark.contract.sites import SiteKind, Slot, TowerSide, count
from vlpeft.benchmark.core.config import Fraction, Positive, PositiveFloat, added_field
from vlpeft.benchmark.core.registry import register

Role = Literal["query", "key", "value", "output", "up", "down"]
# [start, stop) among the output features of a module.
Span = tuple[int, int]


@register("lora", paper="Hu et al. 2022", needs=("linears",))
@dataclass(frozen=True)
class LoRA(Method):
    """A low-rank update B A x, scaled by alpha / rank, of the projections named in `targets`.

    Query, key, value and output belong to an attention; up and down to a feed-forward sub-layer.
    `places` and `sides` narrow the choice. Query and key of the decoder's attentions, for example,
    are `targets: [query, key]`, `places: [self, cross]`, `sides: [decoder]`.

    `also_train` unfreezes `norms` (of the sites) and `target_biases` (of the adapted projections),
    as the routing-functions release does, `biases` (all), as VL-Adapter does, or `all_norms`.

    `per_task` gives every task of a joint cell an update of its own (VL-Adapter's multiple LoRA).
    """

    # 128 in VL-Adapter and in the routing release. The settings of p-Adapter's release have 8.
    rank: Positive = 8
    # The scale is alpha / rank: 1 in the routing release (128 / 128), 1/4 in VL-Adapter (32 / 128).
    alpha: PositiveFloat = 16.0
    # VL-Adapter: query and value of all 18 attentions of BART-base, 36 matrices.
    targets: Annotated[tuple[Role, ...], Field(min_length=1)] = ("query", "value")
    places: Annotated[tuple[SiteKind, ...], Field(min_length=1)] = ("self", "cross", "ffn")
    sides: Annotated[tuple[TowerSide, ...], Field(min_length=1)] = ("encoder", "decoder")
    # Dropout of the input of A. The routing release uses 0, VL-Adapter 0.1.
    dropout: Fraction = 0.0
    # VL-Adapter's LoRA trains every bias as well, and its 5.93 % include them.
    also_train: tuple[UnfreezeGroup | Literal["target_biases"], ...] = ()
    per_task: bool = added_field(False)

    def inject(self, backbone: Backbone) -> None:
        """Wrap every module that computes a target; a fused module is wrapped once."""
        check_roles(backbone, self.targets, select_sites(backbone, self.places, self.sides))
        unfreeze(self._extra_parameters(backbone))
        for slot, spans in self._targets(backbone):
            check_rank(self.rank, _narrowest(slot.module, spans), "rank")
            slot.replace(self._wrap_per_task(slot.module, spans, backbone))

    def wrap(self, module: nn.Module, spans: Sequence[Span], backbone: Backbone) -> LoRALinear:
        """Return the module with its update."""
        return LoRALinear(module, spans, self.rank, self.alpha, self.dropout)

    def trainable(self, backbone: Backbone) -> int:
        """Count rank x (inputs + outputs) per target; `also_train` comes on top."""
        total = 0
        for slot, spans in self._targets(backbone):
            inputs, _ = shape(slot.module)
            total += sum(self.rank * (inputs + stop - start) for start, stop in spans)
        # Only the updates are copied. What `also_train` unfreezes is shared by the tasks.
        if self.per_task:
            total *= backbone.active_task.count
        return total + count(self._extra_parameters(backbone))

    def _wrap_per_task(
        self, module: nn.Module, spans: Sequence[Span], backbone: Backbone
    ) -> nn.Module:
        wrap = partial(self.wrap, module, spans, backbone)
        if self.per_task:
            return PerTask(wrap, backbone.active_task)
        return wrap()

    def _targets(self, backbone: Backbone) -> list[tuple[Slot, tuple[Span, ...]]]:
        """Return the modules to adapt, and the spans of their outputs."""
        return list(targets(select_sites(backbone, self.places, self.sides), self.targets))

    def _extra_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        """Return the frozen parameters that `also_train` names, each once."""
        groups = [group for group in self.also_train if group != "target_biases"]
        found = extra_parameters(backbone, groups)
        if "target_biases" in self.also_train:
            for slot, _ in self._targets(backbone):
                found += [p for name, p in slot.module.named_parameters() if name == "bias"]
        return list({id(p): p for p in found}.values())


def _narrowest(module: nn.Module, spans: Sequence[Span]) -> int:
    """Return the smallest width that an update of these spans reads or writes."""
    return min(*shape(module), *(stop - start for start, stop in spans))


class LoRALinear(nn.Module):
    """A frozen linear map plus scale * B A x on each of its `spans`.

    A is (spans * rank, inputs): the down-projections of all spans, stacked. B is (outputs of all
    spans, rank). So every target has its own update, in a fused projection too.

    A starts uniform in +-1/sqrt(inputs) and B at zero. The update therefore starts at zero.
    """

    def __init__(
        self, base: nn.Module, spans: Sequence[Span], rank: int, alpha: float, dropout: float
    ) -> None:
        super().__init__()
        inputs, self.outputs = shape(base)
        self.base = base
        self.spans = tuple(spans)
        self.rank = rank
        self.scale = alpha / rank
        self.cuts = _cut_outputs(spans, self.outputs)
        # Only the update sees this dropout; the frozen map reads its input unchanged.
        self.dropout = nn.Dropout(dropout)
        self.lora_a = nn.Parameter(torch.empty(len(spans) * rank, inputs))
        self.lora_b = nn.Parameter(torch.zeros(sum(stop - start for start, stop in spans), rank))
        # With a = sqrt 5 the bound is 1/sqrt(inputs): the default of nn.Linear, and loralib's.
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        y: Tensor = self.base(x)
        low = self.bottleneck(self.down(x))
        return self.add_update(y.flatten(0, -2), low.flatten(0, -2)).view(y.shape)

    def down(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., spans * rank)."""
        return functional.linear(self.dropout(x), self.lora_a)

    def bottleneck(self, low: Tensor) -> Tensor:
        """Return `low`, (..., spans * rank), as it is; routing functions override this step."""
        return low

    def add_update(self, y: Tensor, low: Tensor) -> Tensor:
        """Add scale * B low to the spans of y, (tokens, outputs), and return the sum.

        `low` is (tokens, spans * rank). Each span is one fused product (addmm), so that no update
        of the size of y is stored.
        """
        lengths = [stop - start for start, stop in self.spans]
        updates = zip(
            low.chunk(len(self.spans), -1), self.lora_b.split_with_sizes(lengths), strict=True
        )
        pieces = y.split_with_sizes([size for size, _ in self.cuts], -1)
        parts = []
        for part, (_, adapted) in zip(pieces, self.cuts, strict=True):
            if adapted:
                piece, b = next(updates)
                parts.append(torch.addmm(part, piece, b.T, alpha=self.scale))
            else:
                parts.append(part)
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts, -1)

    @torch.no_grad()
    def delta_weight(self) -> Tensor:
        """Return the update as one matrix, (outputs, inputs); merging adds it to the base."""
        # Row i is the bottleneck of the i-th unit vector.
        down = self.lora_a.T
        return self.add_update(down.new_zeros(down.shape[0], self.outputs), down).T

    @torch.no_grad()
    def low_rank(self) -> LowRank:
        """Return the update as two factors; the spans are blocks of one B."""
        b = self.lora_b.new_zeros(self.outputs, len(self.spans) * self.rank)
        done = 0
        for i, (start, stop) in enumerate(self.spans):
            rows = self.lora_b[done : done + stop - start]
            b[start:stop, i * self.rank : (i + 1) * self.rank] = rows
            done += stop - start
        return LowRank(self.base, self.lora_a, b, self.scale)


def _cut_outputs(spans: Sequence[Span], outputs: int) -> list[tuple[int, bool]]:
    """Cut the outputs into pieces, in order.

    Each piece is its size, and True if the piece is adapted. Empty pieces are left out.
    """
    pieces = []
    done = 0
    for start, stop in spans:
        pieces += [(start - done, False), (stop - start, True)]
        done = stop
    pieces.append((outputs - done, False))
    return [(size, adapted) for size, adapted in pieces if size]
