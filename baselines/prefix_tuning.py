"""Prefix tuning: learned keys and values before those of frozen attentions (Li & Liang 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vlpeft.benchmark.contract.attention import Attention
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import Method, select_sites
from vlpeft.benchmark.contract.parameters import init_normal
from vlpeft.benchmark.contract.sites import Site, TowerSide
from vlpeft.benchmark.core.config import Positive
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register

AttentionKind = Literal["self", "cross"]


@register("prefix_tuning", paper="Li & Liang 2021", needs=("attention",))
@dataclass(frozen=True)
class PrefixTuning(Method):
    """`length` learned keys and values, which every query sees before the attention's own.

    No position shifts.

    `mlp` is the hidden size of the paper's re-parametrisation (section 4.3): a table of shape
    (length, width) -> Linear -> tanh -> Linear to 2 x width. Attentions of one side and kind share
    the table and the first map. Each has its own last map.

    Everything starts from N(0, 0.02^2).
    """

    # The p-Adapter paper gives no length. Its 0.71 % equal those of LoRA, which fits 16 in 24
    # attentions.
    length: Positive = 16
    places: Annotated[tuple[AttentionKind, ...], Field(min_length=1)] = ("self", "cross")
    sides: Annotated[tuple[TowerSide, ...], Field(min_length=1)] = ("encoder", "decoder")
    mlp: Positive | None = None

    def inject(self, backbone: Backbone) -> None:
        """Give each chosen attention its prefix."""
        shared: dict[tuple[str, str], nn.Module] = {}
        for site in select_sites(backbone, self.places, self.sides):
            attention = _attention_of(site)
            # Without `mlp`, keys and values are trained directly.
            if self.mlp is None:
                attention.prepend(Prefix(self.length, attention.heads, site.width))
                continue
            key = (site.side, site.kind)
            if key not in shared:
                shared[key] = Hidden(self.length, site.width, self.mlp)
            attention.prepend(MappedPrefix(shared[key], self.mlp, attention.heads, site.width))

    def trainable(self, backbone: Backbone) -> int:
        """Count 2 x length x width per attention.

        With `mlp` it is (mlp + 1) x 2 x width per attention, and the table and first map once per
        side and kind.
        """
        sites = select_sites(backbone, self.places, self.sides)
        if self.mlp is None:
            return sum(2 * self.length * site.width for site in sites)
        shared = {
            (site.side, site.kind): self.length * site.width + (site.width + 1) * self.mlp
            for site in sites
        }
        own = sum((self.mlp + 1) * 2 * site.width for site in sites)
        return own + sum(shared.values())


def _attention_of(site: Site) -> Attention:
    if site.attention is None:
        raise UserError(
            f"prefix_tuning: {site.name} gives no access to its attention; "
            "exclude it with `places` or `sides`"
        )
    return site.attention


class Prefix(nn.Module):
    """Learned keys and values."""

    def __init__(self, length: int, heads: int, width: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.empty(heads, length, width // heads).normal_(std=0.02))
        self.values = nn.Parameter(torch.empty(heads, length, width // heads).normal_(std=0.02))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return keys and values, (heads, length, head width) each."""
        return self.keys, self.values


class Hidden(nn.Module):
    """The part that the prefixes of several attentions share: tanh(Linear(table))."""

    def __init__(self, length: int, width: int, hidden: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(length, width).normal_(std=0.02))
        self.first = init_normal(nn.Linear(width, hidden))

    def forward(self) -> Tensor:
        """Return the hidden states, (length, hidden)."""
        return torch.tanh(self.first(self.table))


class MappedPrefix(nn.Module):
    """Keys and values that a Linear makes from shared hidden states."""

    def __init__(self, shared: nn.Module, hidden: int, heads: int, width: int) -> None:
        super().__init__()
        self.shared = shared
        self.heads = heads
        self.last = init_normal(nn.Linear(hidden, 2 * width))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return keys and values, (heads, length, head width) each."""
        # (length, 2 x width): keys, then values. Within each, one head follows the other.
        pair = self.last(self.shared())
        keys, values = pair.view(pair.shape[0], 2, self.heads, -1).permute(1, 2, 0, 3)
        return keys, values
