"""A training step, compared with the least that it can cost on the same inputs.

The limit is the frozen backbone's forward pass and the gradients of its activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from vlpeft.benchmark.bench._models import (
    MethodCase,
    adapt_backbone,
    frozen_step,
    protocol,
    training,
)
from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting
from vlpeft.benchmark.bench._sides import Repeated, time_row, turns
from vlpeft.benchmark.plan.measure import cached_pixels

BENCH = "limit"


@dataclass(frozen=True)
class LimitCase(MethodCase):
    """A method, and how much more than the limit it may cost."""

    required: float


CASES = (
    LimitCase("vit_roberta", "lora", {}, 1.15),
    LimitCase("vit_roberta", "routing_lora", {"function": "mul"}, 1.15),
    LimitCase("blip", "p_adapter", {"size": 96, "image_tokens": 16, "p": 1.25}, 1.35),
)


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Return a row for each method."""
    for number, case in enumerate(CASES):
        sides = [partial(step, number, limit, setting.quick) for limit in (False, True)]
        name = f"{case.method} step, {case.backbone}"
        yield time_row(
            BENCH, name, turns(sides[0], sides[1], setting), setting, "at most", case.required
        )


def step(number: int, limit: bool, quick: bool, device: torch.device) -> Repeated:
    """Return training steps, or the limit."""
    case, recipe = CASES[number], protocol(2 if quick else 8)
    method, settings = None if limit else case.method, case.sized(quick=quick)
    backbone = adapt_backbone(case.backbone, method, settings, recipe, quick=quick).to(device)
    return (frozen_step if limit else training)(
        backbone, recipe, cached_pixels(backbone, recipe.batch_size)
    )
