"""Compacter: an adapter with sums of Kronecker products as maps (Mahabadi et al., NeurIPS 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlpeft.baselines.adapter import Adapter, Bottleneck
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.config import Positive
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import register


@register("compacter", paper="Mahabadi et al. 2021", needs=("sublayers",))
@dataclass(frozen=True)
class Compacter(Adapter):
    """An adapter with both maps of the form sum_i kron(A_i, W_i), i = 1..n.

    A_i is (n, n) and W_i is (inputs / n, outputs / n).

    The defaults are those of the VL-Adapter benchmark: n = 2, W_i of full rank, and an A_i of its
    own for every map. The published method is `n: 4`, `rank: 1` and `share_a: true`. A rank makes
    W_i a product of two factors. `share_a` uses one set of A_i for all maps of the model.

    A starts from N(0, 0.01^2), the factors of W_i from Glorot's uniform distribution with gain
    sqrt 2, and biases at zero.
    """

    # VL-Adapter switches the low rank and the shared A off, so its Compacter is not the published
    # one.
    n: Positive = 2
    rank: Positive | None = None
    share_a: bool = False

    def inject(self, backbone: Backbone) -> None:
        """Put an adapter at each site; then let all maps share one A, if `share_a` is set."""
        super().inject(backbone)
        if not self.share_a:
            return
        # A is shared after all maps are drawn, so the other parameters start as without sharing.
        maps = [module for module in backbone.modules() if isinstance(module, KroneckerLinear)]
        for module in maps[1:]:
            module.a = maps[0].a

    def bottleneck(self, width: int, backbone: Backbone) -> Bottleneck:
        """Return an adapter with Kronecker maps in place of its linear maps."""
        adapter = super().bottleneck(width, backbone)
        adapter.down = KroneckerLinear(width, self.size, self.n, self.rank)
        adapter.up = KroneckerLinear(self.size, width, self.n, self.rank)
        return adapter

    def trainable(self, backbone: Backbone) -> int:
        """Count as an adapter does, with smaller maps; a shared A adds n^3."""
        total = super().trainable(backbone)
        if self.share_a:
            total += self.n**3
        return total

    def map_count(self, inputs: int, outputs: int) -> int:
        """Count the parameters of one map.

        The W_i have inputs x outputs / n scalars, or rank x (inputs + outputs). The bias has
        `outputs`, and A has n^3 unless it is shared.
        """
        if self.rank is None:
            weights = inputs * outputs // self.n
        else:
            weights = self.rank * (inputs + outputs)
        # An adapter of width 768 and size 96 has 74,608 parameters at n = 2 and full rank.
        total = weights + outputs
        if not self.share_a:
            total += self.n**3
        return total


class KroneckerLinear(nn.Module):
    """x H + b with H = sum_i kron(A_i, W_i), (inputs, outputs); with a rank, W_i = L_i R_i.

    At full rank H is built once per forward. That is cheaper than to avoid it, because both cost
    inputs x outputs per token. At a low rank H is never built. A token then costs
    rank x n x (inputs + outputs) and rank x n^3.
    """

    def __init__(self, inputs: int, outputs: int, n: int, rank: int | None) -> None:
        super().__init__()
        _check_sizes(inputs, outputs, n, rank)
        self.n = n
        # A raw parameter keeps this start. The init hook of Hugging Face reaches linear maps and
        # embeddings only.
        self.a = nn.Parameter(torch.empty(n, n, n).normal_(std=0.01))
        sizes = [inputs // n, outputs // n]
        if rank is not None:
            sizes.insert(1, rank)
        self.w = nn.ParameterList(_init_glorot(torch.empty(n, *pair)) for pair in pairwise(sizes))
        # Named as in VL-Adapter's code: its weight decay spares names with "bias", so not this one.
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        if len(self.w) == 1:
            return functional.linear(x, self.weight(), self.b)
        # x sum_i kron(A_i, L_i R_i): contract with L_i, then with A_i, then with R_i.
        left, right = self.w
        # Index a and b: rows and columns of A_i. Index p and q: rows and columns of W_i.
        low = torch.einsum("...ap,ipr->...air", x.reshape(*x.shape[:-1], self.n, -1), left)
        mixed = torch.einsum("...air,iab->...bir", low, self.a)
        y: Tensor = torch.einsum("...bir,irq->...bq", mixed, right).flatten(-2) + self.b
        return y

    def weight(self) -> Tensor:
        """Return H transposed, (outputs, inputs), as nn.Linear stores it."""
        w = self.w[0]
        if len(self.w) == 2:
            w = self.w[0] @ self.w[1]
        return torch.einsum("iab,ipq->bqap", self.a, w).flatten(2).flatten(0, 1)


def _check_sizes(inputs: int, outputs: int, n: int, rank: int | None) -> None:
    """Refuse sizes that n does not divide, and ranks that W_i cannot have."""
    for side in (inputs, outputs):
        if side % n:
            raise UserError(
                f"n: {n} does not divide {side}, a side of an adapter's map; "
                "choose another n or size"
            )
    if rank is not None and rank > min(inputs, outputs) // n:
        raise UserError(
            f"rank: {rank} is more than W_i of {inputs // n} x {outputs // n} can have; "
            "choose a lower rank, or leave it out"
        )


@torch.no_grad()
def _init_glorot(w: Tensor) -> Tensor:
    """Draw each (rows, columns) matrix of (n, rows, columns) from Glorot's distribution."""
    for matrix in w:
        nn.init.xavier_uniform_(matrix, gain=math.sqrt(2))
    return w
