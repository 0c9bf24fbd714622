"""BitFit: train the biases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from benchmark.backbones.base import Backbone
from benchmark.method import Method, count, unfreeze
from benchmark.registry import register


@register("bitfit", paper="Ben Zaken et al. 2022", needs=())
@dataclass(frozen=True)
class BitFit(Method):
    """Train every bias of the language tower, those of LayerNorms included."""

    def inject(self, backbone: Backbone) -> None:
        """Unfreeze the biases."""
        unfreeze(_biases(backbone))

    def trainable(self, backbone: Backbone) -> int:
        """One scalar for each output of each biased module."""
        return count(_biases(backbone))


def _biases(backbone: Backbone) -> Iterator[nn.Parameter]:
    return (parameter for name, parameter in backbone.text.named_parameters() if name.endswith("bias"))
