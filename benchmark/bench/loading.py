"""Training on augmented photographs, with and without a thread that fetches ahead."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from vlpeft.benchmark.bench._models import adapt_backbone, protocol
from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting
from vlpeft.benchmark.bench._sides import TimedStep, time_row, turns
from vlpeft.benchmark.export.predict import ImageFiles
from vlpeft.benchmark.plan.measure import ANSWERS, QUESTION
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.checkpoint import load_trained, trained_tensors
from vlpeft.benchmark.run.features import views
from vlpeft.benchmark.run.fetch_ahead import DEPTH
from vlpeft.benchmark.run.loop import start, train
from vlpeft.benchmark.tasks.base import Item

BENCH = "loading"
BATCH, STEPS, SHAPE = 8, 12, (480, 640, 3)


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Measure elapsed time: tiny towers on a CPU, whose cores also fetch; the papers' on a GPU."""
    small = setting.quick or setting.device == "cpu"
    with TemporaryDirectory() as folder:
        draw = np.random.default_rng(0)
        for number in range(BATCH):
            coarse = Image.fromarray(
                draw.integers(0, 256, (SHAPE[0] // 16, SHAPE[1] // 16, 3), np.uint8)
            )
            coarse.resize((SHAPE[1], SHAPE[0])).save(Path(folder) / f"{number}.jpg")
        sides = [partial(step, folder, small, depth) for depth in (DEPTH, 0)]
        name = (
            f"{'tiny' if small else 'full'} blip, {BATCH} JPEGs of 640 x 480 a step, fetched ahead"
        )
        pairs = turns(sides[0], sides[1], setting, elapsed=True)
        yield time_row(BENCH, name, pairs, setting, "at least", None, elapsed=True)


def step(folder: str, small: bool, depth: int, device: torch.device) -> TimedStep:
    """Return some steps of LoRA that start from the same weights, and return their mean loss."""
    recipe = protocol(BATCH, steps=STEPS, augment="blip")
    backbone = adapt_backbone("blip", "lora", {}, recipe, quick=small).to(device)
    items = [
        Item((str(path),), QUESTION, {ANSWERS[0]: 1.0}) for path in sorted(Path(folder).iterdir())
    ]
    feed = Feed(items, views(backbone, ImageFiles()), recipe, ANSWERS)
    began = {name: tensor.clone() for name, tensor in trained_tensors(backbone).items()}

    def steps() -> float:
        load_trained(backbone, began)
        torch.manual_seed(0)
        state = start(backbone, recipe, feed.batches)
        train(state, [feed], 0, None, lambda _: None, depth=depth)
        return sum(loss for _, loss in state.curve) / len(state.curve)

    return steps
