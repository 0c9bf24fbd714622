"""The optimizer and the learning-rate schedule that a protocol asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW

from vlpeft.benchmark.core.libraries.torch import make_adamw
from vlpeft.benchmark.core.protocol import Protocol


def build_optimizer(model: nn.Module, protocol: Protocol) -> AdamW:
    """Return AdamW over the trainable parameters; `protocol.decays` selects those that decay."""
    decay: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        group = decay if _decays(name, parameter, protocol.decays) else rest
        group.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decay, "weight_decay": protocol.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    # An empty group would still be part of the optimizer's state, and so of every checkpoint.
    filled = [group for group in groups if group["params"]]
    # Decoupled decay with bias correction, as Hugging Face's AdamW in the releases.
    return make_adamw(filled, lr=protocol.lr, betas=protocol.betas, eps=protocol.eps)


def _decays(name: str, parameter: Tensor, which: str) -> bool:
    """Return whether weight decay acts on a parameter: `all`, `matrices`, or all but biases."""
    # Biases, LayerNorms and scalars such as p then keep their size.
    if which == "matrices":
        return parameter.ndim > 1
    # The p-Adapter release: its p and raw mu decay too.
    if which == "all":
        return True
    # VL-Adapter also exempts `LayerNorm.weight`. No name in BART matches this, so those weights
    # decay.
    return not name.endswith("bias")


def learning_rate_factor(protocol: Protocol, total: int) -> Callable[[int], float]:
    """Return the function from a step to the factor of the learning rate.

    The factor rises linearly from 0 to 1 during warm-up. Afterwards it stays at 1 (`constant`), or
    decays to 0 at step `total` (`linear`, `cosine`).
    """
    # `warmup_steps` wins; 0 means that the protocol gives a fraction.
    warmup = protocol.warmup_steps or int(protocol.warmup_fraction * total)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        # `max` avoids a division by zero where warm-up takes all steps.
        done = (step - warmup) / max(1, total - warmup)
        # All three releases decay linearly to 0.
        if protocol.schedule == "linear":
            return max(0.0, 1 - done)
        if protocol.schedule == "cosine":
            # LambdaLR asks once more after the last step, hence the bound.
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return 1.0

    return factor
