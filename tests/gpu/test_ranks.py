"""Ranks on a GPU: NCCL with one rank, and two ranks that share the card through gloo."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from tests.ranks_at_work import in_ranks
from vlpeft.benchmark.core.libraries.torch import join_group
from vlpeft.benchmark.run.distributed import Ranks, join
from vlpeft.benchmark.run.ranks import Link

pytestmark = pytest.mark.gpu


def add_by_nccl(link: Link) -> list[float]:
    """Sum over a group of one rank: the library loads, finds the card and computes."""
    device = torch.device("cuda", 0)
    join(link.rank, link.world, link.meeting, device)
    tensor = torch.arange(4.0, device=device)
    distributed.all_reduce(tensor)
    found: list[float] = tensor.tolist()
    return found


def add_by_gloo(link: Link) -> list[Any]:
    """Sum gradients of two ranks on one card. NCCL refuses this, so the group is gloo's."""
    join_group("gloo", Path(link.meeting), link.rank, link.world, timedelta(minutes=1))
    parameters = [nn.Parameter(torch.zeros(2, device="cuda")) for _ in range(3)]
    for p in parameters[: link.rank + 1]:
        p.grad = torch.tensor([1.0, 10.0], device="cuda") * (link.rank + 1)
    sums = Ranks(link.rank, link.world).sum_gradients(parameters, 0.5, 10 + link.rank)
    return [*sums, [None if p.grad is None else p.grad.tolist() for p in parameters]]


def test_nccl_works(card: torch.device) -> None:
    assert in_ranks(add_by_nccl, 1, fresh=True) == [0.0, 1.0, 2.0, 3.0]


def test_two_ranks_share_the_card(card: torch.device) -> None:
    assert in_ranks(add_by_gloo, 2, fresh=True) == [1.0, 21, [[3.0, 30.0], [2.0, 20.0], None]]
