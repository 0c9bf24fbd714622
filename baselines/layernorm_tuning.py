"""LayerNorm tuning: train the LayerNorms of the language tower (Zhao et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import Method
from vlpeft.benchmark.contract.parameters import layer_norms, unfreeze
from vlpeft.benchmark.contract.sites import count
from vlpeft.benchmark.core.registry import register


@register("layernorm_tuning", paper="Zhao et al. 2024", needs=("sublayers",))
@dataclass(frozen=True)
class LayerNormTuning(Method):
    """Train LayerNorms.

    `which: sites` trains those of the sub-layers. `which: all` adds those of embeddings and final
    states.
    """

    which: Literal["sites", "all"] = "sites"
    # False: train their weights only.
    biases: bool = True

    def inject(self, backbone: Backbone) -> None:
        """Unfreeze the LayerNorms; nothing is added."""
        unfreeze(self._parameters(backbone))

    def trainable(self, backbone: Backbone) -> int:
        """Count the width, or twice the width, per LayerNorm."""
        return count(self._parameters(backbone))

    def _parameters(self, backbone: Backbone) -> Iterator[nn.Parameter]:
        # BART-base has 32 of them: 49,152 parameters.
        for norm in layer_norms(backbone, everywhere=self.which == "all"):
            for name, parameter in norm.named_parameters():
                if self.biases or name != "bias":
                    yield parameter
