"""What the next steps need, fetched by a thread while a GPU computes this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

J = TypeVar("J")
T = TypeVar("T")
DEPTH = 2  # how many jobs beside the one that is worked on are fetched for, one after another


def fetch_depth(device: torch.device) -> int:
    """A CPU has nothing to compute with while it fetches (`vlpeft bench loading`)."""
    return DEPTH if device.type == "cuda" else 0


def ahead(
    jobs: Iterable[J], fetch: Callable[[J], T], depth: int
) -> Generator[tuple[J, T], None, None]:
    """Each job with what was fetched for it, in order; an error in fetching is raised when the job's turn comes.

    One thread fetches for so many jobs ahead; at depth 0 there is none. Close the generator where it may be left early: what has
    not begun is then given up.
    """
    if not depth:
        for job in jobs:
            yield job, fetch(job)
        return
    waiting: deque[tuple[J, Future[T]]] = deque()
    pool = ThreadPoolExecutor(1, "fetch")
    try:
        for job in jobs:
            waiting.append((job, pool.submit(fetch, job)))
            if len(waiting) > depth:
                first, fetched = waiting.popleft()
                yield first, fetched.result()
        while waiting:
            first, fetched = waiting.popleft()
            yield first, fetched.result()
    finally:
        pool.shutdown(cancel_futures=True)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """For a GPU in pinned memory, from where it is copied while the GPU computes."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
