"""The Method contract, and the places (sites) of a backbone at which a method may act."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import Conv1D

from vlpeft.benchmark.contract.sites import (
    ActiveTask,
    Need,
    Projection,
    Site,
    SiteKind,
    Slot,
    TowerSide,
)
from vlpeft.benchmark.core.config import Config
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import Registry

if TYPE_CHECKING:
    from vlpeft.benchmark.contract.backbone import Backbone

METHODS: Registry[Any] = Registry("method", "vlpeft/baselines", "vlpeft/methods")

UnfreezeGroup = Literal["norms", "all_norms", "biases"]


class PerTask(nn.Module):
    """Copies of a module, one for each task of a joint cell (VL-Adapter's "multiple"); the batch's task chooses."""

    def __init__(self, make: Callable[[], nn.Module], active: ActiveTask) -> None:
        super().__init__()
        if active.count < 2:
            raise UserError(
                "per_task: this cell has one task; give the sweep a `joint:` entry under `tasks`, or leave `per_task` out"
            )
        self.copies, self.active = nn.ModuleList(make() for _ in range(active.count)), active

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the copy of the batch's task makes of it."""
        made: Tensor = self.copies[self.active.index](*inputs)
        return made


@runtime_checkable
class TrackedModule(Protocol):
    """A module with scalars worth following during training; they go into the record."""

    def scalars(self) -> Mapping[str, float]:
        """Present values by name; names are unique in the backbone."""


class LowRank(NamedTuple):
    """scale * B A beside a linear map: a (rank, inputs), b (outputs, rank)."""

    base: nn.Module
    a: Tensor
    b: Tensor
    scale: float


@runtime_checkable
class LowRankUpdate(Protocol):
    """A module that does nothing but add a low-rank matrix to a linear map: it can be merged into it, and written for peft."""

    def low_rank(self) -> LowRank:
        """The map and what is added to it. Raises UserError with the reason where there is no such matrix."""


@dataclass(frozen=True)
class Method(Config, ABC):
    """A way to adapt a frozen backbone. Its fields are its settings; `inject` acts on sites, never on a model class."""

    name: ClassVar[str]  # set by @register
    paper: ClassVar[str]  # set by @register
    needs: ClassVar[tuple[Need, ...]]  # set by @register

    @abstractmethod
    def inject(self, backbone: Backbone) -> None:
        """Add modules at sites and mark what trains. The backbone comes frozen, but for its task head."""

    @abstractmethod
    def trainable(self, backbone: Backbone) -> int:
        """Closed-form count of what this method trains, the task head aside, before anything is injected."""


def apply(method: Method, backbone: Backbone) -> None:
    """Freeze the backbone, inject the method, leave the task head training."""
    backbone.requires_grad_(False)
    method.inject(backbone)
    for parameter in backbone.head_parameters():
        parameter.requires_grad_(True)


def shape(module: nn.Module) -> tuple[int, int]:
    """(in, out) features of a linear map, stored as nn.Linear or as GPT-2's transposed Conv1D."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    raise UserError(
        f"{type(module).__name__} is not a linear map; is another method already injected here?"
    )


def targets(
    sites: Iterable[Site], roles: Iterable[str]
) -> Iterator[tuple[Slot, tuple[tuple[int, int], ...]]]:
    """Group the named projections by the module that computes them: a fused module comes once, with several spans."""
    roles = tuple(roles)
    for site in sites:
        grouped: dict[int, list[Projection]] = {}
        for role, projection in site.projections.items():
            if role in roles:
                grouped.setdefault(id(projection.slot.module), []).append(projection)
        for members in grouped.values():
            yield members[0].slot, tuple(p.span for p in members)


def select_sites(
    backbone: Backbone, places: Iterable[SiteKind], sides: Iterable[TowerSide]
) -> list[Site]:
    """Sites of these kinds on these sides. Raises UserError if the backbone has none: a method that acts nowhere is a slip."""
    places, sides = tuple(places), tuple(sides)
    found = [site for site in backbone.sites if site.kind in places and site.side in sides]
    if not found:
        known = dict.fromkeys(f"{site.side} {site.kind}" for site in backbone.sites)
        raise UserError(
            f"places, sides: {backbone.name} has no {'/'.join(sides)} {'/'.join(places)}; it has: {', '.join(known)}"
        )
    return found


def check_roles(
    backbone: Backbone, roles: Iterable[str], sites: Iterable[Site] | None = None
) -> None:
    """Refuse a projection name that none of the sites (all of the backbone's unless given) has."""
    known = {
        role for site in (backbone.sites if sites is None else sites) for role in site.projections
    }
    for role in roles:
        if role not in known:
            where = "site" if sites is None else "chosen site"
            raise UserError(
                f"targets: no {where} of {backbone.name} has a projection '{role}'; known: {', '.join(sorted(known))}"
            )


def check_rank(rank: int, width: int, setting: str) -> None:
    """Refuse a bottleneck that is no bottleneck."""
    if rank > width:
        raise UserError(
            f"{setting}: {rank} is larger than the width {width} it is to compress; choose at most {width}"
        )


def extra_parameters(backbone: Backbone, groups: Iterable[UnfreezeGroup]) -> list[nn.Parameter]:
    """Frozen parameters that `also_train` names: LayerNorms of the sites, all LayerNorms, or all biases of the language tower."""
    groups = set(groups)
    found: list[nn.Parameter] = []
    for group in ("norms", "all_norms"):
        if group in groups:
            found += [
                p
                for norm in layer_norms(backbone, everywhere=group == "all_norms")
                for p in norm.parameters()
            ]
    if "biases" in groups:
        found += [p for name, p in backbone.text.named_parameters() if name.endswith("bias")]
    return list({id(p): p for p in found}.values())


def layer_norms(backbone: Backbone, *, everywhere: bool) -> list[nn.Module]:
    """LayerNorms of the sites, or `everywhere` in the language tower."""
    return find_layer_norms(backbone.text) if everywhere else [site.norm for site in backbone.sites]


def find_layer_norms(module: nn.Module) -> list[nn.Module]:
    """All LayerNorms of a module."""
    return [each for each in module.modules() if isinstance(each, nn.LayerNorm)]


def unfreeze(parameters: Iterable[nn.Parameter]) -> None:
    """Mark parameters as trainable."""
    for parameter in parameters:
        parameter.requires_grad_(True)


@torch.no_grad()
def init_normal(linear: nn.Linear, std: float = 0.02) -> nn.Linear:
    """N(0, std) weight and zero bias: how Hugging Face models initialise keys missing from a checkpoint."""
    nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
    return linear
