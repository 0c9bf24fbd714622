"""Images and tokens of prompts a second in training, compared with full fine-tuning.

The towers are the papers', the images are not cached, and the batch is large enough to fill a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from vlpeft.benchmark.bench._models import MethodCase, adapt_backbone, protocol, training
from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting, row
from vlpeft.benchmark.bench._sides import Repeated, memory_row, turns
from vlpeft.benchmark.plan.measure import QUESTION, pixels

BENCH = "throughput"
BATCH, CPU_BATCH = 64, 2


CASES = (
    MethodCase("vit_roberta", "lora", {}),
    MethodCase("vit_roberta", "routing_lora", {"function": "mul"}),
    MethodCase("blip", "lora", {}),
    MethodCase("blip", "p_adapter", {"size": 96, "image_tokens": 16, "p": 1.25}),
)


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Return rows of images, tokens and memory for each method, in bfloat16 on a GPU."""
    small = setting.quick or setting.device == "cpu"
    batch = CPU_BATCH if small else BATCH
    precision = "fp32" if setting.device == "cpu" else "bf16"
    for number, case in enumerate(CASES):
        sides = [partial(step, number, whole, small, precision) for whole in (False, True)]
        pairs = turns(sides[0], sides[1], setting)
        name = f"{case.method}, {case.backbone}, {precision}, batch {batch}"
        for unit, count in (("images", float(batch)), ("tokens", pairs[0][0].said)):
            rates = [(count / mine.seconds, count / theirs.seconds) for mine, theirs in pairs]
            yield row(BENCH, f"{name}, {unit}", f"{unit}/s", rates, "at most", None)
        yield memory_row(BENCH, name, pairs, "at least", None)


def step(number: int, whole: bool, small: bool, precision: str, device: torch.device) -> Repeated:
    """Return training steps of the method, or of full fine-tuning with the vision tower.

    They return the number of tokens of the prompts of a step.
    """
    case, recipe = CASES[number], protocol(CPU_BATCH if small else BATCH, precision=precision)
    method, settings = case.method, case.sized(quick=small)
    if whole:
        method, settings = "full_finetuning", {"vision": True}
    backbone = adapt_backbone(case.backbone, method, settings, recipe, quick=small).to(device)
    train = training(backbone, recipe, pixels(backbone, recipe.batch_size))
    tokens = recipe.batch_size * len(backbone.tokenizer(QUESTION).input_ids)

    def counted(steps: int) -> int:
        train.run(steps)
        return tokens

    return Repeated(counted, train.steps)
