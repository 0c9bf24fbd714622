"""A training step through `torch.compile`, compared with the same step without it.

The first step, which compiles everything, has its own row.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from tempfile import TemporaryDirectory

import torch

from vlpeft.benchmark.bench._models import (
    MethodCase,
    adapt_backbone,
    protocol,
    training,
)
from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting, row
from vlpeft.benchmark.bench._sides import Repeated, time_row, turns
from vlpeft.benchmark.core.processes import end_with_parent
from vlpeft.benchmark.plan.measure import cached_pixels
from vlpeft.benchmark.run.compile import compile_layers
from vlpeft.benchmark.run.runtime import Runtime, prepare_torch

BENCH = "compile"


CASES = (
    MethodCase("vit_roberta", "lora", {}),
    MethodCase("blip", "p_adapter", {"size": 96, "image_tokens": 16, "p": 1.25}),
)


def run(setting: BenchSetting) -> Iterator[BenchRow]:
    """Return two rows for each method; a quick run has only the first method."""
    for number, case in enumerate(CASES[:1] if setting.quick else CASES):
        name = f"{case.method} step, {case.backbone}"
        sides = [partial(step, number, compiled, setting.quick) for compiled in (True, False)]
        yield time_row(BENCH, name, turns(sides[0], sides[1], setting), setting, "at most", None)
        ours, other = (first_step(number, compiled, setting) for compiled in (True, False))
        yield row(
            BENCH,
            f"{name}, the first one, building included",
            "s",
            [(ours, other)],
            "at most",
            None,
        )


def step(number: int, compiled: bool, quick: bool, device: torch.device) -> Repeated:
    """Return training steps."""
    case, recipe = CASES[number], protocol(2 if quick else 8)
    backbone = adapt_backbone(case.backbone, case.method, case.settings, recipe, quick=quick).to(
        device
    )
    if compiled:
        compile_layers(backbone, "aot_eager" if quick else "inductor")  # which needs no compiler
    return training(backbone, recipe, cached_pixels(backbone, recipe.batch_size))


def first_step(number: int, compiled: bool, setting: BenchSetting) -> float:
    """Return elapsed seconds, in a new process and with an empty compile cache."""
    if setting.quick:
        return _first_step(number, compiled, setting)
    with (
        TemporaryDirectory() as cache,
        ProcessPoolExecutor(1, get_context("spawn"), _keep_graphs, (cache,)) as pool,
    ):
        return pool.submit(_first_step, number, compiled, setting).result()


def _keep_graphs(folder: str) -> None:
    end_with_parent()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder


def _first_step(number: int, compiled: bool, setting: BenchSetting) -> float:
    device = prepare_torch(Runtime(device=setting.device, threads=1))
    began = time.perf_counter()
    step(number, compiled, setting.quick, device).run(1)
    return time.perf_counter() - began
