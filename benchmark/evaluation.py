"""What an adapted model says about a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmark.backbones.base import Backbone
from benchmark.datasets.base import Example
from benchmark.inputs import Inputs
from benchmark.metrics.base import Prediction
from benchmark.training import Feed, autocast


def predictions(
    backbone: Backbone, inputs: Inputs, feed: Feed, examples: Sequence[Example], batch: int, progress: Callable[[int, int], None]
) -> list[Prediction]:
    """One prediction an example; leaves the model in eval mode. `progress` is told how many of how many are done."""
    protocol, made = feed.protocol, list[Prediction]()
    backbone.eval()
    backbone.follow(protocol, inputs.answers, feed.task)
    for begin in range(0, len(examples), batch):
        part = examples[begin : begin + batch]
        with torch.inference_mode(), autocast(backbone.device, protocol.precision):
            texts = backbone.predict(feed.visual([e.images for e in part]), inputs.prompts(part))
        pairs = zip(part, texts, strict=True)
        made += [Prediction(e.id, text, tuple(inputs.task.references(e, protocol)), e.kind) for e, text in pairs]
        progress(len(made), len(examples))
    return made
