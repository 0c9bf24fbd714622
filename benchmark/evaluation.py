"""What an adapted model says about a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from benchmark.backbones.base import Backbone
from benchmark.datasets.base import Example
from benchmark.inputs import Inputs
from benchmark.metrics.base import Prediction
from benchmark.training import Feed, autocast

T = TypeVar("T")


def predictions(
    backbone: Backbone, inputs: Inputs, feed: Feed, examples: Sequence[Example], batch: int, progress: Callable[[int, int], None]
) -> list[Prediction]:
    """One prediction an example; leaves the model in eval mode. `progress` is told how many of how many are done."""
    texts = said(backbone, backbone.predict, inputs, feed, examples, batch, progress)
    pairs = zip(examples, texts, strict=True)
    return [Prediction(e.id, text, tuple(inputs.task.references(e, feed.protocol)), e.kind) for e, text in pairs]


def said(
    backbone: Backbone,
    say: Callable[[Tensor, Sequence[str]], list[T]],
    inputs: Inputs,
    feed: Feed,
    examples: Sequence[Example],
    batch: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[T]:
    """What `say`, the backbone's `predict` or `ranked`, says of each example."""
    protocol, made = feed.protocol, list[T]()
    backbone.eval()
    backbone.follow(protocol, inputs.answers, feed.task)
    for begin in range(0, len(examples), batch):
        part = examples[begin : begin + batch]
        with torch.inference_mode(), autocast(backbone.device, protocol.precision):
            made += say(feed.visual([e.images for e in part]), inputs.prompts(part))
        progress(len(made), len(examples))
    return made
