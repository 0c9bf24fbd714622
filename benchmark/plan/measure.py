"""`vlpeft measure`: time one full-size training step of every method on every backbone.

Models have random weights, so nothing is downloaded first. The step shows how long training
takes and about what fits on a machine. Questions have one short answer here; longer texts and
more answers need more. Each step runs in its own process, so that its peak memory is its own.
The forward pass of the frozen vision tower is part of the step.
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
from vlpeft.benchmark.core.processes import end_with_parent
from vlpeft.benchmark.plan.check import combinations
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.compile import eager
from vlpeft.benchmark.run.cost import Meter, parameters
from vlpeft.benchmark.run.features import VisualSteps
from vlpeft.benchmark.run.loop import start, train
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.run.runtime import Runtime, prepare_torch
from vlpeft.benchmark.tasks import TASKS
from vlpeft.benchmark.tasks.base import Item

QUESTION = "what is the man in the red shirt holding in his hand?"
ANSWERS = ("a racket", "a ball", "nothing")
CAPTION = "a man in a red shirt is holding a tennis racket on a court"
REASON_CHARACTERS = 200  # of an error that is shown in a table


@dataclass(frozen=True)
class MeasuredStep:
    """One measured training step, or the reason why it could not run.

    peak_memory_mb: MiB; the process's resident memory on a CPU, torch's allocations on a GPU.
    """

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


def measure(sweep: SweepHandle, batch: int, runtime: Runtime) -> Iterator[MeasuredStep]:
    """Measure one step of each method on each backbone, in the sweep's order."""
    for planned in combinations(sweep):
        yield _measure_isolated(planned, batch, runtime)


def _measure_isolated(planned: Planned, batch: int, runtime: Runtime) -> MeasuredStep:
    """Measure one step in its own process."""
    about = MeasuredStep(planned.backbone, planned.row, planned.task)
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as pool:
        try:
            return pool.submit(_measure, planned.cell, about, batch, runtime).result()
        except BrokenProcessPool:
            return replace(about, failed="its process was killed: out of memory?")
        except (UserError, RuntimeError) as error:
            # torch raises RuntimeError if memory runs out, on a GPU and on a CPU.
            return replace(about, failed=shorten_error(error))


def shorten_error(error: Exception) -> str:
    """Return an error's message on one line, cut to fit a table."""
    return " ".join(str(error).split())[:REASON_CHARACTERS]


def _measure(cell: Cell, about: MeasuredStep, batch: int, runtime: Runtime) -> MeasuredStep:
    """Build the model and train it for one step."""
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
    """Return `batch` examples of a task with short texts; image ids are "0", "1", ..."""
    kind = TASKS.load(task)
    text, targets = QUESTION, {ANSWERS[0]: 1.0}
    if not kind.asks:
        text, targets = "", {CAPTION: 1.0}
    return [Item((str(i),) * kind.images, text, targets) for i in range(batch)]


def pixels(backbone: Backbone, batch: int) -> VisualSteps:
    """Return the features of `batch` random images, computed again at each use."""
    pixels = backbone.vision.random_inputs(batch)

    def finish(found: Tensor) -> Tensor:
        # The graph is kept only if the vision tower trains, as in the training loop.
        trains = any(p.requires_grad for p in backbone.vision.parameters())
        with torch.set_grad_enabled(trains):
            features: Tensor = backbone.vision(found.to(backbone.device))
        return features

    return VisualSteps(lambda ids, _: pixels[[int(image) for image in ids]], finish)


def cached_pixels(backbone: Backbone, batch: int) -> VisualSteps:
    """Return the features of `batch` random images, computed once without torch.compile.

    That is what a feature cache holds.
    """
    ids = [[str(i)] for i in range(batch)]
    with eager():
        found = pixels(backbone, batch)(ids).detach()[:, 0].cpu()
    return VisualSteps(
        lambda ids, _: found[[int(image) for image in ids]],
        lambda rows: rows.to(backbone.device, non_blocking=True),
    )
