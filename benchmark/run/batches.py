"""The batches of a training: which items each step sees, in which order and in which pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

import torch
from torch import Tensor

from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.run.distributed import Ranks
from vlpeft.benchmark.run.features import VisualSteps
from vlpeft.benchmark.tasks.base import Item


@dataclass(frozen=True)
class Feed:
    """What one task of a cell trains on."""

    items: Sequence[Item]
    visual: VisualSteps
    protocol: Protocol
    answers: Sequence[str]
    task: int = 0  # index of the part of the cell
    views: VisualSteps | None = None  # what training sees in place of `visual`

    @property
    def batches(self) -> int:
        """Batches in an epoch. The last batch may be smaller; it is kept."""
        return math.ceil(len(self.items) / self.protocol.batch_size)

    @property
    def seen(self) -> VisualSteps:
        """What training sees: `views` where there are any, else `visual`."""
        if self.views is None:
            return self.visual
        return self.views


@dataclass(frozen=True)
class Piece:
    """The items that a rank passes through the model at once.

    Each item has a seed for its augmented view. A view is a function of its seed alone, so a
    resumed run repeats it without the state of any generator.
    """

    items: Sequence[Item]
    seeds: Sequence[str]

    def fetch(self, feed: Feed) -> Tensor:
        """Return what the visual features are computed from: (items, images, ...), on the CPU."""
        return feed.seen.fetch_examples([item.images for item in self.items], self.seeds)


def batches(
    feeds: Sequence[Feed], seed: int, first: int, last: int
) -> Iterator[tuple[Feed, list[Item]]]:
    """Yield the batches of steps `first` to `last` - 1, each with its feed.

    An epoch shows every item of every task once, in a new permutation. The order of the tasks is
    shuffled by the epoch alone, as in the VL-Adapter release; the order of the items depends on
    seed and epoch.
    """
    per_epoch = sum(feed.batches for feed in feeds)
    turns: list[tuple[int, int]] = []
    orders: list[list[int]] = []
    known = -1
    for step in range(first, last):
        epoch, position = divmod(step, per_epoch)
        if epoch != known:
            turns = _order_tasks(feeds, epoch)
            orders = [_order_items(feed, seed, epoch) for feed in feeds]
            known = epoch
        index, turn = turns[position]
        feed = feeds[index]
        size = feed.protocol.batch_size
        batch = [feed.items[i] for i in orders[index][turn * size : (turn + 1) * size]]
        yield feed, batch


def _order_tasks(feeds: Sequence[Feed], epoch: int) -> list[tuple[int, int]]:
    """Return, for each step of an epoch, the index of its feed and of the batch in that feed."""
    which = [i for i, feed in enumerate(feeds) for _ in range(feed.batches)]
    Random(epoch).shuffle(which)
    which.reverse()  # the release pops tasks from the end of its list
    counters = [count() for _ in feeds]
    return [(i, next(counters[i])) for i in which]


def _order_items(feed: Feed, seed: int, epoch: int) -> list[int]:
    """Return a permutation of the items.

    With a `length_window`, items are sorted by length inside windows of that many batches, so that
    a batch has little padding. Then the batches of each window are shuffled.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    # In the VL-Adapter release the order of items ignores the seed. Here seeds also differ in it.
    order: list[int] = torch.randperm(len(feed.items), generator=generator).tolist()
    size, window = feed.protocol.batch_size, feed.protocol.length_window
    if window == 1:
        return order
    found: list[int] = []
    for begin in range(0, len(order), window * size):
        part = sorted(
            order[begin : begin + window * size], key=lambda i: item_length(feed.items[i])
        )
        whole = [part[at : at + size] for at in range(0, len(part) - size + 1, size)]
        for turn in torch.randperm(len(whole), generator=generator).tolist():
            found += whole[turn]
        # The smaller batch of an epoch must stay the last one: `batches` cuts by position.
        found += part[len(whole) * size :]
    return found


def item_length(item: Item) -> int:
    """Return the length of an item in characters, which needs no tokenizer."""
    return len(item.prompt) + max(map(len, item.targets), default=0)


def split_batch(
    batch: Sequence[Item], seed: str, micro_batch: int | None, ranks: Ranks
) -> list[Piece]:
    """Return a rank's own share of a batch, in pieces of at most `micro_batch` items.

    The seed of an item's view is `seed/i`, where `i` is its place in the whole batch. So the same
    views are drawn for any number of ranks and any size of the pieces.
    """
    own = ranks.piece(len(batch))
    size = micro_batch or max(1, len(batch))
    pieces = []
    for begin in range(own.start, own.stop, size):
        cut = range(begin, min(begin + size, own.stop))
        pieces.append(Piece([batch[i] for i in cut], [f"{seed}/{i}" for i in cut]))
    return pieces
