"""The sites of a backbone, where methods act, and the tensors a backbone sets for each forward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from vlpeft.benchmark.contract.attention import Attention

# What a method needs and a backbone offers. The grid skips a cell where one is missing.
Need = Literal[
    "linears", "sublayers", "attention", "embeddings", "visual_context", "encoder", "head"
]
SiteKind = Literal["self", "cross", "ffn"]
TowerSide = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Slot:
    """A named place in the module tree.

    Args:
        owner: The module that holds the place.
        attribute: The name of the submodule in `owner`.
    """

    owner: nn.Module
    attribute: str

    @property
    def module(self) -> nn.Module:
        """The module at this place now. Wrappers that methods added are included."""
        found: nn.Module = getattr(self.owner, self.attribute)
        return found

    def replace(self, module: nn.Module) -> None:
        """Put another module at this place.

        Args:
            module: The new module. It usually wraps the old one.
        """
        setattr(self.owner, self.attribute, module)


@dataclass(frozen=True)
class Projection:
    """One linear map of a sub-layer: query, key, value, output, up or down.

    GPT-2 computes query, key and value in one module (`c_attn`), so a projection may be a part of
    a module's outputs.

    Args:
        slot: The place of the module that computes it.
        span: [start, stop) among the module's output features.
    """

    slot: Slot
    span: tuple[int, int]


@dataclass(frozen=True)
class Site:
    """One attention or feed-forward sub-layer of the language tower.

    Args:
        name: A unique name, such as `layer.3.self`.
        kind: `self` or `cross` attention, or `ffn`.
        side: The part of the language tower: `encoder` or `decoder`.
        layer: The number of the layer within its side, from 0.
        width: The number of features of the residual stream.
        projections: The linear maps by role: query, key, value and output, or up and down.
        output: The place whose module returns the sub-layer's output, before the residual is added.
        norm: The LayerNorm of the sub-layer. It comes before the sub-layer in GPT-2 (pre-LN) and
            after the residual in RoBERTa, BERT and BART (post-LN).
        attention: The attention that methods may read or extend; None for a feed-forward sub-layer.
    """

    name: str
    kind: SiteKind
    side: TowerSide
    layer: int
    width: int
    projections: Mapping[str, Projection]
    output: Slot
    norm: nn.Module
    attention: Attention | None = None


class PerForward:
    """A tensor that the backbone sets once per forward, for the modules that a method injects.

    The language towers come from transformers, so no extra argument reaches an injected module.
    """

    what: ClassVar[str]

    def __init__(self) -> None:
        self._value: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The tensor of the current forward.

        Raises:
            RuntimeError: If no forward has set it.
        """
        if self._value is None:
            raise RuntimeError(f"{self.what} is read outside a backbone's forward")
        return self._value

    @value.setter
    def value(self, tensor: Tensor) -> None:
        self._value = tensor


class VisualContext(PerForward):
    """The visual tokens that routing functions mix in, (batch, tokens, width).

    This is x_R of the routing-functions paper (Qu et al. 2024). One pooled token is the usual case.
    """

    what = "the visual context"

    def select_rows(self, rows: Tensor) -> None:
        """Keep these rows, where a decoder runs on other sequences than the encoder did.

        Args:
            rows: (sequences,). The number of each sequence's example.
        """
        self.value = self.value[rows]

    def repeat_rows(self, copies: int) -> None:
        """Repeat each row, with its copies next to each other, as beam search orders them.

        Args:
            copies: The number of copies of each row.
        """
        self.value = self.value.repeat_interleave(copies, 0)


class EncoderMask(PerForward):
    """The padding mask of the encoder, (batch, tokens): 1 for a token, 0 for padding."""

    what = "the encoder's mask"


@dataclass
class ActiveTask:
    """The task that the current batch belongs to, in a cell that trains on several tasks.

    `Backbone.follow` sets it. Modules with one copy per task read it.

    Args:
        index: The number of the task, from 0.
        count: The number of tasks; 1 in an ordinary cell.
    """

    index: int = 0
    count: int = 1


def count(parameters: Iterable[Tensor]) -> int:
    """Count the scalars in distinct tensors.

    Args:
        parameters: Tensors of any shape. A tensor that occurs twice counts once.

    Returns:
        The number of scalars.
    """
    # Tied weights, such as embedding and output layer, count once, as in published counts.
    return sum({id(p): p.numel() for p in parameters}.values())
