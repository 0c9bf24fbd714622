"""Prompt tuning: learned vectors before the text (Lester et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import Method, PerTask
from vlpeft.benchmark.contract.parameters import init_normal
from vlpeft.benchmark.core.config import Positive, added_field
from vlpeft.benchmark.core.registry import register


@register("prompt_tuning", paper="Lester et al. 2021", needs=("embeddings",))
@dataclass(frozen=True)
class PromptTuning(Method):
    """`length` learned embeddings at the text; they start from random words of the vocabulary.

    Each backbone chooses their position.

    `mlp` is the hidden size of a map table -> Linear -> tanh -> Linear that makes the prompt, as in
    VL-Adapter (length 40, mlp 800). Table and maps then start from N(0, 0.02^2).

    `per_task` gives every task of a joint cell a prompt of its own.
    """

    # VL-Adapter puts 40 in the encoder and none in the decoder.
    length: Positive = 8
    mlp: Positive | None = None
    per_task: bool = added_field(False)

    def inject(self, backbone: Backbone) -> None:
        """Give the backbone its soft prompt."""
        make = partial(self._make_prompt, backbone.token_embeddings.weight)
        if self.per_task:
            backbone.prompt = PerTask(make, backbone.active_task)
        else:
            backbone.prompt = make()

    def trainable(self, backbone: Backbone) -> int:
        """Count length x width; a `mlp` adds 2 x width x mlp + mlp + width."""
        width = backbone.token_embeddings.embedding_dim
        total = self.length * width
        if self.mlp is not None:
            total += 2 * width * self.mlp + self.mlp + width
        if self.per_task:
            total *= backbone.active_task.count
        return total

    def _make_prompt(self, words: Tensor) -> SoftPrompt:
        if self.mlp is not None:
            return MappedPrompt(self.length, words.shape[1], self.mlp)
        # Drawn on the CPU, so that a seed gives the same words on every device.
        rows = torch.randint(words.shape[0], (self.length,), device="cpu")
        return SoftPrompt(words[rows.to(words.device)].detach().clone())


class SoftPrompt(nn.Module):
    """Learned embeddings."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(start)

    def forward(self) -> Tensor:
        """Return the prompt, (length, width)."""
        return self.embeddings


class MappedPrompt(SoftPrompt):
    """Embeddings that Linear -> tanh -> Linear makes from a table of the same shape."""

    def __init__(self, length: int, width: int, hidden: int) -> None:
        super().__init__(torch.empty(length, width).normal_(std=0.02))
        # At length 40, width 768 and hidden size 800 a prompt has 1,261,088 parameters.
        self.map = nn.Sequential(
            init_normal(nn.Linear(width, hidden)), nn.Tanh(), init_normal(nn.Linear(hidden, width))
        )

    def forward(self) -> Tensor:
        """Return the prompt, (length, width)."""
        prompt: Tensor = self.map(self.embeddings)
        return prompt
