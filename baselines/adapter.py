"""Adapter: a bottleneck with a nonlinearity behind a frozen sub-layer (Houlsby et al. 2019), or beside it (He et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import (
    Method,
    PerTask,
    UnfreezeGroup,
    check_rank,
    extra_parameters,
    init_normal,
    select_sites,
    unfreeze,
)
from vlpeft.benchmark.contract.sites import Site, SiteKind, TowerSide, count
from vlpeft.benchmark.core.config import Positive, added_field
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.libraries.transformers import make_activation


@register("adapter", paper="Houlsby et al. 2019", needs=("sublayers",))
@dataclass(frozen=True)
class Adapter(Method):
    """A bottleneck f(h) = U act(D h + b) + c on sub-layers, before the block's residual.

    `form: sequential` makes a sub-layer's output h into h + f(h); `form: parallel` adds f(x) to it, where x is what the
    sub-layer reads (the query's input of an attention, the up-projection's of a feed-forward sub-layer). The p-adapter
    release puts `parallel` ones with `relu` on `places: [ffn]`.

    Both maps start from N(0, 0.02). `residual: false` and `share_in_block: true` are what the routing-functions
    release does on RoBERTa and on GPT-2. `also_train` unfreezes `norms` (of the sites), `all_norms`, as VL-Adapter does,
    or `biases`. In a joint cell, `per_task` gives every task its own copy of the down-projection, the up-projection or both:
    VL-Adapter's half-shared (up: `per_task: down`; down: `per_task: up`) and multiple adapters.
    """

    size: Positive = 16
    places: Annotated[tuple[SiteKind, ...], Field(min_length=1)] = ("self", "cross", "ffn")
    sides: Annotated[tuple[TowerSide, ...], Field(min_length=1)] = ("encoder", "decoder")
    form: Literal["sequential", "parallel"] = "sequential"
    activation: Literal["relu", "gelu", "gelu_new"] = "gelu"
    residual: bool = True
    share_in_block: bool = False  # one adapter a block, used behind all its sub-layers
    also_train: tuple[UnfreezeGroup, ...] = ()
    per_task: Literal["nothing", "down", "up", "all"] = added_field("nothing")

    def inject(self, backbone: Backbone) -> None:
        """Put a bottleneck behind or beside each chosen sub-layer."""
        if self.form == "parallel" and not self.residual:
            raise UserError(
                "residual: false replaces the output of a sub-layer; with `form: parallel` leave it true"
            )
        unfreeze(extra_parameters(backbone, self.also_train))
        made: dict[str, Bottleneck] = {}
        for site in select_sites(backbone, self.places, self.sides):
            check_rank(self.size, site.width, "size")
            key = self._key(site)
            if key not in made:
                made[key] = self._copied(site.width, backbone)
            site.output.replace(self._joined(site, made[key]))

    def bottleneck(self, width: int, backbone: Backbone) -> Bottleneck:  # noqa: ARG002 - routing reads it
        """The module to add."""
        return Bottleneck(width, self.size, self.activation, self.inner_residual)

    @property
    def inner_residual(self) -> bool:
        """Whether the bottleneck adds its own input to its output: a parallel one does not read what it is added to."""
        return self.residual and self.form == "sequential"

    def trainable(self, backbone: Backbone) -> int:
        """(width + 1) x size + (size + 1) x width for each distinct adapter, copies for tasks too, plus what `also_train` names."""
        distinct = {
            self._key(site): site.width for site in select_sites(backbone, self.places, self.sides)
        }
        downs, ups = (
            backbone.active_task.count if self.per_task in (part, "all") else 1
            for part in ("down", "up")
        )
        added = sum(
            downs * self.map_count(width, self.size) + ups * self.map_count(self.size, width)
            for width in distinct.values()
        )
        return added + count(extra_parameters(backbone, self.also_train))

    def _copied(self, width: int, backbone: Backbone) -> Bottleneck:
        """The module to add, with copies of the parts that every task has for itself."""
        made = self.bottleneck(width, backbone)
        for part in ("down", "up"):
            if self.per_task in (part, "all"):
                setattr(
                    made,
                    part,
                    PerTask(
                        lambda: getattr(self.bottleneck(width, backbone), part),
                        backbone.active_task,
                    ),
                )  # noqa: B023
        return made

    def map_count(self, inputs: int, outputs: int) -> int:
        """Parameters of one of the two maps."""
        return (inputs + 1) * outputs

    def _joined(self, site: Site, bottleneck: Bottleneck) -> nn.Module:
        if self.form == "sequential":
            return nn.Sequential(site.output.module, bottleneck)
        reader = site.projections["up" if site.kind == "ffn" else "query"].slot.module
        return Parallel(site.output.module, bottleneck, reader)

    def _key(self, site: Site) -> str:
        return f"{site.side}.{site.layer}" if self.share_in_block else site.name


class Bottleneck(nn.Module):
    """Down-projection, nonlinearity, up-projection, optional residual."""

    def __init__(self, width: int, size: int, activation: str, residual: bool) -> None:
        super().__init__()
        self.down: nn.Module = init_normal(nn.Linear(width, size))
        self.up: nn.Module = init_normal(nn.Linear(size, width))
        self.activation, self.residual = make_activation(activation), residual

    def forward(self, h: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        y: Tensor = self.up(self.activation(self.bottleneck(self.down(h))))
        return h + y if self.residual else y

    def bottleneck(self, low: Tensor) -> Tensor:
        """What happens behind the down-projection: nothing here, routing in the routed form."""
        return low


class Parallel(nn.Module):
    """base(h) + bottleneck(x), where h is what stood before `base` and x is what `reader`, run earlier in the forward, has read."""

    def __init__(self, base: nn.Module, bottleneck: Bottleneck, reader: nn.Module) -> None:
        super().__init__()
        self.base, self.bottleneck = base, bottleneck
        self._read: Tensor | None = None
        reader.register_forward_pre_hook(self._keep)

    def forward(self, h: Tensor) -> Tensor:
        """(..., inputs of base) to (..., width)."""
        y: Tensor = self.base(h) + self.bottleneck(self.take())
        return y

    def take(self) -> Tensor:
        """What the sub-layer has read in this forward."""
        if self._read is None:
            raise RuntimeError(
                "the sub-layer beside which this adapter stands has read nothing in this forward"
            )
        x, self._read = self._read, None
        return x

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:  # noqa: ARG002 - a hook's signature
        self._read = inputs[0]
