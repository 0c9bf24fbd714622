"""The end of an attention, with a p-adapter behind it, for tests that give it probabilities, queries and values by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from benchmark.attention import Attention, Seen
from benchmark.method import Projection, Site, Slot
from methods.p_adapter import PAdapter


class Shown(Attention):
    """An attention that shows what it is given."""

    def __init__(self, heads: int, *, causal: bool = False, fixed_keys: bool = False) -> None:
        module = nn.Module()
        module.num_heads = heads
        super().__init__(module, None, causal=causal, fixed_keys=fixed_keys)
        self.shown: Seen | None = None
        self.generating = True

    def take(self) -> Seen:
        assert self.shown is not None
        seen, self.shown = self.shown, None
        return seen


class Block(nn.Module):
    """Output projection, then whatever the method puts behind it; `in_place`: the method's slot is the projection itself."""

    def __init__(self, kind: Any, projection: nn.Module, attention: Attention, method: PAdapter, *, in_place: bool = False) -> None:
        super().__init__()
        self.projection, self.behind = projection, nn.Identity()
        width = projection.get_parameter("bias").numel()
        projections = {"output": Projection(Slot(self, "projection"), (0, width))}
        slot = Slot(self, "projection" if in_place else "behind")
        self.site = Site(f"layer.0.{kind}", kind, "decoder", 0, width, projections, slot, nn.LayerNorm(width), attention)
        method.inject(SimpleNamespace(name="block", sites=[self.site]))  # type: ignore[arg-type]

    @property
    def adapter(self) -> nn.Module:
        return self.site.output.module[1]

    def forward(self, context: Tensor, seen: Seen) -> Tensor:
        """(batch, queries, width) to the same."""
        self.site.attention.shown = seen
        return self.behind(self.projection(context))
