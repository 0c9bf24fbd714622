"""The method contract, and helpers that most methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, cast, runtime_checkable

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

if TYPE_CHECKING:
    from vlpeft.benchmark.contract.backbone import Backbone


class PerTask(nn.Module):
    """Copies of a module, one per task of a joint cell; the batch's task chooses.

    VL-Adapter (Sung et al. 2022) calls this "multiple" adapters.

    Args:
        make: A function that returns a new copy. The copies start from different random numbers.
        active: The task of the current batch.

    Raises:
        UserError: If the cell has one task only.
    """

    def __init__(self, make: Callable[[], nn.Module], active: ActiveTask) -> None:
        super().__init__()
        if active.count < 2:
            raise UserError(
                "per_task: this cell has one task; "
                "give the sweep a `joint:` entry under `tasks`, or leave `per_task` out"
            )
        # Copies are drawn one after the other, so they start from different weights.
        self.copies = nn.ModuleList(make() for _ in range(active.count))
        self.active = active

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run the copy of the batch's task; shapes are those of the copied module."""
        output: Tensor = self.copies[self.active.index](*inputs)
        return output


@runtime_checkable
class TrackedModule(Protocol):
    """A module with scalars to follow during training; the record keeps them."""

    def scalars(self) -> Mapping[str, float]:
        """Return the current values by name.

        Returns:
            Values under names that are unique in the backbone.

        Raises:
            UserError: If a value makes the rest of the training useless.
        """


@cache
def _is_tracked(kind: type) -> bool:
    """Return whether modules of a class have scalars. To compare with a protocol is slow."""
    return issubclass(kind, TrackedModule)


def tracked_modules(model: nn.Module) -> Iterator[TrackedModule]:
    """Yield the modules of a model that have scalars to follow."""
    for module in model.modules():
        if _is_tracked(type(module)):  # type: ignore[arg-type] # a class has a hash
            yield cast("TrackedModule", module)


class LowRank(NamedTuple):
    """A low-rank update of a linear map: W becomes W + scale * B A.

    Shapes:
        a: (rank, inputs).
        b: (outputs, rank).
    """

    base: nn.Module
    a: Tensor
    b: Tensor
    scale: float


@runtime_checkable
class LowRankUpdate(Protocol):
    """A module that only adds a low-rank matrix to a linear map.

    Such a matrix can be merged into the map, and written in the format of the peft library.
    """

    def low_rank(self) -> LowRank:
        """Return the map and its update.

        Returns:
            The map, the two factors and the scale; see `LowRank` for the shapes.

        Raises:
            UserError: If there is no such matrix; the message gives the reason.
        """


@dataclass(frozen=True)
class Method(Config, ABC):
    """A way to adapt a frozen backbone.

    The fields are the settings. `inject` acts on sites and never on a model class.
    """

    # The decorator @register sets these three.
    name: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]]

    @abstractmethod
    def inject(self, backbone: Backbone) -> None:
        """Add modules at sites and mark the parameters that train.

        Args:
            backbone: The backbone. All of its parameters are frozen at this point.

        Raises:
            UserError: If a setting does not fit the backbone.
        """

    @abstractmethod
    def trainable(self, backbone: Backbone) -> int:
        """Count what this method trains, in closed form and before anything is injected.

        Tests compare this number with the parameters of the injected model. A mistake in either
        of the two shows there.

        Args:
            backbone: The backbone without the method.

        Returns:
            The number of scalars, without the task head.

        Raises:
            UserError: If a setting does not fit the backbone.
        """


def apply(method: Method, backbone: Backbone) -> None:
    """Freeze the backbone, inject the method, and let the task head train.

    Args:
        method: The method.
        backbone: A backbone without a method.

    Raises:
        UserError: If a setting of the method does not fit the backbone.
    """
    # First, so that the modules which the method adds train.
    backbone.requires_grad_(False)
    method.inject(backbone)
    # Last, because a head has no pretrained weights: frozen, it would stay random.
    for parameter in backbone.head_parameters():
        parameter.requires_grad_(True)


def shape(module: nn.Module) -> tuple[int, int]:
    """Return the size of a linear map.

    Args:
        module: An nn.Linear, or a Conv1D: GPT-2's linear map, which stores its weight transposed.

    Returns:
        The numbers of input and output features.

    Raises:
        UserError: If the module is not a linear map.
    """
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
    """Group projections by the module that computes them.

    Args:
        sites: The sites to search.
        roles: The names of the projections, such as `query` and `value`.

    Yields:
        The slot of a module, and the spans of its outputs. A fused module comes once and has
        several spans.
    """
    # Read once, since the caller may pass an iterator.
    roles = tuple(roles)
    for site in sites:
        grouped: dict[int, list[Projection]] = {}
        for role, projection in site.projections.items():
            if role in roles:
                # By identity: the projections of a fused module have one module and several spans.
                grouped.setdefault(id(projection.slot.module), []).append(projection)
        for members in grouped.values():
            yield members[0].slot, tuple(p.span for p in members)


def select_sites(
    backbone: Backbone, places: Iterable[SiteKind], sides: Iterable[TowerSide]
) -> list[Site]:
    """Select the sites of some kinds and sides.

    Args:
        backbone: The backbone.
        places: The kinds of sites.
        sides: The sides of the language tower.

    Returns:
        The sites, in the backbone's order.

    Raises:
        UserError: If there is no such site. A method that acts nowhere is a mistake in the sweep.
    """
    places = tuple(places)
    sides = tuple(sides)
    found = [site for site in backbone.sites if site.kind in places and site.side in sides]
    if not found:
        # A dict keeps the order of the layers, which a set would lose.
        known = dict.fromkeys(f"{site.side} {site.kind}" for site in backbone.sites)
        raise UserError(
            f"places, sides: {backbone.name} has no {'/'.join(sides)} {'/'.join(places)}; "
            f"it has: {', '.join(known)}"
        )
    return found


def check_roles(
    backbone: Backbone, roles: Iterable[str], sites: Iterable[Site] | None = None
) -> None:
    """Refuse the name of a projection that none of the sites has.

    Args:
        backbone: The backbone.
        roles: The names of the projections.
        sites: The sites to search; None means all sites of the backbone.

    Raises:
        UserError: If a name is unknown.
    """
    where = "chosen site"
    if sites is None:
        where = "site"
        sites = backbone.sites
    known = {role for site in sites for role in site.projections}
    for role in roles:
        if role not in known:
            raise UserError(
                f"targets: no {where} of {backbone.name} has a projection '{role}'; "
                f"known: {', '.join(sorted(known))}"
            )


def check_rank(rank: int, width: int, setting: str) -> None:
    """Refuse a bottleneck that is wider than its input.

    Args:
        rank: The size of the bottleneck.
        width: The size of its input.
        setting: The name of the setting, for the message.

    Raises:
        UserError: If `rank` is larger than `width`.
    """
    if rank > width:
        raise UserError(
            f"{setting}: {rank} is larger than the width {width} that it compresses; "
            f"choose at most {width}"
        )
