"""Count what a training step does: floating-point operations, text tokens and images.

The step is counted once, on the first batch of a cell, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.run.batches import Feed, batches, split_batch
from vlpeft.benchmark.run.compile import eager
from vlpeft.benchmark.run.distributed import ALONE, Ranks
from vlpeft.benchmark.run.loop import TrainingState, compute_loss


@dataclass(frozen=True)
class StepFlops:
    """The work of the first step of a cell, all its ranks together.

    Attributes:
        flops: those of matrix products, convolutions and attention, forward and backward, as
            torch's counter knows them. Cached features cost none.
        tokens: ids that the text towers embed, padding included.
        images: images of the batch.
    """

    flops: int
    tokens: int
    images: int

    def per_second(self, seconds: float) -> dict[str, float]:
        """Return tokens_per_second and images_per_second for a step that takes `seconds`."""
        return {
            "tokens_per_second": self.tokens / seconds,
            "images_per_second": self.images / seconds,
        }


def first_step(
    state: TrainingState, feeds: Sequence[Feed], seed: int, micro_batch: int | None, ranks: Ranks
) -> StepFlops:
    """Count the batch of step 0, in pieces no larger than those it was trained in.

    Weights stay as they are, but random numbers are drawn. The gradients of the last step are
    dropped first, as in any step. So a cell that could be trained has enough memory for this.
    """
    backbone = state.backbone
    state.optimizer.zero_grad(set_to_none=True)
    feed, batch = next(batches(feeds, seed, 0, 1))
    backbone.follow(feed.protocol, feed.answers, feed.task)
    backbone.train()
    share = max(1, -(-len(batch) // ranks.world))  # rounded up: the largest piece of any rank
    size = min(micro_batch or len(batch), share)
    with eager(), FlopCounterMode(display=False) as counter, _count_tokens(backbone) as tokens:
        for piece in split_batch(batch, f"{seed}/0", size, ALONE):
            loss, _ = compute_loss(backbone, feed, piece, piece.fetch(feed))
            # Not `torch.autograd.grad`: the counter's hooks fail with it where a method hands
            # parameters, such as prompts or p, to modules.
            torch.autograd.backward(loss)
    state.optimizer.zero_grad(set_to_none=True)
    images = sum(len(item.images) for item in batch)
    return StepFlops(counter.get_total_flops(), sum(tokens), images)


@contextmanager
def _count_tokens(backbone: Backbone) -> Iterator[list[int]]:
    """Yield a list that receives the number of ids of each look-up in the token tables.

    A table is recognised by its number of rows: the decoder's may be another module than the
    encoder's.
    """
    found: list[int] = []

    def count(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        ids: Tensor = inputs[0]
        found.append(ids.numel())

    rows = backbone.token_embeddings.num_embeddings
    embeddings = [module for module in backbone.modules() if isinstance(module, nn.Embedding)]
    tables = [table for table in embeddings if table.num_embeddings == rows]
    hooks = [table.register_forward_pre_hook(count) for table in tables]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
