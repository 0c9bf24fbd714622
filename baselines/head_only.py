"""Linear probing: only the task head trains (Alain & Bengio 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import Method
from vlpeft.benchmark.core.registry import register


@register("head_only", paper="Alain & Bengio 2017", needs=("head",))
@dataclass(frozen=True)
class HeadOnly(Method):
    """Train the task head on a frozen model."""

    def inject(self, backbone: Backbone) -> None:
        """Do nothing: the head of a backbone always trains."""

    def trainable(self, backbone: Backbone) -> int:
        """Return 0, because the head is counted separately."""
        return 0
