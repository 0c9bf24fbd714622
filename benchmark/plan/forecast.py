"""`vlpeft plan --cost`: estimate what training a sweep costs, from a few measured steps.

Each kind of cell (all seeds together) is measured on random weights and images, in the
protocol's batch. If the vision tower is frozen, its features are computed beforehand, as the
feature cache does. Evaluation, and computing these features once, are not included.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import median

import torch

from vlpeft.benchmark.backbones.weights import random_weights
from vlpeft.benchmark.cells.cell import Cell, Part, Plan, Planned
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.processes import end_with_parent
from vlpeft.benchmark.plan.checker import UNREADABLE
from vlpeft.benchmark.plan.measure import ANSWERS, cached_pixels, items, pixels, shorten_error
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.compile import compile_errors, compile_layers
from vlpeft.benchmark.run.features import VisualSteps, redraws_images
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.loop import TrainingState, start, train
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.run.runtime import Runtime, prepare_torch

STEPS = 3  # measured, after one that warms up


@dataclass(frozen=True)
class Forecast:
    """The cost of the cells that differ only by their seeds, or the reason why there is none.

    Attributes:
        cells: The number of seeds.
        steps: The training steps of one cell.
        step_seconds: The seconds of one step.
        hours: The hours of all cells: of a GPU, or of all threads of a CPU added up.
        failed: Why nothing could be measured; "" if it was.
    """

    backbone: str
    method: str
    task: str
    dataset: str
    cells: int
    steps: int = 0
    step_seconds: float = 0.0
    hours: float = 0.0
    failed: str = ""


def forecasts(plan: Plan, batch: int | None, runtime: Runtime) -> Iterator[Forecast]:
    """Measure each kind of cell in the plan's order; yield each forecast at once.

    Skipped cells are left out. If data is missing, the number of steps is unknown: then nothing
    is measured, and `failed` says why.

    Args:
        plan: The checked sweep.
        batch: Examples in a measured step; a step's cost is then scaled to the protocol's
            batch. None measures the protocol's batch.
        runtime: The device and threads.

    Raises:
        UserError: If the data of no cell can be read, or a measuring process was killed.
    """
    groups = list(_group_seeds(plan))
    if groups and all(cells[0].skipped for cells in groups):
        raise UserError(f"--cost: no cell has readable data; the first: {groups[0][0].skipped}")
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as pool:
        for cells in groups:
            yield _forecast(cells, batch, runtime, pool)


def _group_seeds(plan: Plan) -> Iterator[list[Planned]]:
    """Return the cells of a plan in groups that differ only by their seeds."""
    groups: dict[str, list[Planned]] = {}
    for planned in plan.cells:
        if planned.skipped and not planned.skipped.startswith(UNREADABLE):
            continue
        key = json.dumps(dump(replace(planned.cell, seed=0)), sort_keys=True)
        groups.setdefault(key, []).append(planned)
    yield from groups.values()


def _forecast(
    cells: Sequence[Planned], batch: int | None, runtime: Runtime, pool: ProcessPoolExecutor
) -> Forecast:
    """Measure one kind of cell in the process of `pool`."""
    first = cells[0]
    about = Forecast(
        first.backbone, first.row, first.task, first.dataset, len(cells), failed=first.skipped
    )
    if about.failed:
        return about
    try:
        steps = total_steps(first.cell)
        seconds = pool.submit(step_seconds, first.cell, batch, runtime).result()
    except BrokenProcessPool:
        raise UserError(
            f"{first.row} on {first.backbone}: the process was killed (out of memory?); "
            "lower --batch"
        ) from None
    except (UserError, RuntimeError) as error:
        # torch raises RuntimeError if memory runs out, on a GPU and on a CPU.
        return replace(about, failed=shorten_error(error))
    hours = seconds * steps * len(cells) / 3600
    return replace(about, steps=steps, step_seconds=seconds, hours=hours)


def total_steps(cell: Cell) -> int:
    """Return the number of training steps of a cell.

    Raises DataError if that depends on the size of a dataset which cannot be read.
    """
    if cell.protocol.steps is not None:
        return cell.protocol.steps
    batches = 0
    for part in cell.parts:
        # The last batch of an epoch may be smaller: round up.
        batches += -(-len(Inputs.open(part).items) // part.protocol.batch_size)
    return cell.protocol.total_steps(batches)


def step_seconds(cell: Cell, batch: int | None, runtime: Runtime) -> float:
    """Return the median time of a training step in the protocol's batch.

    CPU seconds on a CPU, elapsed seconds on a GPU. For a joint cell it is the mean over tasks.
    """
    device = prepare_torch(runtime)
    torch.manual_seed(cell.seed)
    with random_weights():
        backbone = build(cell, ANSWERS).to(device)
    if runtime.compile:
        compile_layers(backbone)
    trains = any(p.requires_grad for p in backbone.vision.parameters())
    state = start(backbone, replace(cell.protocol, steps=1, epochs=None, select="last"), 1)
    found = []
    for number, part in enumerate(cell.parts):
        full = part.protocol.batch_size
        size = min(batch or full, full)
        visual = _visual(backbone, part, size, trains=trains)
        protocol = replace(part.protocol, batch_size=size)
        feed = Feed(items(part.task, size), visual, protocol, ANSWERS, number)
        backbone.follow(feed.protocol, ANSWERS, number)
        taken = [_one(state, feed, cell.seed, runtime) for _ in range(1 + STEPS)]
        found.append(median(taken[1:]) * full / size)
    return sum(found) / len(found)


def _visual(backbone: Backbone, part: Part, size: int, *, trains: bool) -> VisualSteps:
    """Return random images; their features are cached if every step sees the same ones.

    `trains`: the vision tower trains, so its features change from step to step.
    """
    if trains or redraws_images(part.protocol):
        return pixels(backbone, size)
    return cached_pixels(backbone, size)


def _one(state: TrainingState, feed: Feed, seed: int, runtime: Runtime) -> float:
    """Train for one step and return its seconds."""
    state.total = state.step + 1
    began = time.process_time()
    with compile_errors():
        train(state, [feed], seed, runtime.micro_batch, lambda _: None)
    if state.backbone.device.type == "cuda":
        return state.step_seconds[-1]
    return time.process_time() - began


def total_hours(found: Sequence[Forecast]) -> float:
    """Return the hours of all cells that could be measured."""
    return sum(each.hours for each in found)
