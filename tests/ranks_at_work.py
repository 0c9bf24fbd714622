"""The functions that the ranks of tests/unit/test_ranks.py run.

The module imports little, because every rank imports it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.checkpoint import trained_tensors
from vlpeft.benchmark.run.distributed import Ranks, join
from vlpeft.benchmark.run.features import VisualSteps
from vlpeft.benchmark.run.loop import start, train
from vlpeft.benchmark.run.model import build
from vlpeft.benchmark.run.ranks import Link, run_ranks
from vlpeft.benchmark.tasks.base import Item


def meet(link: Link) -> Ranks:
    return join(link.rank, link.world, link.meeting, torch.device("cpu"))


@dataclass(frozen=True)
class Job:
    """A model to train on some items, whose images have numbers as names."""

    cell: Cell
    items: Sequence[Item]
    answers: tuple[str, ...]


def train_alike(job: Job, ranks: Ranks) -> dict[str, Any]:
    """Return the trained tensors and the curve of three steps, each batch in parts of two.

    Dropout is off.
    """
    torch.manual_seed(0)
    backbone, protocol = build(job.cell, job.answers), job.cell.protocol
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    tower = backbone.vision

    def fetch(ids: Sequence[str], _seeds: Sequence[str]) -> Tensor:
        return torch.stack(
            [
                torch.randn(
                    3, tower.size, tower.size, generator=torch.Generator().manual_seed(int(i))
                )
                for i in ids
            ]
        )

    # One image at a time: in a batch of another size the frozen tower may round differently.
    visual = VisualSteps(fetch, lambda pixels: torch.cat([tower(image[None]) for image in pixels]))
    state = start(backbone, protocol, 2)
    train(state, [Feed(job.items, visual, protocol, job.answers)], 0, 2, lambda _: None, ranks)
    ranks.check_equal(trained_tensors(backbone))
    return {
        "tensors": {name: p.numpy() for name, p in trained_tensors(backbone).items()},
        "curve": state.curve,
    }


def train_all(jobs: Sequence[Job], link: Link) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    ranks = meet(link)
    return [train_alike(job, ranks) for job in jobs]


def sum_some(link: Link) -> list[Any]:
    """Sum gradients: rank 0 has one for the first of three parameters, rank 1 for the first two."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    for p in parameters[: link.rank + 1]:
        p.grad = torch.tensor([1.0, 10.0]) * (link.rank + 1)
    sums = meet(link).sum_gradients(parameters, 0.5, 10**10 + link.rank)
    return [sums, [None if p.grad is None else p.grad.tolist() for p in parameters]]


def be_unlike(link: Link) -> None:
    meet(link).check_equal({"weight": torch.full((2,), float(link.rank))})


def fail(failing: int, how: str, link: Link) -> None:
    """Let one rank fail while the others wait for it."""
    ranks = meet(link)
    if link.rank == failing:
        if how == "raise":
            raise MemoryError("no more")
        if how == "leave":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.gather(0)


def be_deaf(link: Link) -> list[int]:
    """Send all signals to this process that SLURM may send to every process of a job."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    link.report(link.rank, link.world)
    return [link.rank, link.world]


def sleep(folder: Path, link: Link) -> None:
    (folder / f"{os.getpid()}").touch()
    time.sleep(120)


def start_sleepers(folder: Path) -> None:
    in_ranks(sleep, 2, folder)


def in_ranks(
    work: Any,
    world: int,
    *arguments: object,
    hear: Any = lambda *_: None,
    fresh: bool = False,
) -> Any:
    """Return what `work(*arguments, link)` returns on rank 0."""
    return run_ranks(partial(work, *arguments), world, fresh, hear, lambda: False)
