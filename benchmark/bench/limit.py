"""A training step beside the least it can cost: the frozen backbone's forward and the gradients of its activations, on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from benchmark.bench._models import Settings, adapted, frozen, protocol, training
from benchmark.bench._rows import Row, Setting
from benchmark.bench._sides import Step, time_row, turns
from benchmark.measure import cached_pixels

BENCH = "limit"


@dataclass(frozen=True)
class Case:
    """A method as its paper has it, and how much more than the limit it may cost."""

    backbone: str
    method: str
    settings: Settings
    required: float


CASES = (
    Case("vit_roberta", "lora", {}, 1.15),
    Case("vit_roberta", "routing_lora", {"function": "mul"}, 1.15),
    Case("blip", "p_adapter", {"size": 96, "image_tokens": 16, "p": 1.25}, 1.35),
)


def run(setting: Setting) -> Iterator[Row]:
    """One row a method."""
    for number, case in enumerate(CASES):
        sides = [partial(step, number, limit, setting.quick) for limit in (False, True)]
        name = f"{case.method} step, {case.backbone}"
        yield time_row(BENCH, name, turns(sides[0], sides[1], setting), setting, "at most", case.required)


def step(number: int, limit: bool, quick: bool, device: torch.device) -> Step:
    """One training step, or the limit."""
    case, recipe = CASES[number], protocol(2 if quick else 8)
    settings = {**case.settings, "size": 16, "image_tokens": 4} if quick and "size" in case.settings else case.settings
    backbone = adapted(case.backbone, None if limit else case.method, settings, recipe, quick=quick).to(device)
    return (frozen if limit else training)(backbone, recipe, cached_pixels(backbone, recipe.batch_size))
