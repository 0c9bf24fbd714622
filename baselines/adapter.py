"""Adapter: a bottleneck with a nonlinearity at a frozen sub-layer.

It is put behind the sub-layer (Houlsby et al. 2019) or in parallel to it (He et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import Method, PerTask, check_rank, select_sites
from vlpeft.benchmark.contract.parameters import (
    UnfreezeGroup,
    extra_parameters,
    init_normal,
    unfreeze,
)
from vlpeft.benchmark.contract.sites import Site, SiteKind, TowerSide, count
from vlpeft.benchmark.core.config import Positive, added_field
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.libraries.transformers import make_activation
from vlpeft.benchmark.core.registry import register

AdapterPart = Literal["down", "up"]


@register("adapter", paper="Houlsby et al. 2019", needs=("sublayers",))
@dataclass(frozen=True)
class Adapter(Method):
    """A bottleneck f(h) = U act(D h + b) + c on sub-layers, before the block's residual.

    `form: sequential` turns a sub-layer's output h into h + f(h). `form: parallel` adds f(x) to it,
    where x is the input of the sub-layer: the query's input of an attention, or the
    up-projection's input of a feed-forward sub-layer. The p-Adapter release uses parallel adapters
    with `relu` on `places: [ffn]`.

    Both maps start from N(0, 0.02^2). `residual: false` and `share_in_block: true` are what the
    routing-functions release does on RoBERTa and on GPT-2.

    `also_train` unfreezes `norms` (of the sites), `all_norms` (as VL-Adapter does) or `biases`.

    In a joint cell, `per_task` gives every task its own copy of the down-projection, the
    up-projection or both. These are VL-Adapter's half-shared adapters (up shared: `per_task: down`;
    down shared: `per_task: up`) and its multiple adapters.
    """

    # 96 in VL-Adapter and p-Adapter. The routing release has 64 on RoBERTa and 128 on GPT-2.
    size: Positive = 16
    places: Annotated[tuple[SiteKind, ...], Field(min_length=1)] = ("self", "cross", "ffn")
    sides: Annotated[tuple[TowerSide, ...], Field(min_length=1)] = ("encoder", "decoder")
    form: Literal["sequential", "parallel"] = "sequential"
    # The routing release has gelu on RoBERTa, and gelu_new on GPT-2. VL-Adapter has gelu_new.
    activation: Literal["relu", "gelu", "gelu_new"] = "gelu"
    # Without it, a new adapter wipes out the frozen sub-layer: its own output starts near zero.
    residual: bool = True
    # True: one adapter per block, used behind all of its sub-layers.
    # The routing release on GPT-2 uses it behind the attention and again behind the MLP.
    share_in_block: bool = False
    # VL-Adapter trains all LayerNorms, the routing release those of the sites.
    also_train: tuple[UnfreezeGroup, ...] = ()
    # CLIP-BART trains 4.18 % with one adapter for all tasks. Half-shared ones are 8.36 %, separate
    # ones 12.22 %.
    per_task: Literal["nothing", "down", "up", "all"] = added_field("nothing")

    def inject(self, backbone: Backbone) -> None:
        """Put a bottleneck behind each chosen sub-layer, or in parallel to it."""
        if self.form == "parallel" and not self.residual:
            raise UserError(
                "residual: false replaces the output of a sub-layer; "
                "with `form: parallel` leave it true"
            )
        # The 4.18 % of VL-Adapter include all LayerNorms. Without them, size and scores both
        # change.
        unfreeze(extra_parameters(backbone, self.also_train))
        adapters: dict[str, Bottleneck] = {}
        for site in select_sites(backbone, self.places, self.sides):
            check_rank(self.size, site.width, "size")
            key = self._key(site)
            # With `share_in_block` several sites have the same key, and so the same weights.
            if key not in adapters:
                adapters[key] = self._make_adapter(site.width, backbone)
            site.output.replace(self._combine(site, adapters[key]))

    def bottleneck(self, width: int, backbone: Backbone) -> Bottleneck:
        """Return the module to add at a site of this width."""
        return Bottleneck(width, self.size, self.activation, self.inner_residual)

    @property
    def inner_residual(self) -> bool:
        """Whether the bottleneck adds its own input to its output.

        A parallel adapter does not: its input is not the tensor that it is added to.
        """
        return self.residual and self.form == "sequential"

    def trainable(self, backbone: Backbone) -> int:
        """Count (width + 1) x size + (size + 1) x width per distinct adapter.

        A map with copies for the tasks counts once per task. `also_train` comes on top.
        """
        sites = select_sites(backbone, self.places, self.sides)
        distinct = {self._key(site): site.width for site in sites}
        downs = self._copies("down", backbone)
        ups = self._copies("up", backbone)
        added = 0
        for width in distinct.values():
            added += downs * self.map_count(width, self.size)
            added += ups * self.map_count(self.size, width)
        return added + count(extra_parameters(backbone, self.also_train))

    def map_count(self, inputs: int, outputs: int) -> int:
        """Count the parameters of one of the two maps: its weight and its bias."""
        return (inputs + 1) * outputs

    def _copies(self, part: AdapterPart, backbone: Backbone) -> int:
        """Return the number of copies of a map: one, or one per task."""
        if self._is_per_task(part):
            return backbone.active_task.count
        return 1

    def _is_per_task(self, part: AdapterPart) -> bool:
        return self.per_task in (part, "all")

    def _make_adapter(self, width: int, backbone: Backbone) -> Bottleneck:
        """Return the module to add; its maps have copies where each task has its own."""
        adapter = self.bottleneck(width, backbone)
        parts: tuple[AdapterPart, ...] = ("down", "up")
        for part in parts:
            if self._is_per_task(part):
                make = partial(self._make_part, part, width, backbone)
                setattr(adapter, part, PerTask(make, backbone.active_task))
        return adapter

    def _make_part(self, part: AdapterPart, width: int, backbone: Backbone) -> nn.Module:
        # A whole bottleneck is drawn for each copy, so that Compacter gives its own maps here.
        new: nn.Module = getattr(self.bottleneck(width, backbone), part)
        return new

    def _combine(self, site: Site, bottleneck: Bottleneck) -> nn.Module:
        """Return the module that replaces the output of a sub-layer."""
        # Before dropout, residual and LayerNorm of the block, as in VL-Adapter.
        if self.form == "sequential":
            return nn.Sequential(site.output.module, bottleneck)
        return Parallel(site.output.module, bottleneck, input_reader(site))

    def _key(self, site: Site) -> str:
        """Return the same key for sites that share one adapter."""
        if self.share_in_block:
            return f"{site.side}.{site.layer}"
        return site.name


def input_reader(site: Site) -> nn.Module:
    """Return the module that reads the input of a sub-layer first."""
    if site.kind == "ffn":
        return site.projections["up"].slot.module
    return site.projections["query"].slot.module


class Bottleneck(nn.Module):
    """Down-projection, nonlinearity, up-projection, and an optional residual."""

    def __init__(self, width: int, size: int, activation: str, residual: bool) -> None:
        super().__init__()
        # The up-projection does not start at zero, in neither release: a new adapter changes the
        # output a little.
        # In VL-Adapter the init hook of Hugging Face draws both maps so, after the module's own
        # start.
        self.down: nn.Module = init_normal(nn.Linear(width, size))
        self.up: nn.Module = init_normal(nn.Linear(size, width))
        self.activation = make_activation(activation)
        self.residual = residual

    def forward(self, h: Tensor) -> Tensor:
        """Map (..., width) to (..., width)."""
        y: Tensor = self.up(self.activation(self.bottleneck(self.down(h))))
        if self.residual:
            return h + y
        return y

    def bottleneck(self, low: Tensor) -> Tensor:
        """Return `low`, (..., size), as it is; routing functions override this step."""
        return low


class Parallel(nn.Module):
    """base(h) + bottleneck(x), where x is the input of the sub-layer.

    Args:
        base: The module whose place this one takes; h is its input.
        bottleneck: The adapter.
        reader: A module that runs earlier in the forward and has x as its input.
    """

    def __init__(self, base: nn.Module, bottleneck: Bottleneck, reader: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.bottleneck = bottleneck
        self._read: Tensor | None = None
        # The sub-layer's forward belongs to transformers, so a hook is the only way to its input.
        reader.register_forward_pre_hook(self._keep)

    def forward(self, h: Tensor) -> Tensor:
        """Map (..., inputs of base) to (..., width)."""
        y: Tensor = self.base(h) + self.bottleneck(self.take())
        return y

    def take(self) -> Tensor:
        """Return the input of the sub-layer in this forward, (..., width), and forget it.

        Raises RuntimeError if the reader has not run. A stale input would give a wrong result.
        """
        if self._read is None:
            raise RuntimeError(
                "the sub-layer of this parallel adapter has read nothing in this forward"
            )
        x = self._read
        self._read = None
        return x

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._read = inputs[0]
