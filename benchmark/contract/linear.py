"""The weights of linear maps, whichever way a library stores them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import Conv1D


@runtime_checkable
class Mergeable(Protocol):
    """A module around a linear map that one linear map can replace once training is over."""

    def merge(self) -> nn.Module:
        """Return the map that computes the same. The weight of the old map is changed in place."""


def weight_rows(module: nn.Module) -> Tensor:
    """Return the weight of a linear map as (outputs, inputs).

    Args:
        module: An nn.Linear, or a Conv1D: GPT-2's linear map, which stores its weight transposed.

    Returns:
        A view: what is written to it changes the module.
    """
    weight = module.get_parameter("weight")
    if isinstance(module, Conv1D):
        return weight.T
    return weight


@torch.no_grad()
def add_to_weight(module: nn.Module, delta: Tensor) -> nn.Module:
    """Add a matrix, (outputs, inputs), to the weight of a linear map; return the map."""
    weight_rows(module).add_(delta)
    return module


@torch.no_grad()
def scale_outputs(module: nn.Module, factors: Tensor) -> nn.Module:
    """Multiply the outputs of a map, bias included, by (outputs,) factors; return the map."""
    weight_rows(module).mul_(factors.unsqueeze(1))
    if getattr(module, "bias", None) is not None:
        module.get_parameter("bias").mul_(factors)
    return module


@torch.no_grad()
def scale_inputs(module: nn.Module, factors: Tensor) -> nn.Module:
    """Multiply the inputs of a linear map by (inputs,) factors; return the map."""
    weight_rows(module).mul_(factors)
    return module
