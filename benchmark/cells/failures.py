"""How a failure is told from one process to another, and to the user: as a few plain values."""

from __future__ import annotations

from typing import Any

import torch

from vlpeft.benchmark.core.errors import DataError, UserError, WeightsError, disk_trouble


class RankFailed(RuntimeError):
    """One of the processes that run a cell together has failed; `about` is what failure.json will hold."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.about = {"cause": cause, "message": message, "user": False}


def describe_failure(error: BaseException) -> dict[str, Any]:
    """What failure.json holds: cause, a one-line message, and whether the user can mend it."""
    if isinstance(error, RankFailed):
        return error.about
    oom = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    words = {
        KeyboardInterrupt: "interrupted",
        DataError: "data",
        WeightsError: "weights",
        UserError: "settings",
    }
    cause = (
        "out of memory"
        if oom
        else disk_trouble(error) or words.get(type(error), type(error).__name__)
    )
    message = " ".join(str(error).split()) or type(error).__name__
    return {"cause": cause, "message": message[:500], "user": isinstance(error, UserError)}


def rebuild_error(rank: int, about: dict[str, Any]) -> Exception:
    """The error that a rank has described: again a UserError if it was one, so that it is told as one."""
    if about["user"]:
        return {"data": DataError, "weights": WeightsError}.get(about["cause"], UserError)(
            about["message"]
        )
    return RankFailed(about["cause"], f"rank {rank}: {about['message']}")
