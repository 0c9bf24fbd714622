"""An epoch of VQA with cached features of the frozen ViT-B/16, compared with live features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vlpeft.benchmark.bench._models import adapt_backbone, protocol
from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting
from vlpeft.benchmark.bench._sides import TimedStep, time_row, turns
from vlpeft.benchmark.cells.cell import Part
from vlpeft.benchmark.datasets import load_spec
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.checkpoint import load_trained, trained_tensors
from vlpeft.benchmark.run.features import live_features, visual_inputs
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.loop import start, train

BENCH = "feature_cache"
BATCH, BATCHES = 4, 2


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Measure one epoch from the same weights; both sides must reach the same losses."""
    with TemporaryDirectory() as folder:
        sides = [partial(step, folder if cached else "", setting.quick) for cached in (True, False)]
        name = f"routing_lora mul, vit_roberta, {BATCHES} batches of {BATCH} images"
        yield time_row(BENCH, name, turns(sides[0], sides[1], setting), setting, "at least", 4.0)


def step(cache: str, quick: bool, device: torch.device) -> TimedStep:
    """Return an epoch that starts from the same weights each time, and returns its mean loss.

    Without `cache`, features are computed in every step.
    """
    recipe = protocol(BATCH, epochs=1, steps=None, train_limit=BATCH * BATCHES, eval_limit=1)
    inputs = Inputs.open(Part("vqa", load_spec("shapes"), recipe))
    settings = {"rank": 4 if quick else 128, "alpha": 128, "function": "mul"}
    backbone = adapt_backbone(
        "vit_roberta", "routing_lora", settings, recipe, quick=quick, answers=inputs.answers
    ).to(device)
    images = [image for item in inputs.items for image in item.images]
    data = inputs.data
    visual = (
        visual_inputs(backbone, data, images, False, Path(cache))
        if cache
        else live_features(backbone, data, zeroed=False)
    )
    feed = Feed(inputs.items, visual, recipe, inputs.answers)
    began = {name: tensor.clone() for name, tensor in trained_tensors(backbone).items()}

    def epoch() -> float:
        load_trained(backbone, began)
        torch.manual_seed(0)
        state = start(backbone, recipe, feed.batches)
        train(state, [feed], 0, None, lambda _: None)
        return sum(loss for _, loss in state.curve) / len(state.curve)

    return epoch
