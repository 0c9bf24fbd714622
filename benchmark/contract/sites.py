"""The sites of a backbone, at which methods act, and what a backbone sets for them once a forward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from vlpeft.benchmark.contract.attention import Attention

Need = Literal[
    "linears", "sublayers", "attention", "embeddings", "visual_context", "encoder", "head"
]
SiteKind = Literal["self", "cross", "ffn"]
TowerSide = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Slot:
    """A named place in the module tree. `module` is what stands there now, wrappers included."""

    owner: nn.Module
    attribute: str

    @property
    def module(self) -> nn.Module:
        """The module standing here."""
        found: nn.Module = getattr(self.owner, self.attribute)
        return found

    def replace(self, module: nn.Module) -> None:
        """Put another module here, usually one that wraps the old."""
        setattr(self.owner, self.attribute, module)


@dataclass(frozen=True)
class Projection:
    """One linear map (query, key, value, output, up or down): all of a module's outputs, or a span of a fused one."""

    slot: Slot
    span: tuple[int, int]  # [start, stop) among the module's output features


@dataclass(frozen=True)
class Site:
    """One attention or feed-forward sub-layer of the language tower."""

    name: str
    kind: SiteKind
    side: TowerSide
    layer: int
    width: int
    projections: Mapping[str, Projection]
    output: Slot  # its module's output is the sub-layer's, before the residual is added
    norm: nn.Module  # the sub-layer's LayerNorm (before it in GPT-2, after the residual in RoBERTa)
    attention: Attention | None = None  # None for a feed-forward sub-layer


class PerForward:
    """A tensor that the backbone sets once a forward, for the modules a method injects."""

    what: ClassVar[str]

    def __init__(self) -> None:
        self._value: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The tensor. Raises if no forward has set it."""
        if self._value is None:
            raise RuntimeError(f"{self.what} is read outside a backbone's forward")
        return self._value

    @value.setter
    def value(self, tensor: Tensor) -> None:
        self._value = tensor


class VisualContext(PerForward):
    """What routing functions mix in: visual tokens, (batch, tokens, width)."""

    what = "the visual context"


class EncoderMask(PerForward):
    """Which tokens of the encoder are no padding, (batch, tokens): 1, or 0 for padding."""

    what = "the encoder's mask"


@dataclass
class ActiveTask:
    """Which task of a joint cell the present batch belongs to: set by `Backbone.follow`, read by modules with copies for each."""

    index: int = 0
    count: int = 1


def count(parameters: Iterable[Tensor]) -> int:
    """Number of scalars in distinct tensors."""
    return sum({id(p): p.numel() for p in parameters}.values())
