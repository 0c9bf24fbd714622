"""How much a training step does: floating-point operations, text tokens and images, counted once on a step that changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.run.compile import eager
from vlpeft.benchmark.run.distributed import ALONE, Ranks
from vlpeft.benchmark.run.loop import Feed, TrainingState, autocast, batches, split_batch


@dataclass(frozen=True)
class StepFlops:
    """What the first step of a cell does, all its ranks together.

    flops: of matrix products, convolutions and attention, forward and backward, as torch's counter knows them; cached
    features cost none. tokens: ids that the text towers embed, padding too. images: those of the batch.
    """

    flops: int
    tokens: int
    images: int

    def per_second(self, seconds: float) -> dict[str, float]:
        """tokens_per_second and images_per_second, where a step takes so long."""
        return {
            "tokens_per_second": self.tokens / seconds,
            "images_per_second": self.images / seconds,
        }


def first_step(
    state: TrainingState, feeds: Sequence[Feed], seed: int, micro_batch: int | None, ranks: Ranks
) -> StepFlops:
    """Count the batch of step 0, in parts no larger than those it was trained in.

    Weights stay as they are; random numbers are drawn. The last step's gradients are given up, as any step does: a cell that
    could be trained has room for this.
    """
    backbone = state.backbone
    state.optimizer.zero_grad(set_to_none=True)
    feed, batch = next(batches(feeds, seed, 0, 1))
    backbone.follow(feed.protocol, feed.answers, feed.task)
    backbone.train()
    size = min(micro_batch or len(batch), max(1, -(-len(batch) // ranks.world)))
    with eager(), FlopCounterMode(display=False) as counter, _tokens(backbone) as tokens:
        for part in split_batch(batch, f"{seed}/0", size, ALONE):
            with autocast(backbone.device, feed.protocol.precision):
                visual = feed.seen.features(part.fetched(feed))
                loss, _ = backbone.loss(
                    visual, [i.prompt for i in part.items], [i.targets for i in part.items]
                )
            torch.autograd.backward(
                loss
            )  # the counter's hooks take no autograd.grad where prompts or p are handed to modules
    state.optimizer.zero_grad(set_to_none=True)
    return StepFlops(
        counter.get_total_flops(), sum(tokens), sum(len(item.images) for item in batch)
    )


@contextmanager
def _tokens(backbone: Backbone) -> Iterator[list[int]]:
    """How many ids each look-up in the token tables takes: a decoder's table may be another module than the encoder's."""
    found: list[int] = []

    def count(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        ids: Tensor = inputs[0]
        found.append(ids.numel())

    rows = backbone.token_embeddings.num_embeddings
    tables = [
        each
        for each in backbone.modules()
        if isinstance(each, nn.Embedding) and each.num_embeddings == rows
    ]
    hooks = [table.register_forward_pre_hook(count) for table in tables]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
