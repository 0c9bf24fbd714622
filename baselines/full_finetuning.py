"""Full fine-tuning of the language tower, with or without the vision tower."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import Method
from vlpeft.benchmark.contract.parameters import unfreeze
from vlpeft.benchmark.contract.sites import count
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register


@register("full_finetuning", paper="Devlin et al. 2019", needs=())
@dataclass(frozen=True)
class FullFinetuning(Method):
    """Train every weight of the language tower; `vision: true` trains the vision tower too.

    The p-Adapter paper freezes "the encoder". It does not say whether this holds for its full
    fine-tuning too. Here the vision tower is frozen by default. CLIP stays frozen in the full
    fine-tuning of VL-Adapter and VL-PET as well.

    The features of a vision tower that trains cannot be cached.
    """

    vision: bool = False

    def inject(self, backbone: Backbone) -> None:
        """Unfreeze the towers; nothing is added."""
        if self.vision and not count(backbone.vision.parameters()):
            raise UserError(f"vision: {backbone.name} has no vision tower here; leave it out")
        unfreeze(self._parameters(backbone))

    def trainable(self, backbone: Backbone) -> int:
        """Count all weights of the trained towers."""
        return count(self._parameters(backbone))

    def _parameters(self, backbone: Backbone) -> Iterator[nn.Parameter]:
        yield from backbone.text.parameters()
        if self.vision:
            yield from backbone.vision.parameters()
