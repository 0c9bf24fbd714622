"""What an adapted model says about a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

import torch
from torch import Tensor

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.metrics.base import Prediction
from vlpeft.benchmark.run.compile import eager
from vlpeft.benchmark.run.distributed import ALONE, Ranks
from vlpeft.benchmark.run.fetch_ahead import ahead, fetch_depth, pinned
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.loop import Feed, autocast

T = TypeVar("T")


def predictions(
    backbone: Backbone,
    inputs: Inputs,
    feed: Feed,
    examples: Sequence[Example],
    batch: int,
    progress: Callable[[int, int], None],
    ranks: Ranks = ALONE,
) -> list[Prediction]:
    """One prediction an example, in their order; leaves the model in eval mode. `progress` is told how many of how many are done."""
    texts = predict_split(
        backbone, backbone.predict, inputs, feed, examples, batch, progress, ranks
    )
    pairs = zip(examples, texts, strict=True)
    return [
        Prediction(e.id, text, tuple(inputs.task.references(e, feed.protocol)), e.kind)
        for e, text in pairs
    ]


def unwatched(done: int, total: int) -> None:
    """Progress that nobody follows."""
    del done, total


def predict_split(
    backbone: Backbone,
    say: Callable[[Tensor, Sequence[str]], list[T]],
    inputs: Inputs,
    feed: Feed,
    examples: Sequence[Example],
    batch: int,
    progress: Callable[[int, int], None] = unwatched,
    ranks: Ranks = ALONE,
) -> list[T]:
    """What `say`, the backbone's `predict` or `ranked`, says of each example.

    Ranks take whole batches in turn, none twice: a batch is padded as in one process, and so gives the same bits.
    """
    protocol, made = feed.protocol, list[list[T]]()
    begins = range(0, len(examples), batch)
    backbone.eval()
    backbone.follow(protocol, inputs.answers, feed.task)

    def fetch(begin: int) -> Tensor:
        return pinned(
            feed.visual.fetch_examples([e.images for e in examples[begin : begin + batch]]),
            backbone.device,
        )

    with closing(
        ahead(begins[ranks.rank :: ranks.world], fetch, fetch_depth(backbone.device))
    ) as batches:
        for begin, fetched in batches:
            part = examples[begin : begin + batch]
            with eager(), torch.inference_mode(), autocast(backbone.device, protocol.precision):
                made.append(say(feed.visual.features(fetched), inputs.prompts(part)))
            progress(begin + len(part), len(examples))
    found = ranks.gather(made)
    return [
        each
        for turn in range(len(begins))
        for each in found[turn % ranks.world][turn // ranks.world]
    ]
