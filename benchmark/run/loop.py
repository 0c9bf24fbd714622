"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from itertools import count, islice, tee
from random import Random
from time import perf_counter
from typing import cast

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import TrackedModule
from vlpeft.benchmark.core.config import Protocol
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.libraries.torch import clip_gradients, make_adamw
from vlpeft.benchmark.run.distributed import ALONE, Ranks
from vlpeft.benchmark.run.features import Visual
from vlpeft.benchmark.run.fetch_ahead import ahead, fetch_depth, pinned
from vlpeft.benchmark.tasks.base import Item

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
    scalars: dict[str, list[tuple[int, float]]] = field(
        default_factory=dict
    )  # what modules follow, at the points of the curve
    window: list[float] = field(default_factory=list)  # losses since the last point of the curve
    step_seconds: list[float] = field(default_factory=list)
    selection_seconds: list[float] = field(
        default_factory=list
    )  # of comparing epochs, for each of them
    selection: list[float] = field(
        default_factory=list
    )  # score of each epoch on the selection split, see benchmark/run/selection.py
    best: dict[str, Tensor] = field(
        default_factory=dict
    )  # what was trained, as it was after the best of these epochs


@dataclass(frozen=True)
class Feed:
    """What one task of a cell trains on."""

    items: Sequence[Item]
    visual: Visual
    protocol: Protocol
    answers: Sequence[str]
    task: int = 0  # which part of the cell
    views: Visual | None = None  # what training sees in place of `visual`

    @property
    def batches(self) -> int:
        """Batches an epoch; the last, smaller one is kept."""
        return math.ceil(len(self.items) / self.protocol.batch_size)

    @property
    def seen(self) -> Visual:
        """What training sees."""
        return self.visual if self.views is None else self.views


@dataclass(frozen=True)
class Piece:
    """What a rank forwards at once. A view is a function of its seed alone, so that resuming needs no state of a generator."""

    items: Sequence[Item]
    seeds: Sequence[str]

    def fetched(self, feed: Feed) -> Tensor:
        """The first step towards its visual features."""
        return feed.seen.fetch_examples([item.images for item in self.items], self.seeds)


def start(backbone: Backbone, protocol: Protocol, batches: int) -> TrainingState:
    """AdamW over what trains and the protocol's schedule; `decays` says which tensors weight decay acts on."""
    named = [(name, p) for name, p in backbone.named_parameters() if p.requires_grad]
    decay = [p for name, p in named if _decays(name, p, protocol.decays)]
    rest = [p for name, p in named if not _decays(name, p, protocol.decays)]
    groups = [
        {"params": decay, "weight_decay": protocol.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimizer = make_adamw(
        [g for g in groups if g["params"]], lr=protocol.lr, betas=protocol.betas, eps=protocol.eps
    )
    total = protocol.total_steps(batches)
    return TrainingState(
        backbone, optimizer, LambdaLR(optimizer, learning_rate_factor(protocol, total)), total
    )


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
        return (
            0.5 * (1 + math.cos(math.pi * min(1.0, done))) if protocol.schedule == "cosine" else 1.0
        )

    return factor


def train(
    state: TrainingState,
    feeds: Sequence[Feed],
    seed: int,
    micro_batch: int | None,
    after_step: Callable[[TrainingState], None],
    ranks: Ranks = ALONE,
    depth: int | None = None,
) -> None:
    """Run from `state.step` to `state.total`; every step is a batch of one task, cut among the ranks. The first feed's protocol clips.

    Batch order is a function of seed and step alone, so resuming needs no sampler state. On a GPU the images of a
    few pieces are fetched ahead (`depth` says of how many, wherever), which changes nothing but time.
    """
    state.backbone.train()
    every = max(1, state.total // CURVE_POINTS)
    protocol = feeds[0].protocol
    device = state.backbone.device
    drawn = enumerate(batches(feeds, seed, state.step, state.total), state.step)
    steps, coming = tee(
        (feed, split_batch(batch, f"{seed}/{step}", micro_batch, ranks))
        for step, (feed, batch) in drawn
    )
    jobs = ((feed, piece) for feed, parts in coming for piece in parts)
    depth = fetch_depth(device) if depth is None else depth
    with closing(ahead(jobs, lambda job: pinned(job[1].fetched(job[0]), device), depth)) as fetched:
        began = perf_counter()
        for feed, parts in steps:
            if len(feeds) > 1:
                state.backbone.follow(feed.protocol, feed.answers, feed.task)
            ranks.reseed(seed, state.step)
            loss = _step(state, feed, islice(fetched, len(parts)), protocol.clip_norm, ranks)
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss became {loss} at step {state.step}; lower `lr` ({protocol.lr}) or set `clip_norm`"
                )
            state.step += 1
            state.window.append(loss)
            state.step_seconds.append(perf_counter() - began)
            if state.step % every == 0 or state.step == state.total:
                state.curve.append((state.step, sum(state.window) / len(state.window)))
                state.window.clear()
                _follow(state)
            after_step(state)
            began = perf_counter()


def _follow(state: TrainingState) -> None:
    for module in state.backbone.modules():
        if isinstance(module, TrackedModule):
            for name, value in module.scalars().items():
                state.scalars.setdefault(name, []).append((state.step, value))


def batches(
    feeds: Sequence[Feed], seed: int, first: int, last: int
) -> Iterator[tuple[Feed, list[Item]]]:
    """Batches of steps `first` to `last` - 1; an epoch shows every item of every task once, in a fresh permutation.

    Which task a step takes is shuffled by the epoch alone, as VL-Adapter does; the order of its items by seed and epoch.
    """
    per_epoch = sum(feed.batches for feed in feeds)
    turns: list[tuple[int, int]] = []
    orders: list[list[int]] = []
    known = -1
    for step in range(first, last):
        epoch, position = divmod(step, per_epoch)
        if epoch != known:
            turns, orders, known = (
                _turns(feeds, epoch),
                [_order(feed, seed, epoch) for feed in feeds],
                epoch,
            )
        index, turn = turns[position]
        size = feeds[index].protocol.batch_size
        yield (
            feeds[index],
            [feeds[index].items[i] for i in orders[index][turn * size : (turn + 1) * size]],
        )


def _turns(feeds: Sequence[Feed], epoch: int) -> list[tuple[int, int]]:
    """(feed, how many of its batches went before) for each step of an epoch."""
    which = [i for i, feed in enumerate(feeds) for _ in range(feed.batches)]
    Random(epoch).shuffle(which)
    which.reverse()  # the release takes them from the end
    counters = [count() for _ in feeds]
    return [(i, next(counters[i])) for i in which]


def _order(feed: Feed, seed: int, epoch: int) -> list[int]:
    """Every item once, shuffled; within windows of several batches sorted by length, and those batches shuffled again."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(len(feed.items), generator=generator).tolist()
    size, window = feed.protocol.batch_size, feed.protocol.length_window
    if window == 1:
        return order
    found: list[int] = []
    for begin in range(0, len(order), window * size):
        part = sorted(order[begin : begin + window * size], key=lambda i: _length(feed.items[i]))
        whole = [part[at : at + size] for at in range(0, len(part) - size + 1, size)]
        for turn in torch.randperm(len(whole), generator=generator).tolist():
            found += whole[turn]
        found += part[len(whole) * size :]  # an epoch's smaller batch stays the last
    return found


def _length(item: Item) -> int:
    """In characters, for which no tokenizer is needed."""
    return len(item.prompt) + max(map(len, item.targets), default=0)


def split_batch(
    batch: Sequence[Item], seed: str, micro_batch: int | None, ranks: Ranks
) -> list[Piece]:
    """A rank's own examples of a batch, cut so that a forward takes no more than `micro_batch`."""
    own, size = ranks.piece(len(batch)), micro_batch or max(1, len(batch))
    cuts = [range(begin, min(begin + size, own.stop)) for begin in range(own.start, own.stop, size)]
    return [Piece([batch[i] for i in cut], [f"{seed}/{i}" for i in cut]) for cut in cuts]


def _step(
    state: TrainingState,
    feed: Feed,
    parts: Iterable[tuple[tuple[Feed, Piece], Tensor]],
    clip_norm: float | None,
    ranks: Ranks,
) -> float:
    state.optimizer.zero_grad(set_to_none=True)
    total, terms = 0.0, 0
    for (_, part), found in parts:
        with autocast(state.backbone.device, feed.protocol.precision):
            visual = feed.seen.features(found)
            summed, n = state.backbone.loss(
                visual, [i.prompt for i in part.items], [i.targets for i in part.items]
            )
        torch.autograd.backward(summed)
        total, terms = total + summed.item(), terms + n
    every = [p for group in state.optimizer.param_groups for p in group["params"]]
    total, terms = ranks.sum_gradients(every, total, terms)
    parameters = [p for p in every if p.grad is not None]
    for (
        parameter
    ) in parameters:  # gradients of the sum become those of the mean, however many parts made it
        cast("Tensor", parameter.grad).div_(terms)
    if clip_norm is not None:
        clip_gradients(parameters, clip_norm)
    state.optimizer.step()
    state.schedule.step()
    return total / terms


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """bf16 autocast, or nothing for fp32. Raises UserError on a GPU without bf16."""
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(
            "precision: bf16 needs a GPU of compute capability 8.0 or newer; set `precision: fp32`"
        )
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
