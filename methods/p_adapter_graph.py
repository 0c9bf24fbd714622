"""The attention graph of the p-adapter: its scalars p and mu, and its nodes.

Both variants of the p-adapter use these parts (see `methods/p_adapter.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import Conv1D

from vlpeft.benchmark.contract.attention import Seen
from vlpeft.benchmark.core.errors import UserError

Concat = Literal["query", "zero", "noise"]


class Laplacian(nn.Module):
    """The scalars p and mu of one layer.

    Args:
        name: The name of the site, for the record.
        p: The value that p starts from.
        learnable_p: Whether p trains.
        mu: The constant c of the release's configuration; the paper's mu itself.
        train_mu: Whether mu is c (2 + tanh s) with a trained s that starts at 0 (the release).
            Otherwise mu is c and fixed (the paper calls it a hyper-parameter).
    """

    def __init__(
        self, name: str, *, p: float, learnable_p: bool, mu: float, train_mu: bool
    ) -> None:
        super().__init__()
        self.name = name
        self.c = mu
        self.p = nn.Parameter(torch.full((1,), p), requires_grad=learnable_p)
        self.raw_mu: nn.Parameter | None = None
        if train_mu:
            self.raw_mu = nn.Parameter(torch.zeros(1))

    def mu(self) -> Tensor:
        """Return mu, shape (1,)."""
        if self.raw_mu is None:
            # The paper does not say that mu is learned.
            return torch.full_like(self.p, self.c)
        # c (2 + tanh s): it starts at 2c and stays between c and 3c.
        return self.c * torch.tanh(self.raw_mu) + 2 * self.c

    def forward(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return p and the ratio 2 mu / p of equation (13), each of shape (1,)."""
        # Paper and release have 2 mu / p here. The code of p-GNN has 4 mu / p for beta; do not mix
        # the two.
        return self.p.to(dtype), (2 * self.mu() / self.p).to(dtype)

    def scalars(self) -> Mapping[str, float]:
        """Return the current p and mu for the record.

        Raises UserError if p is not positive: 2 mu / p then has the wrong sign or is infinite.
        Neither the paper nor the release constrains p.
        """
        p = self.p.item()
        if p <= 0:
            raise UserError(
                f"p of {self.name} became {p:.3g}; lower `lr`, "
                "exclude it from weight decay, or fix p"
            )
        return {f"{self.name}.p": p, f"{self.name}.mu": self.mu().item()}


def query_nodes(query: Tensor, concat: Concat) -> Tensor:
    """Return the features of the query nodes, of the same shape as `query` (Table 3).

    The released code holds `zero` and `noise` as commented lines. Its noise is drawn again in each
    forward, at evaluation too.
    """
    if concat == "zero":
        return torch.zeros_like(query)
    if concat == "noise":
        return torch.randn_like(query)
    return query


def linear(module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the weight (outputs, inputs) and the bias (outputs,) of a linear map.

    `module` is an nn.Linear, or a Conv1D: GPT-2's linear map, which stores its weight transposed.
    """
    weight = module.get_parameter("weight").to(dtype)
    bias = module.get_parameter("bias").to(dtype)
    if isinstance(module, Conv1D):
        return weight.T, bias
    return weight, bias


def as_float32(seen: Seen) -> Seen:
    """Convert to float32, and leave float64 as it is.

    The release adds 1e-8 to the probabilities. Half precision rounds that to 0.
    """
    return Seen(*(x.to(torch.promote_types(x.dtype, torch.float32)) for x in seen))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split (batch, nodes, width) into (batch, heads, nodes, width / heads)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)
