"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from benchmark.backbones.base import Backbone
from benchmark.config import Protocol
from benchmark.errors import UserError
from benchmark.features import VisualInputs
from benchmark.method import Followed
from benchmark.tasks.base import Item

CURVE_POINTS = 50


@dataclass
class TrainingState:
    """Everything that training changes; a checkpoint is this and the random state."""

    backbone: Backbone
    optimizer: AdamW
    schedule: LambdaLR
    total: int
    step: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # what modules follow, at the points of the curve
    window: list[float] = field(default_factory=list)  # losses since the last point of the curve
    step_seconds: list[float] = field(default_factory=list)


def start(backbone: Backbone, protocol: Protocol, examples: int) -> TrainingState:
    """AdamW over what trains and the protocol's schedule; `decays` says which tensors weight decay acts on."""
    named = [(name, p) for name, p in backbone.named_parameters() if p.requires_grad]
    decay = [p for name, p in named if _decays(name, p, protocol.decays)]
    rest = [p for name, p in named if not _decays(name, p, protocol.decays)]
    groups = [{"params": decay, "weight_decay": protocol.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = AdamW([g for g in groups if g["params"]], lr=protocol.lr, betas=protocol.betas, eps=protocol.eps)
    total = protocol.total_steps(examples)
    return TrainingState(backbone, optimizer, LambdaLR(optimizer, learning_rate_factor(protocol, total)), total)


def _decays(name: str, parameter: Tensor, which: str) -> bool:
    if which == "matrices":
        return parameter.ndim > 1
    return which == "all" or not name.endswith("bias")


def learning_rate_factor(protocol: Protocol, total: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: linear warm-up from 0, then constant, linear or cosine decay to 0 at `total`."""
    warmup = protocol.warmup_steps or int(protocol.warmup_fraction * total)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        done = (step - warmup) / max(1, total - warmup)
        if protocol.schedule == "linear":
            return max(0.0, 1 - done)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done))) if protocol.schedule == "cosine" else 1.0

    return factor


def train(
    state: TrainingState,
    items: Sequence[Item],
    visual: VisualInputs,
    protocol: Protocol,
    seed: int,
    micro_batch: int | None,
    after_step: Callable[[TrainingState], None],
) -> None:
    """Run from `state.step` to `state.total`. Batch order is a function of seed and step alone, so resuming needs no sampler state."""
    state.backbone.train()
    every = max(1, state.total // CURVE_POINTS)
    for batch in batches(items, protocol.batch_size, seed, state.step, state.total):
        began = perf_counter()
        loss = _step(state, batch, visual, protocol, micro_batch or protocol.batch_size)
        if not math.isfinite(loss):
            raise UserError(f"the loss became {loss} at step {state.step}; lower `lr` ({protocol.lr}) or set `clip_norm`")
        state.step += 1
        state.window.append(loss)
        state.step_seconds.append(perf_counter() - began)
        if state.step % every == 0 or state.step == state.total:
            state.curve.append((state.step, sum(state.window) / len(state.window)))
            state.window.clear()
            _follow(state)
        after_step(state)


def _follow(state: TrainingState) -> None:
    for module in state.backbone.modules():
        if isinstance(module, Followed):
            for name, value in module.scalars().items():
                state.scalars.setdefault(name, []).append((state.step, value))


def batches(items: Sequence[Item], size: int, seed: int, first: int, last: int) -> Iterator[list[Item]]:
    """Batches of steps `first` to `last` - 1. Every epoch is a fresh permutation; its last, smaller batch is kept."""
    per_epoch = math.ceil(len(items) / size)
    order: list[int] = []
    known = -1
    for step in range(first, last):
        epoch, position = divmod(step, per_epoch)
        if epoch != known:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order, known = torch.randperm(len(items), generator=generator).tolist(), epoch
        yield [items[i] for i in order[position * size : (position + 1) * size]]


def _step(state: TrainingState, batch: list[Item], visual: VisualInputs, protocol: Protocol, micro_batch: int) -> float:
    state.optimizer.zero_grad(set_to_none=True)
    total, terms = 0.0, 0
    for begin in range(0, len(batch), micro_batch):
        part = batch[begin : begin + micro_batch]
        with autocast(state.backbone.device, protocol.precision):
            summed, n = state.backbone.loss(visual([i.image for i in part]), [i.prompt for i in part], [i.targets for i in part])
        torch.autograd.backward(summed)
        total, terms = total + summed.item(), terms + n
    parameters = [p for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None]
    for parameter in parameters:  # gradients of the sum become those of the mean, however many parts made it
        cast("Tensor", parameter.grad).div_(terms)
    if protocol.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, protocol.clip_norm)
    state.optimizer.step()
    state.schedule.step()
    return total / terms


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """bf16 autocast, or nothing for fp32. Raises UserError on a GPU without bf16."""
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("precision: bf16 needs a GPU of compute capability 8.0 or newer; set `precision: fp32`")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
