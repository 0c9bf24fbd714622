"""Fetch what the next steps need in a thread, while the GPU computes the current step.

Reading and decoding images is CPU work, and so is waiting for a disk. A GPU does not have to wait
for either if the next images are ready when it finishes. Fetching ahead changes the time that a
cell takes, and nothing else: order and content of the results are the same at every depth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import torch
from torch import Tensor

G = TypeVar("G")
J = TypeVar("J")
T = TypeVar("T")
DEPTH = 2  # jobs that are fetched ahead of the current one; each holds its images in memory


def fetch_depth(device: torch.device) -> int:
    """Return how many jobs to fetch ahead: 0 on a CPU, which cannot compute while it fetches.

    `vlpeft bench loading` measures what this saves.
    """
    return DEPTH if device.type == "cuda" else 0


def ahead(
    jobs: Iterable[J], fetch: Callable[[J], T], depth: int
) -> Generator[tuple[J, T], None, None]:
    """Yield each job with the result of `fetch`, in order; see `ahead_in_groups`."""
    groups = ((job, (job,)) for job in jobs)
    with closing(ahead_in_groups(groups, lambda _, job: fetch(job), depth)) as fetched:
        for job, _, results in fetched:
            yield job, next(results)


def ahead_in_groups(
    groups: Iterable[tuple[G, Sequence[J]]], fetch: Callable[[G, J], T], depth: int
) -> Generator[tuple[G, Sequence[J], Iterator[T]], None, None]:
    """Yield each group with its jobs and an iterator over the results of these jobs, in order.

    A training step is a group, and its micro-batches are the jobs. One thread fetches up to `depth`
    jobs ahead of the current one, also those of later groups. At depth 0 there is no thread: each
    job is fetched when its result is asked for.

    Take all results of a group before you ask for the next group. An error in `fetch` is raised
    where its result is taken. Close the generator if you leave it early; this cancels the jobs that
    have not begun.
    """
    if depth:
        yield from _in_thread(groups, fetch, depth)
        return
    for group, jobs in groups:
        yield group, jobs, _fetch_each(group, jobs, fetch)


def _fetch_each(group: G, jobs: Sequence[J], fetch: Callable[[G, J], T]) -> Iterator[T]:
    for job in jobs:
        yield fetch(group, job)


def _in_thread(
    groups: Iterable[tuple[G, Sequence[J]]], fetch: Callable[[G, J], T], depth: int
) -> Generator[tuple[G, Sequence[J], Iterator[T]], None, None]:
    # One thread keeps the order of the jobs. `fetch` may use more threads for one job.
    pool = ThreadPoolExecutor(1, "fetch")
    # Groups whose first job was submitted, or that are empty, and that were not yielded yet.
    opened: deque[tuple[G, Sequence[J], deque[Future[T]]]] = deque()

    def submit() -> Iterator[None]:
        """Submit one job each time that this iterator is advanced."""
        for group, jobs in groups:
            futures: deque[Future[T]] = deque()
            opened.append((group, jobs, futures))
            for job in jobs:
                futures.append(pool.submit(fetch, group, job))
                yield

    submissions = submit()

    def take(futures: deque[Future[T]], count: int) -> Iterator[T]:
        for _ in range(count):
            next(submissions, None)  # keeps the thread `depth` jobs ahead
            yield futures.popleft().result()

    try:
        for _ in range(depth):
            next(submissions, None)
        # The thread is at least one job ahead, so the next group is open whenever there is one.
        while opened:
            group, jobs, futures = opened.popleft()
            yield group, jobs, take(futures, len(jobs))
    finally:
        pool.shutdown(cancel_futures=True)


def pin(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor in pinned memory if the device is a GPU, else unchanged.

    From pinned memory a tensor is copied to the GPU while the GPU computes.
    """
    if device.type == "cuda":
        return tensor.pin_memory()
    return tensor
