"""What a sweep's training will cost, from a few measured steps of each of its cells (seeds aside): `vlpeft plan --cost`.

Steps run on random weights and images, in the protocol's batch, with the features of a frozen vision tower at hand, as
the cache gives them. Evaluation, and computing features once, are not in it.
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
from vlpeft.benchmark.cells.cell import Cell, Plan, Planned
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.check import UNREADABLE
from vlpeft.benchmark.plan.measure import ANSWERS, cached_pixels, items, pixels
from vlpeft.benchmark.run.compile import compile_errors, compile_layers
from vlpeft.benchmark.run.features import redraws_images
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.loop import Feed, TrainingState, start, train
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.run.runtime import Runtime, prepare_torch

STEPS = 3  # after one that warms up


@dataclass(frozen=True)
class Forecast:
    """Cells that differ by their seeds alone: how many, steps of each, seconds of a step, hours of all; or why there are none.

    Hours are of a GPU, or of the threads of a CPU taken together.
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
    """One for each kind of cell, in the plan's order, as it is measured; cells that the grid rules out are left out.

    With `batch` so many examples are measured, and a step is taken to cost in proportion. Where the data is missing, nobody
    knows how many steps there are: nothing is measured, and `failed` says why. Raises UserError if that is so everywhere.
    """
    groups: dict[str, list[Planned]] = {}
    for planned in plan.cells:
        if planned.skipped and not planned.skipped.startswith(UNREADABLE):
            continue
        groups.setdefault(
            json.dumps(dump(replace(planned.cell, seed=0)), sort_keys=True), []
        ).append(planned)
    if groups and all(cells[0].skipped for cells in groups.values()):
        raise UserError(
            f"--cost: the data of no cell can be read; the first: {next(iter(groups.values()))[0].skipped}"
        )
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for cells in groups.values():
            first = cells[0]
            about = Forecast(
                first.backbone,
                first.row,
                first.task,
                first.dataset,
                len(cells),
                failed=first.skipped,
            )
            if about.failed:
                yield about
                continue
            try:
                steps = total_steps(first.cell)
                seconds = pool.submit(step_seconds, first.cell, batch, runtime).result()
            except BrokenProcessPool:
                raise UserError(
                    f"{first.row} on {first.backbone}: the process was killed (out of memory?); lower --batch"
                ) from None
            except (
                UserError,
                RuntimeError,
            ) as error:  # RuntimeError: out of memory, on a GPU and on a CPU
                yield replace(about, failed=" ".join(str(error).split())[:200])
                continue
            yield replace(
                about, steps=steps, step_seconds=seconds, hours=seconds * steps * len(cells) / 3600
            )


def total_steps(cell: Cell) -> int:
    """Training steps of a cell. Raises DataError where its data is needed to know, and cannot be read."""
    if cell.protocol.steps is not None:
        return cell.protocol.steps
    batches = (-(-len(Inputs.open(part).items) // part.protocol.batch_size) for part in cell.parts)
    return cell.protocol.total_steps(sum(batches))


def step_seconds(cell: Cell, batch: int | None, runtime: Runtime) -> float:
    """Median over a few steps of a step in the protocol's batch; of a joint cell the mean over its tasks. CPU seconds on a CPU."""
    device = prepare_torch(runtime)
    torch.manual_seed(cell.seed)
    with random_weights():
        backbone = build(cell, ANSWERS).to(device)
    if runtime.compile:
        compile_layers(backbone)
    live = any(p.requires_grad for p in backbone.vision.parameters())
    state = start(backbone, replace(cell.protocol, steps=1, epochs=None, select="last"), 1)
    found = []
    for number, part in enumerate(cell.parts):
        size = min(batch or part.protocol.batch_size, part.protocol.batch_size)
        visual = (pixels if live or redraws_images(part.protocol) else cached_pixels)(
            backbone, size
        )
        feed = Feed(
            items(part.task, size), visual, replace(part.protocol, batch_size=size), ANSWERS, number
        )
        backbone.follow(feed.protocol, ANSWERS, number)
        taken = [_one(state, feed, cell.seed, runtime) for _ in range(1 + STEPS)]
        found.append(median(taken[1:]) * part.protocol.batch_size / size)
    return sum(found) / len(found)


def _one(state: TrainingState, feed: Feed, seed: int, runtime: Runtime) -> float:
    state.total = state.step + 1
    began = time.process_time()
    with compile_errors():
        train(state, [feed], seed, runtime.micro_batch, lambda _: None)
    return (
        state.step_seconds[-1]
        if state.backbone.device.type == "cuda"
        else time.process_time() - began
    )


def total_hours(found: Sequence[Forecast]) -> float:
    """Of all that could be measured."""
    return sum(each.hours for each in found)
