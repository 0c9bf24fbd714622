"""Prompt tuning: learned vectors before the text (Lester et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import Method, PerTask, init_normal
from vlpeft.benchmark.core.config import Positive, added_field
from vlpeft.benchmark.core.registry import register


@register("prompt_tuning", paper="Lester et al. 2021", needs=("embeddings",))
@dataclass(frozen=True)
class PromptTuning(Method):
    """`length` learned embeddings beside the text (where, the backbone says), started from random words of the vocabulary.

    `mlp` is the hidden size of a map table -> Linear -> tanh -> Linear that makes the prompt, as in VL-Adapter (length 40,
    mlp 800); table and maps then start from N(0, 0.02). `per_task` gives every task of a joint cell a prompt of its own.
    """

    length: Positive = 8
    mlp: Positive | None = None
    per_task: bool = added_field(False)

    def inject(self, backbone: Backbone) -> None:
        """Give the backbone its soft prompt."""
        words = backbone.token_embeddings.weight
        backbone.prompt = (
            PerTask(lambda: self._prompt(words), backbone.active_task)
            if self.per_task
            else self._prompt(words)
        )

    def _prompt(self, words: Tensor) -> SoftPrompt:
        if self.mlp is not None:
            return MappedPrompt(self.length, words.shape[1], self.mlp)
        rows = torch.randint(words.shape[0], (self.length,), device="cpu")
        return SoftPrompt(words[rows.to(words.device)].detach().clone())

    def trainable(self, backbone: Backbone) -> int:
        """length x width, plus 2 x width x mlp + mlp + width."""
        width = backbone.token_embeddings.embedding_dim
        copies = backbone.active_task.count if self.per_task else 1
        return copies * (
            self.length * width
            + (0 if self.mlp is None else 2 * width * self.mlp + self.mlp + width)
        )


class SoftPrompt(nn.Module):
    """Returns its (length, width) embeddings."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(start)

    def forward(self) -> Tensor:
        """The prompt, (length, width)."""
        return self.embeddings


class MappedPrompt(SoftPrompt):
    """Returns (length, width) vectors made from a table of that shape by Linear -> tanh -> Linear."""

    def __init__(self, length: int, width: int, hidden: int) -> None:
        super().__init__(torch.empty(length, width).normal_(std=0.02))
        self.map = nn.Sequential(
            init_normal(nn.Linear(width, hidden)), nn.Tanh(), init_normal(nn.Linear(hidden, width))
        )

    def forward(self) -> Tensor:
        """The prompt, (length, width)."""
        prompt: Tensor = self.map(self.embeddings)
        return prompt
