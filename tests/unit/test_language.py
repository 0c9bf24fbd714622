"""The code that language-model heads share."""

from __future__ import annotations

import torch
from torch import Tensor

from vlpeft.benchmark.backbones.language import IGNORED, rank


def test_candidates_are_as_long_as_the_longest_that_passed() -> None:
    """A long answer that is dropped in the first stage costs nothing; one that stays is whole."""
    answers = torch.tensor([[3, 4, IGNORED, IGNORED], [5, 4, IGNORED, IGNORED], [6, 7, 8, 4]])
    first = torch.tensor([[0, 0, 0, 3.0, 0, 2.0, 1.0], [0, 0, 0, 2.0, 0, 1.0, 0.0]])
    widths = []

    def score(tokens: Tensor) -> Tensor:
        widths.append(tokens.shape)
        return (tokens == 5).sum(-1).float()

    assert rank(first, answers, 2, score).best() == [1, 1]
    assert rank(first, answers, 3, score).best() == [1, 1]
    assert widths == [(2, 2, 2), (2, 3, 4)]
