"""Prompt tuning: learned vectors before the text (Lester et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.backbones.base import Backbone
from benchmark.config import Positive
from benchmark.method import Method
from benchmark.registry import register


@register("prompt_tuning", paper="Lester et al. 2021", needs=("embeddings",))
@dataclass(frozen=True)
class PromptTuning(Method):
    """`length` learned embeddings between the visual prefix and the text, started from random words of the vocabulary."""

    length: Positive = 8

    def inject(self, backbone: Backbone) -> None:
        """Give the backbone its soft prompt."""
        table = backbone.token_embeddings.weight
        rows = torch.randint(table.shape[0], (self.length,), device="cpu")
        backbone.prompt = SoftPrompt(table[rows.to(table.device)].detach().clone())

    def trainable(self, backbone: Backbone) -> int:
        """length x width."""
        return self.length * backbone.token_embeddings.embedding_dim


class SoftPrompt(nn.Module):
    """Returns its (length, width) embeddings."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(start)

    def forward(self) -> Tensor:
        """The prompt, (length, width)."""
        return self.embeddings
