"""Training that names the batch that fits when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlpeft.benchmark.cells.failures import is_out_of_memory
from vlpeft.benchmark.core.errors import OutOfMemory
from vlpeft.benchmark.run.batches import Feed, Piece, item_length
from vlpeft.benchmark.run.distributed import Ranks
from vlpeft.benchmark.run.loop import TrainingState, compute_loss, train
from vlpeft.benchmark.run.memory import free_memory


def train_in_memory(
    state: TrainingState,
    feeds: Sequence[Feed],
    seed: int,
    micro_batch: int | None,
    after_step: Callable[[TrainingState], None],
    ranks: Ranks,
) -> None:
    """Train as `train` does.

    Raises:
        OutOfMemory: the memory did not suffice. The message names the largest `--micro-batch`
            that fits, among halves of what was tried.
    """
    try:
        train(state, feeds, seed, micro_batch, after_step, ranks)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split()).partition(". ")[0]
    else:
        return
    # Outside of the handler: the error's traceback holds the tensors of the failed step.
    share = -(-_batch(feeds) // ranks.world)
    tried = min(micro_batch or share, share)
    fits = _largest_that_fits(state, feeds, tried // 2)
    advice = f"`--micro-batch {fits}` fits" if fits else "one example needs more memory, too"
    raise OutOfMemory(f"training: {tried} at once ran out of memory; {advice} ({reason})")


def _batch(feeds: Sequence[Feed]) -> int:
    """Return the size of the largest batch."""
    return max(min(feed.protocol.batch_size, len(feed.items)) for feed in feeds)


def _largest_that_fits(state: TrainingState, feeds: Sequence[Feed], size: int) -> int:
    """Return `size`, a half of it, a quarter, ..., whichever fits; 0 if nothing does."""
    while size and not all(_fits(state, feed, size) for feed in feeds):
        size //= 2
    return size


def _fits(state: TrainingState, feed: Feed, size: int) -> bool:
    """Return whether the examples with the longest texts can be computed together.

    No weight changes.
    """
    state.optimizer.zero_grad(set_to_none=True)
    free_memory()
    longest = sorted(feed.items, key=item_length, reverse=True)
    piece = Piece(longest[:size], [f"fit/{i}" for i in range(size)])
    try:
        moments = _missing_moments(state)
        state.backbone.follow(feed.protocol, feed.answers, feed.task)
        loss, _ = compute_loss(state.backbone, feed, piece, piece.fetch(feed))
        torch.autograd.backward(loss)
        del moments
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _missing_moments(state: TrainingState) -> list[Tensor]:
    """Return tensors of the size of what AdamW allocates in the first step, if it has not yet."""
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    new = [p for p in parameters if p not in state.optimizer.state]
    return [torch.empty_like(p) for p in new for _ in range(2)]
