"""Describe errors so that other processes and users can read why a cell failed."""

from __future__ import annotations

import torch

from vlpeft.benchmark.cells.attempts import DIVERGED, Failure
from vlpeft.benchmark.core.errors import (
    DataError,
    DivergedError,
    OutOfMemory,
    UserError,
    WeightsError,
    disk_trouble,
)

OUT_OF_MEMORY = "out of memory"
CAUSES: dict[type[BaseException], str] = {
    KeyboardInterrupt: "interrupted",
    DataError: "data",
    WeightsError: "weights",
    UserError: "settings",
    DivergedError: DIVERGED,
    OutOfMemory: OUT_OF_MEMORY,
}
ERRORS: dict[str, type[UserError]] = {
    "data": DataError,
    "weights": WeightsError,
    DIVERGED: DivergedError,
    OUT_OF_MEMORY: OutOfMemory,
}
MESSAGE_CHARACTERS = 500
# torch raises a plain RuntimeError where the CPU's allocator or a library of a GPU finds no memory.
MEMORY_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class RankFailed(RuntimeError):
    """One of the processes that run a cell together has failed.

    `about` is what failure.json will hold.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.about = Failure(cause, message, user=False)


def describe_failure(error: BaseException) -> Failure:
    """Return what failure.json holds: the cause, a one-line message, and if the user can fix it."""
    if isinstance(error, RankFailed):
        return error.about
    message = " ".join(str(error).split()) or type(error).__name__
    return Failure(_cause(error), message[:MESSAGE_CHARACTERS], isinstance(error, UserError))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of the device or of the machine did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError, OutOfMemory)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_WORDS)


def _cause(error: BaseException) -> str:
    """Return the cause of a failure in a few words: for unknown errors, the type's name."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    return disk_trouble(error) or CAUSES.get(type(error), type(error).__name__)


def rebuild_error(rank: int, about: Failure) -> Exception:
    """Return the error that a rank has described.

    A UserError becomes a UserError again, so that it is reported as one.
    """
    if about.user:
        return ERRORS.get(about.cause, UserError)(about.message)
    return RankFailed(about.cause, f"rank {rank}: {about.message}")
