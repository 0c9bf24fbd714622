"""Communication between the processes (ranks) of one cell.

Every rank holds the whole model, computes its piece of each batch, and makes the same step: plain
data parallelism. A cell in one process is a world of one rank. For it, all functions here do
nothing, so training and evaluation have one code path.

`DistributedDataParallel` is not used. It averages gradients over ranks, which is wrong for unequal
pieces. It also expects a gradient for every parameter in every step.
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

from vlpeft.benchmark.core.libraries.torch import join_group

T = TypeVar("T")
# Dead ranks are found by benchmark/run/ranks.py, not by this timeout. It must be long, because all
# ranks wait while rank 0 computes the metrics.
PATIENCE = timedelta(hours=6)
LOOPBACK = "lo"


class PeerLost(RuntimeError):
    """The other ranks cannot be reached. The cause is a failure elsewhere."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a cell, as one of them sees them."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes the files and reports progress."""
        return self.rank == 0

    def piece(self, size: int) -> range:
        """Return which places of a batch of `size` items are this rank's.

        The lengths of the pieces differ by at most one. Pieces of a small batch may be empty.
        """
        return range(size * self.rank // self.world, size * (self.rank + 1) // self.world)

    def reseed(self, seed: int, step: int) -> None:
        """Seed torch for a step, so that each rank draws its own dropout masks.

        The seed is a function of (seed, step, rank), so no rank's random state has to be saved. A
        world of one rank keeps drawing from one stream, which a checkpoint saves.
        """
        if self.world > 1:
            digest = hashlib.sha256(f"{seed}/{step}/{self.rank}".encode()).digest()
            # Ranks with equal masks would repeat one pattern for several parts of a batch.
            torch.manual_seed(int.from_bytes(digest[:8], "big"))

    def sum_gradients(
        self, parameters: Sequence[nn.Parameter], loss: float, terms: int
    ) -> tuple[float, int]:
        """Sum the gradients of all ranks in place.

        Each gradient belongs to a summed loss. So the sum over ranks, divided by the number of all
        terms, is the gradient of the whole batch, however unequal the pieces are.

        A parameter has a gradient afterwards if it had one on any rank. The optimizer skips the
        others, as it does in one process; a gradient of zero would still cause weight decay.

        Returns:
            The sum of the losses of all ranks, and the number of terms in it.
        """
        if self.world == 1:
            return loss, terms
        # float64 holds the number of terms exactly.
        numbers = [loss, terms, *(p.grad is not None for p in parameters)]
        found = torch.tensor(numbers, dtype=torch.float64)
        with _peer_errors():
            distributed.all_reduce(found)
        moved = [p for p, count in zip(parameters, found[2:].tolist(), strict=True) if count]
        if moved:
            _sum_in_place(moved)
        return float(found[0]), int(found[1])

    def gather(self, mine: T) -> list[T]:
        """Return the values of all ranks, by rank. All ranks get the same list."""
        if self.world == 1:
            return [mine]
        found: list[T] = [mine] * self.world
        with _peer_errors():
            distributed.all_gather_object(found, mine)
        return found

    def once(self, make: Callable[[], T]) -> T:
        """Call `make` on the first rank only, and return its result on all ranks."""
        if self.world == 1:
            return make()
        found: list[T | None] = [None]
        if self.first:
            # If this raises, benchmark/run/ranks.py ends the ranks that wait below.
            found = [make()]
        with _peer_errors():
            distributed.broadcast_object_list(found, src=0)
        (result,) = found
        return result  # type: ignore[return-value] # broadcast has filled it

    def check_equal(self, tensors: Mapping[str, Tensor]) -> None:
        """Check that all ranks hold the same bits. With different weights they would diverge.

        Raises:
            RuntimeError: the tensors differ.
        """
        if self.world == 1:
            return
        # Gathering digests moves a few bytes in place of all weights.
        digests = self.gather(_digest(tensors.values()))
        if len(set(digests)) > 1:
            raise RuntimeError(
                "the ranks have built models with different weights: "
                "something was drawn without torch's generator"
            )


ALONE = Ranks()


def join(rank: int, world: int, meeting: Path, device: torch.device) -> Ranks:
    """Join the other ranks of this machine. They find each other through the file `meeting`.

    gloo transfers tensors on the CPU, nccl those on GPUs. There is no function to leave the group:
    a process is a rank until it ends, and leaving would wait for ranks that may be gone.
    """
    if Path(f"/sys/class/net/{LOOPBACK}").exists():
        # Otherwise gloo resolves the host's name, which fails on some nodes of clusters.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _peer_errors():
        join_group(backend, meeting, rank, world, PATIENCE)
    return Ranks(rank, world)


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Raise what goes wrong in communication as PeerLost. A full GPU is this rank's own failure."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PeerLost(" ".join(str(error).split())) from error


def _sum_in_place(parameters: Sequence[nn.Parameter]) -> None:
    """Sum gradients over ranks in one message: PEFT methods train few numbers."""
    flat = torch.cat([_gradient(p).flatten() for p in parameters])
    with _peer_errors():
        distributed.all_reduce(flat)
    grads = torch.split(flat, [p.numel() for p in parameters])
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad.view_as(parameter)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Return a gradient, or zeros where only other ranks have one."""
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
