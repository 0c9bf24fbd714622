"""`vlpeft measure`: one training step of every method on every backbone of a sweep, at full size from random weights.

It says how long a step takes and about what fits on a machine, before anything is downloaded; questions have one short
answer here, longer texts and more answers need more. Each step runs in a process of
its own, so that its peak memory is its own; the frozen vision tower's forward is part of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context

import torch
from torch import Tensor

from vlpeft.benchmark.backbones.weights import random_weights
from vlpeft.benchmark.cells.cell import Cell, Planned
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.check import combinations
from vlpeft.benchmark.run.compile import eager
from vlpeft.benchmark.run.cost import Meter, parameters
from vlpeft.benchmark.run.features import Visual
from vlpeft.benchmark.run.loop import Feed, start, train
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.run.runtime import Runtime, prepare_torch
from vlpeft.benchmark.tasks import TASKS
from vlpeft.benchmark.tasks.base import Item

QUESTION, ANSWERS = (
    "what is the man in the red shirt holding in his hand?",
    ("a racket", "a ball", "nothing"),
)
CAPTION = "a man in a red shirt is holding a tennis racket on a court"


@dataclass(frozen=True)
class MeasuredStep:
    """One measured step: seconds, peak resident (CPU) or allocated (GPU) MiB of the process, loss; or why it could not run."""

    backbone: str
    method: str
    task: str
    trainable: int = 0
    total: int = 0
    build_seconds: float = 0.0
    step_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    loss: float | None = None
    failed: str = ""


def measure(name_or_path: str, batch: int, runtime: Runtime) -> Iterator[MeasuredStep]:
    """One step a (method, backbone), in the sweep's order; yields each as it is measured."""
    for planned in combinations(name_or_path):
        yield _isolated(planned, batch, runtime)


def _isolated(planned: Planned, batch: int, runtime: Runtime) -> MeasuredStep:
    about = MeasuredStep(planned.backbone, planned.row, planned.task)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, planned.cell, about, batch, runtime).result()
        except BrokenProcessPool:
            return replace(about, failed="its process was killed: out of memory?")
        except (
            UserError,
            RuntimeError,
        ) as error:  # RuntimeError: out of memory, on a GPU and on a CPU
            return replace(about, failed=" ".join(str(error).split())[:200])


def _measure(cell: Cell, about: MeasuredStep, batch: int, runtime: Runtime) -> MeasuredStep:
    device = prepare_torch(runtime)
    torch.manual_seed(cell.seed)
    meter, began = Meter(device), time.perf_counter()
    with random_weights():
        backbone = build(cell, ANSWERS).to(device)
    built = time.perf_counter() - began
    state = start(backbone, replace(cell.protocol, steps=1, epochs=None, select="last"), 1)
    feed = Feed(
        items(cell.task, batch),
        pixels(backbone, batch),
        replace(cell.protocol, batch_size=batch),
        ANSWERS,
    )
    train(state, [feed], cell.seed, runtime.micro_batch, lambda _: None)
    counts = parameters(backbone)
    return replace(
        about,
        trainable=counts["trainable"],
        total=counts["total"],
        build_seconds=built,
        step_seconds=state.step_seconds[0],
        peak_memory_mb=meter.read()["peak_memory_mb"],
        loss=state.curve[0][1],
    )


def items(task: str, batch: int) -> list[Item]:
    """So many examples of a task with short texts; image ids are numbers."""
    text, targets = ("", {CAPTION: 1.0}) if task == "captioning" else (QUESTION, {ANSWERS[0]: 1.0})
    return [Item((str(i),) * TASKS.load(task).images, text, targets) for i in range(batch)]


def pixels(backbone: Backbone, batch: int) -> Visual:
    """Features of so many random images, computed anew each time; image ids are numbers."""
    pixels = backbone.vision.random_inputs(batch)

    def finish(found: Tensor) -> Tensor:
        with torch.set_grad_enabled(any(p.requires_grad for p in backbone.vision.parameters())):
            features: Tensor = backbone.vision(found.to(backbone.device))
        return features

    return Visual(lambda ids, _: pixels[[int(image) for image in ids]], finish)


def cached_pixels(backbone: Backbone, batch: int) -> Visual:
    """The same, computed once and as it is written, as a cache gives them."""
    with eager():
        found = pixels(backbone, batch)([[str(i)] for i in range(batch)]).detach()[:, 0].cpu()
    return Visual(
        lambda ids, _: found[[int(image) for image in ids]],
        lambda rows: rows.to(backbone.device, non_blocking=True),
    )
