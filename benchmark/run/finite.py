"""Check that what was trained is made of numbers before it is evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from vlpeft.benchmark.core.errors import DivergedError
from vlpeft.benchmark.run.batches import Feed, Piece
from vlpeft.benchmark.run.checkpoint import trained_tensors
from vlpeft.benchmark.run.compile import eager
from vlpeft.benchmark.run.loop import TrainingState, compute_loss

CHECKED_ITEMS = 8  # items whose loss is computed: overflow shows on any input


def check_trained(state: TrainingState, feeds: Sequence[Feed]) -> None:
    """Check the weights after an update whose effect no later loss has shown.

    The loss of a step is computed before its update, so the last update of a run can overflow
    without a trace: a model of infinite weights still writes texts, and they have scores. Weights
    can also be finite and so large that every forward pass overflows. Therefore the loss of a few
    items is computed, too, without dropout. Random states stay as they are.

    Raises:
        UserError: a trained tensor or a loss is infinite or not a number.
    """
    recipe = feeds[0].protocol
    fix = f"lower `lr` ({recipe.lr}) or set `clip_norm`"
    for name, tensor in trained_tensors(state.backbone).items():
        if not bool(torch.isfinite(tensor).all()):
            raise DivergedError(
                f"the trained tensor {name} is not finite after step {state.step}: "
                f"the weights have overflowed; {fix}"
            )
    for feed in feeds:
        loss = _trial_loss(state, feed)
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} after step {state.step}, the last update: "
                f"the weights have overflowed; {fix}"
            )


@torch.no_grad()
def _trial_loss(state: TrainingState, feed: Feed) -> float:
    """Return the summed loss of the first items of a task, in evaluation mode."""
    backbone = state.backbone
    devices = [backbone.device] if backbone.device.type == "cuda" else []
    items = feed.items[: min(CHECKED_ITEMS, feed.protocol.batch_size)]
    piece = Piece(items, [f"trial/{i}" for i in range(len(items))])
    training = backbone.training
    backbone.eval()
    backbone.follow(feed.protocol, feed.answers, feed.task)
    # Draws, such as those of `train_answers: sampled`, must not move the stream of training.
    with torch.random.fork_rng(devices), eager():
        summed, _ = compute_loss(backbone, feed, piece, piece.fetch(feed))
    backbone.train(training)
    return float(summed)
