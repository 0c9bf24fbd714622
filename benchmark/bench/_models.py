"""Full-size models with random weights, or the tiny ones, and training steps of them.

Speed does not depend on the values of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.backbones.weights import random_weights
from vlpeft.benchmark.bench._sides import Repeated
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import apply
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.plan.measure import ANSWERS, QUESTION
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.features import VisualSteps
from vlpeft.benchmark.run.fetch_ahead import pin
from vlpeft.benchmark.run.loop import autocast, start, train
from vlpeft.benchmark.tasks.base import Item

# Steps of a call. Real training enters its loop once, not once a step.
STEPS = 8
TowerSettings = Mapping[str, Any]
FULL: Mapping[str, TowerSettings] = {
    "vit_roberta": {},
    "blip": {},
}  # the defaults are the papers' towers
SMALL: Mapping[str, TowerSettings] = {
    "vit_roberta": {"text": "tiny", "vision": "tiny"},
    "blip": {"weights": "tiny", "image_size": 64},
}


@dataclass(frozen=True)
class MethodCase:
    """A method with its paper's settings, on a backbone."""

    backbone: str
    method: str
    settings: TowerSettings

    def sized(self, *, quick: bool) -> TowerSettings:
        """Return the settings; `quick`: with sizes that fit the tiny towers."""
        if quick and "size" in self.settings:
            return {**self.settings, "size": 16, "image_tokens": 4}
        return self.settings


def protocol(batch: int, **more: Any) -> Protocol:
    """Return a recipe with this batch size; `more` are keys of the protocol."""
    return parse(Protocol, {"lr": 1e-4, "steps": 1, "batch_size": batch, **more}, "bench")


def adapt_backbone(
    name: str,
    method: str | None,
    settings: TowerSettings,
    recipe: Protocol,
    *,
    quick: bool,
    answers: Sequence[str] = ANSWERS,
) -> Backbone:
    """Return a backbone with a method; with None, freeze all of it, the head included."""
    torch.manual_seed(0)
    with random_weights():
        made: Backbone = parse(
            BACKBONES.load(name), dict((SMALL if quick else FULL)[name]), name
        ).build(answers, recipe)
    if method is None:
        made.requires_grad_(False)
    else:
        apply(parse(METHODS.load(method), dict(settings), method), made)
    return made


def items(batch: int) -> list[Item]:
    """Return questions with one answer each; image ids are "0", "1", ..."""
    return [Item((str(i),), QUESTION, {ANSWERS[i % len(ANSWERS)]: 1.0}) for i in range(batch)]


def training(backbone: Backbone, recipe: Protocol, visual: VisualSteps) -> Repeated:
    """Return steps of the training loop: features, forward, backward, AdamW, schedule."""
    batch = recipe.batch_size
    state, feed = start(backbone, recipe, 1), Feed(items(batch), visual, recipe, ANSWERS)

    def run(steps: int) -> None:
        state.total = state.step + steps
        train(state, [feed], 0, None, lambda _: None)

    return Repeated(run, STEPS)


def frozen_step(backbone: Backbone, recipe: Protocol, visual: VisualSteps) -> Repeated:
    """Return steps of the least that adapting a frozen backbone can cost.

    It is a forward pass, and the gradient of every activation of the text.
    """
    batch = items(recipe.batch_size)
    backbone.train()
    backbone.token_embeddings.register_forward_hook(
        lambda _module, _inputs, output: output.requires_grad_()
    )
    images = pin(visual.fetch_examples([i.images for i in batch]), backbone.device)

    def run(steps: int) -> None:
        for _ in range(steps):
            with autocast(backbone.device, recipe.precision):
                loss, _ = backbone.loss(
                    visual.features(images),
                    [i.prompt for i in batch],
                    [i.targets for i in batch],
                )
            torch.autograd.backward(loss)

    return Repeated(run, STEPS)
