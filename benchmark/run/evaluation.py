"""Predict a split with an adapted model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, TypeVar

import torch
from torch import Tensor

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.metrics.base import Prediction
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.compile import eager
from vlpeft.benchmark.run.distributed import ALONE, Ranks
from vlpeft.benchmark.run.fetch_ahead import ahead, fetch_depth, pin
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.loop import autocast
from vlpeft.benchmark.run.memory import PartsInMemory

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
    """Return one prediction for each example, in their order. The model is left in eval mode.

    `progress` is called with the number of examples that are done and the number of all.
    """
    predict = backbone.predict
    texts = predict_split(backbone, predict, inputs, feed, examples, batch, progress, ranks)
    made = []
    for example, text in zip(examples, texts, strict=True):
        references = tuple(inputs.task.references(example, feed.protocol))
        made.append(Prediction(example.id, text, references, example.kind))
    return made


def ignore_progress(done: int, total: int) -> None:
    """Report nothing."""
    del done, total


def predict_split(
    backbone: Backbone,
    say: Callable[[Tensor, Sequence[str]], list[T]],
    inputs: Inputs,
    feed: Feed,
    examples: Sequence[Example],
    batch: int,
    progress: Callable[[int, int], None] = ignore_progress,
    ranks: Ranks = ALONE,
) -> list[T]:
    """Return what the model says about each example, in their order, on all ranks.

    Ranks take turns with whole batches. A batch is padded as in one process, and so it gives the
    same bits.

    Args:
        backbone: the adapted model; it is left in eval mode.
        say: `backbone.predict` or `backbone.ranked`.
        inputs: answer list and prompts.
        feed: visual features and protocol.
        examples: the split.
        batch: examples in a forward pass; fewer once memory has run out.
        progress: called with the number of examples that are done and the number of all.
        ranks: the processes that share the split.
    """
    device, precision = backbone.device, feed.protocol.precision
    begins = range(0, len(examples), batch)
    own = begins[ranks.rank :: ranks.world]
    # Dropout is off from here on. Selection turns it on again before training continues.
    backbone.eval()
    backbone.follow(feed.protocol, inputs.answers, feed.task)

    def fetch(begin: int) -> Tensor:
        images = [example.images for example in examples[begin : begin + batch]]
        return pin(feed.visual.fetch_examples(images), device)

    parts = PartsInMemory(batch, "evaluation: examples")
    said: list[list[T]] = []
    with closing(ahead(own, fetch, fetch_depth(device))) as fetched:
        for begin, images in fetched:
            end = min(begin + batch, len(examples))

            def say_part(places: Sequence[int], images: Tensor = images, begin: int = begin) -> Any:
                shown = images[places[0] - begin : places[-1] + 1 - begin]
                asked = [examples[place] for place in places]
                # Eager, because each generated token has another shape and would be compiled again.
                with eager(), torch.inference_mode(), autocast(device, precision):
                    return say(feed.visual.features(shown), inputs.prompts(asked))

            said.append([text for part in parts.run(range(begin, end), say_part) for text in part])
            progress(end, len(examples))
    return _merge_turns(ranks.gather(said), len(begins))


def _merge_turns(by_rank: Sequence[Sequence[list[T]]], turns: int) -> list[T]:
    """Put the batches of all ranks back into the order of the split."""
    world = len(by_rank)
    merged: list[T] = []
    for turn in range(turns):
        merged += by_rank[turn % world][turn // world]
    return merged
