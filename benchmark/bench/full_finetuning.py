"""A training step of LoRA, compared with full fine-tuning: RoBERTa-base and ViT-B/16 on VQA.

The features of a frozen vision tower are cached.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from vlpeft.benchmark.bench._models import adapt_backbone, protocol, training
from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting
from vlpeft.benchmark.bench._sides import Repeated, memory_row, time_row, turns
from vlpeft.benchmark.plan.measure import cached_pixels, pixels

BENCH = "full_finetuning"
SIDES = {"both towers": {"vision": True}, "text tower alone, both cached": {"vision": False}}


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Compare with training both towers, and with training the text tower alone."""
    for name, settings in SIDES.items():
        batch = 2 if setting.quick else 4
        ours = partial(step, "lora", (), batch, setting.quick)
        pairs = turns(
            ours,
            partial(step, "full_finetuning", tuple(settings.items()), batch, setting.quick),
            setting,
        )
        yield time_row(BENCH, f"LoRA step, {name}", pairs, setting, "at least", 3.0)
        yield memory_row(BENCH, f"LoRA step, {name}", pairs, "at least", 5.0)


def step(
    method: str,
    settings: tuple[tuple[str, bool], ...],
    batch: int,
    quick: bool,
    device: torch.device,
) -> Repeated:
    """Return training steps."""
    recipe = protocol(batch)
    backbone = adapt_backbone("vit_roberta", method, dict(settings), recipe, quick=quick).to(device)
    live = any(p.requires_grad for p in backbone.vision.parameters())
    visual = pixels(backbone, batch) if live else cached_pixels(backbone, batch)
    return training(backbone, recipe, visual)
