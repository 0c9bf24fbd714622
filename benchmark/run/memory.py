"""Work on a batch that is cut into smaller parts once memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from vlpeft.benchmark.cells.failures import is_out_of_memory
from vlpeft.benchmark.core.terminal import print_message

T = TypeVar("T")
R = TypeVar("R")


class PartsInMemory:
    """Runs work on parts of batches; after an out-of-memory error the parts are half as large.

    size: of a part at first.
    what: what a part has, for the notice: "evaluation: examples".
    """

    def __init__(self, size: int, what: str) -> None:
        self.size = size
        self.what = what

    def run(self, items: Sequence[T], work: Callable[[Sequence[T]], R]) -> Iterator[R]:
        """Yield the results of `work` on the parts of `items`, in order.

        Raises any error of `work`, an out-of-memory error only if the part is a single item.
        """
        begin = 0
        while begin < len(items):
            part = items[begin : begin + self.size]
            try:
                result = work(part)
            except Exception as error:
                if len(part) == 1 or not is_out_of_memory(error):
                    raise
            else:
                yield result
                begin += len(part)
                continue
            # Outside of the handler: the error's traceback holds the tensors of the failed try.
            self._halve(len(part))

    def _halve(self, failed: int) -> None:
        self.size = failed // 2
        print_message(
            f"{self.what} at once: {failed} ran out of memory, continuing with {self.size} "
            "(results stay the same)"
        )
        free_memory()


def free_memory() -> None:
    """Free what failed work has left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
