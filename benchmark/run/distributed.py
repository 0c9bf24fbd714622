"""What the processes (ranks) of one cell say to each other.

Every rank holds the whole model, computes a piece of each batch, and makes the same step. A cell in one process is a world
of one rank, for which everything here does nothing, so that there is one way through training and evaluation.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from vlpeft.benchmark.libraries.torch import join_group

T = TypeVar("T")
# Not what finds a dead rank (see benchmark/run/ranks.py): others may wait as long for rank 0, which alone computes metrics.
PATIENCE = timedelta(hours=6)
LOOPBACK = "lo"


class PeerLost(RuntimeError):
    """The other ranks cannot be reached. It follows from a failure elsewhere, which is the cause."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a cell, as one of them sees them."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and reports progress."""
        return self.rank == 0

    def piece(self, size: int) -> range:
        """Places in a batch of `size` that are this rank's. Pieces differ by one at most; of a small batch some are empty."""
        return range(size * self.rank // self.world, size * (self.rank + 1) // self.world)

    def reseed(self, seed: int, step: int) -> None:
        """Give each rank draws of its own at every step: a function of (seed, step, rank), so that no rank's state need be saved.

        A world of one keeps drawing from one stream.
        """
        if self.world > 1:
            digest = hashlib.sha256(f"{seed}/{step}/{self.rank}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "big"))

    def sum_gradients(
        self, parameters: Sequence[nn.Parameter], loss: float, terms: int
    ) -> tuple[float, int]:
        """Sum the gradients of all ranks in place; returns the sums of their losses and of the terms in them.

        Each gradient is of a summed loss, so that sums over ranks, divided by all terms, are those of the whole batch,
        however unequal the pieces. A parameter has a gradient afterwards if any rank had one: the optimizer passes over the
        others, as it does in one process. What trains is little, so all of it travels in one message after backward.
        """
        if self.world == 1:
            return loss, terms
        found = torch.tensor(
            [loss, terms, *(p.grad is not None for p in parameters)], dtype=torch.float64
        )
        with _talking():
            distributed.all_reduce(found)
        moved = [p for p, count in zip(parameters, found[2:].tolist(), strict=True) if count]
        if moved:
            flat = torch.cat(
                [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in moved]
            )
            with _talking():
                distributed.all_reduce(flat)
            for p, grad in zip(moved, torch.split(flat, [p.numel() for p in moved]), strict=True):
                p.grad = grad.view_as(p)
        return float(found[0]), int(found[1])

    def gather(self, mine: T) -> list[T]:
        """What each rank has, by rank; the same list on all."""
        if self.world == 1:
            return [mine]
        found: list[T] = [mine] * self.world
        with _talking():
            distributed.all_gather_object(found, mine)
        return found

    def once(self, make: Callable[[], T]) -> T:
        """What `make` gives on the first rank, which alone calls it."""
        if self.world == 1:
            return make()
        found: list[T | None] = [make() if self.first else None]
        with _talking():
            distributed.broadcast_object_list(found, src=0)
        (given,) = found
        return given  # type: ignore[return-value] # broadcast has filled it

    def check_equal(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise RuntimeError unless all ranks hold the same bits: from other weights they would train another model each."""
        if self.world > 1 and len(set(self.gather(_digest(tensors.values())))) > 1:
            raise RuntimeError(
                "the ranks have built models with different weights: something was drawn without torch's generator"
            )


ALONE = Ranks()


def join(rank: int, world: int, meeting: Path, device: torch.device) -> Ranks:
    """Meet the other ranks of this machine in the file `meeting`: gloo carries what lies on the CPU, nccl what lies on GPUs.

    There is no parting: a process is a rank until it ends, and to part would be to wait for ranks that may be gone.
    """
    if Path(f"/sys/class/net/{LOOPBACK}").exists():
        os.environ.setdefault(
            "GLOO_SOCKET_IFNAME", LOOPBACK
        )  # else it asks for the host's name, which not every node can resolve
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _talking():
        join_group(backend, meeting, rank, world, PATIENCE)
    return Ranks(rank, world)


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PeerLost(" ".join(str(error).split())) from error


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
