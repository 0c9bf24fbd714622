"""The training loop, the only one: every cell, test and bench trains with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import tracked_modules
from vlpeft.benchmark.core.errors import DivergedError, UserError
from vlpeft.benchmark.core.libraries.torch import clip_gradients
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.run.batches import Feed, Piece, batches, split_batch
from vlpeft.benchmark.run.distributed import ALONE, Ranks
from vlpeft.benchmark.run.fetch_ahead import ahead_in_groups, fetch_depth, pin
from vlpeft.benchmark.run.optimizer import build_optimizer, learning_rate_factor

CURVE_POINTS = 50  # enough to plot; a point is the mean loss since the point before


@dataclass
class TrainingState:
    """Everything that training changes. A checkpoint is this state and the random state."""

    backbone: Backbone
    optimizer: AdamW
    schedule: LambdaLR
    total: int  # steps
    step: int = 0  # steps that are done
    curve: list[tuple[int, float]] = field(default_factory=list)
    # What tracked modules report, such as a learnable p, at the points of the curve.
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    # Losses since the last point of the curve.
    window: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    # Seconds that the comparison of each epoch took.
    selection_seconds: list[float] = field(default_factory=list)
    # Score of each epoch on the selection split, see benchmark/run/selection.py.
    selection: list[float] = field(default_factory=list)
    # The trained tensors after the best of these epochs.
    best: dict[str, Tensor] = field(default_factory=dict)


def start(backbone: Backbone, protocol: Protocol, batches: int) -> TrainingState:
    """Return the state before the first step.

    Args:
        backbone: the adapted model, already on its device.
        protocol: optimizer settings, schedule, and number of steps or epochs.
        batches: batches in an epoch, of all tasks together.
    """
    optimizer = build_optimizer(backbone, protocol)
    total = protocol.total_steps(batches)
    schedule = LambdaLR(optimizer, learning_rate_factor(protocol, total))
    return TrainingState(backbone, optimizer, schedule, total)


def train(
    state: TrainingState,
    feeds: Sequence[Feed],
    seed: int,
    micro_batch: int | None,
    after_step: Callable[[TrainingState], None],
    ranks: Ranks = ALONE,
    depth: int | None = None,
) -> None:
    """Train from `state.step` to `state.total`. Each step takes one batch of one task.

    Batch order is a function of seed and step alone, so a resumed run needs no state of a sampler.

    Args:
        state: changed in place.
        feeds: one for each task. The protocol of the first one clips the gradients.
        seed: of batch order and of augmented views.
        micro_batch: most examples in a forward pass; None takes a rank's share of a batch at once.
        after_step: called after every step, for instance to save a checkpoint.
        ranks: the processes that share each batch.
        depth: how many pieces to fetch ahead; None lets the device decide.

    Raises:
        UserError: a loss is not finite.
    """
    state.backbone.train()
    first, device = feeds[0].protocol, state.backbone.device
    depth = fetch_depth(device) if depth is None else depth
    steps = _plan_steps(feeds, seed, range(state.step, state.total), micro_batch, ranks)

    def fetch(feed: Feed, piece: Piece) -> Tensor:
        return pin(piece.fetch(feed), device)

    with closing(ahead_in_groups(steps, fetch, depth)) as fetched:
        began = perf_counter()  # a step's time includes the wait for its images
        for feed, pieces, images in fetched:
            if len(feeds) > 1:
                state.backbone.follow(feed.protocol, feed.answers, feed.task)
            ranks.reseed(seed, state.step)
            loss = _step(state, feed, zip(pieces, images, strict=True), first.clip_norm, ranks)
            _check_finite(loss, state.step, first.lr)
            state.step += 1
            state.step_seconds.append(perf_counter() - began)
            _follow_curve(state, loss)
            after_step(state)
            began = perf_counter()


def _plan_steps(
    feeds: Sequence[Feed], seed: int, steps: range, micro_batch: int | None, ranks: Ranks
) -> Iterator[tuple[Feed, list[Piece]]]:
    """Yield the feed of each step, and the pieces of its batch that this rank computes."""
    drawn = batches(feeds, seed, steps.start, steps.stop)
    for step, (feed, batch) in zip(steps, drawn, strict=True):
        yield feed, split_batch(batch, f"{seed}/{step}", micro_batch, ranks)


def _check_finite(loss: float | None, step: int, lr: float) -> None:
    if loss is None or math.isfinite(loss):
        return
    if step == 0:
        raise UserError(
            f"the loss is {loss} before the first update; the weights or the features of the "
            "towers are not finite: fetch them again"
        )
    raise DivergedError(
        f"the loss became {loss} at step {step}; lower `lr` ({lr}) or set `clip_norm`"
    )


def _follow_curve(state: TrainingState, loss: float | None) -> None:
    """Add a loss to the window; at a point of the curve, write the window's mean.

    A step without a loss adds nothing, and a window of such steps gives no point.
    """
    if loss is not None:
        state.window.append(loss)
    every = max(1, state.total // CURVE_POINTS)
    if state.step % every and state.step != state.total:
        return
    if state.window:
        state.curve.append((state.step, sum(state.window) / len(state.window)))
        state.window.clear()
    for module in tracked_modules(state.backbone):
        for name, value in module.scalars().items():
            state.scalars.setdefault(name, []).append((state.step, value))


def _step(
    state: TrainingState,
    feed: Feed,
    pieces: Iterable[tuple[Piece, Tensor]],
    clip_norm: float | None,
    ranks: Ranks,
) -> float | None:
    """Make one optimizer step and return the mean loss of the whole batch.

    A batch without a term, of questions without a listed answer, adds nothing, as each of its
    questions adds nothing to a larger batch: no weight moves, and there is no loss.
    """
    # AdamW skips a gradient of None. With zeros, weight decay would still act.
    state.optimizer.zero_grad(set_to_none=True)
    total, terms = 0.0, 0
    for piece, images in pieces:
        # Only one piece is on the device at a time, so `micro_batch` bounds the memory.
        summed, n = compute_loss(state.backbone, feed, piece, images)
        torch.autograd.backward(summed)
        total, terms = total + summed.item(), terms + n
    # All ranks must list the same parameters, so those without a gradient stay in.
    every = [p for group in state.optimizer.param_groups for p in group["params"]]
    total, terms = ranks.sum_gradients(every, total, terms)
    if not terms:
        # AdamW skips parameters without a gradient: neither momentum nor decay moves them.
        state.optimizer.zero_grad(set_to_none=True)
    _update(state, every, terms, clip_norm)
    return total / terms if terms else None


def compute_loss(
    backbone: Backbone, feed: Feed, piece: Piece, images: Tensor
) -> tuple[Tensor, int]:
    """Return the summed loss of a piece and the number of terms in the sum.

    `images` is what `Piece.fetch` returned: (items, images, ...).
    """
    prompts = [item.prompt for item in piece.items]
    targets = [item.targets for item in piece.items]
    with autocast(backbone.device, feed.protocol.precision):
        visual = feed.seen.features(images)
        return backbone.loss(visual, prompts, targets)


def _update(
    state: TrainingState, every: Sequence[nn.Parameter], terms: int, clip_norm: float | None
) -> None:
    """Turn gradients of the summed loss into those of the mean, and make a step with them."""
    parameters = [p for p in every if p.grad is not None]
    for parameter in parameters:
        # Dividing here, and not in each piece, makes the result independent of the pieces' sizes.
        cast("Tensor", parameter.grad).div_(terms)
    if clip_norm is not None:
        # After the division, because the limit is about the gradient of the mean loss.
        clip_gradients(parameters, clip_norm)
    state.optimizer.step()
    # After every step and not every epoch, as in the releases.
    state.schedule.step()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return bf16 autocast for `bf16`, or a context without effect for `fp32`.

    Raises:
        UserError: the GPU does not support bf16.
    """
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(
            "precision: bf16 needs a GPU of compute capability 8.0 or newer; set `precision: fp32`"
        )
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
