"""BitFit: train the biases only (Ben Zaken et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import Method
from vlpeft.benchmark.contract.parameters import extra_parameters, unfreeze
from vlpeft.benchmark.contract.sites import count
from vlpeft.benchmark.core.registry import register


@register("bitfit", paper="Ben Zaken et al. 2022", needs=())
@dataclass(frozen=True)
class BitFit(Method):
    """Train every bias of the language tower, including those of LayerNorms."""

    def inject(self, backbone: Backbone) -> None:
        """Unfreeze the biases."""
        # BART-base has 125,952 biases. The visual embedding always trains, and makes it 1.21 % of
        # CLIP-BART.
        unfreeze(extra_parameters(backbone, ("biases",)))

    def trainable(self, backbone: Backbone) -> int:
        """Count one scalar per output of each module with a bias."""
        return count(extra_parameters(backbone, ("biases",)))
