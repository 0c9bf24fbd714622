"""Full fine-tuning of the language tower, of both towers on request."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.backbones.base import Backbone
from benchmark.method import Method, count, unfreeze
from benchmark.registry import register


@register("full_finetuning", paper="Devlin et al. 2019", needs=())
@dataclass(frozen=True)
class FullFinetuning(Method):
    """Train every weight of the language tower; `vision: true` trains the vision tower too."""

    vision: bool = False

    def inject(self, backbone: Backbone) -> None:
        """Unfreeze; nothing is added."""
        unfreeze(backbone.text.parameters())
        if self.vision:
            unfreeze(backbone.vision.parameters())

    def trainable(self, backbone: Backbone) -> int:
        """All weights of the trained towers."""
        return count(backbone.text.parameters()) + (count(backbone.vision.parameters()) if self.vision else 0)
