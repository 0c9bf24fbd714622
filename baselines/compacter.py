"""Compacter: an adapter whose maps are sums of Kronecker products (Mahabadi et al., NeurIPS 2021)."""

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
    """An adapter with both maps of the form sum_i kron(A_i, W_i), i = 1..n; A_i is (n, n), W_i (inputs / n, outputs / n).

    The defaults are those of the VL-Adapter benchmark: n = 2, W_i of full rank, every map with its own A_i. The published
    method is `n: 4`, `rank: 1`, which makes W_i a product through so many dimensions, and `share_a: true`, one set of A_i
    for all maps of the model.

    A starts from N(0, 0.01), the factors of W_i from Glorot's uniform with gain sqrt 2, and biases at zero.
    """

    n: Positive = 2
    rank: Positive | None = None
    share_a: bool = False

    def inject(self, backbone: Backbone) -> None:
        """As an adapter; then one A for all, where it is shared."""
        super().inject(backbone)
        if self.share_a:
            first, *others = (
                module for module in backbone.modules() if isinstance(module, KroneckerLinear)
            )
            for module in others:
                module.a = first.a

    def bottleneck(self, width: int, backbone: Backbone) -> Bottleneck:
        """The module to add: an adapter's, with other maps."""
        made = super().bottleneck(width, backbone)
        made.down, made.up = (
            KroneckerLinear(*ends, self.n, self.rank)
            for ends in ((width, self.size), (self.size, width))
        )
        return made

    def trainable(self, backbone: Backbone) -> int:
        """As an adapter, with maps of fewer parameters, and n^3 for a shared A."""
        return super().trainable(backbone) + (self.n**3 if self.share_a else 0)

    def map_count(self, inputs: int, outputs: int) -> int:
        """inputs x outputs / n, or rank x (inputs + outputs); outputs for the bias; n^3 for A, unless it is shared."""
        weights = (
            inputs * outputs // self.n if self.rank is None else self.rank * (inputs + outputs)
        )
        return weights + outputs + (0 if self.share_a else self.n**3)


class KroneckerLinear(nn.Module):
    """x H + b with H = sum_i kron(A_i, W_i), (inputs, outputs); with a rank, W_i = L_i R_i.

    At full rank H is cheaper to build, once a forward, than to avoid: both cost inputs x outputs a token. At a low rank it
    is never built: a token then costs rank x n x (inputs + outputs) and rank x n^3.
    """

    def __init__(self, inputs: int, outputs: int, n: int, rank: int | None) -> None:
        super().__init__()
        if inputs % n or outputs % n:
            raise UserError(
                f"n: {n} does not divide {inputs if inputs % n else outputs}, a side of an adapter's map; choose another n or size"
            )
        if rank is not None and rank > min(inputs, outputs) // n:
            raise UserError(
                f"rank: {rank} is more than W_i of {inputs // n} x {outputs // n} can have; choose less, or leave it out"
            )
        self.n = n
        self.a = nn.Parameter(torch.empty(n, n, n).normal_(std=0.01))
        ends = [inputs // n, outputs // n] if rank is None else [inputs // n, rank, outputs // n]
        self.w = nn.ParameterList(_glorot(torch.empty(n, *pair)) for pair in pairwise(ends))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        if len(self.w) == 1:
            return functional.linear(x, self.weight(), self.bias)
        left, right = self.w
        low = torch.einsum("...ap,ipr->...air", x.reshape(*x.shape[:-1], self.n, -1), left)
        mixed = torch.einsum("...air,iab->...bir", low, self.a)
        y: Tensor = torch.einsum("...bir,irq->...bq", mixed, right).flatten(-2) + self.bias
        return y

    def weight(self) -> Tensor:
        """H transposed, (outputs, inputs), as nn.Linear stores it."""
        w = self.w[0] if len(self.w) == 1 else self.w[0] @ self.w[1]
        return torch.einsum("iab,ipq->bqap", self.a, w).flatten(2).flatten(0, 1)


@torch.no_grad()
def _glorot(w: Tensor) -> Tensor:
    for each in w:
        nn.init.xavier_uniform_(each, gain=math.sqrt(2))
    return w
