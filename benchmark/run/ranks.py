"""Start the processes (ranks) that run a cell together, and watch them: when one dies, the others end and the cause is told.

The process that starts them holds the cell's lock and computes nothing, so that it can always end them, whatever they wait for.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any

from vlpeft.benchmark.cells.failures import RankFailed, describe_failure, rebuild_error
from vlpeft.benchmark.core.environment import SAFE_PATH, environment
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.run.distributed import PeerLost

POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0  # that a cause may come later than what follows from it
PRELOADED = "vlpeft.benchmark.run.runner"  # what every rank imports
SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR2,
)  # for the process that starts the ranks, though all may get them
ENDED, FAILED, LOST, REPORT = "ended", "failed", "lost", "report"


@dataclass(frozen=True)
class Link:
    """A rank's end of the line to the process that started it."""

    rank: int
    world: int
    meeting: Path  # a file that does not exist yet, for the ranks to find each other
    line: Connection

    def report(self, *what: Any) -> None:
        """Say where the cell is."""
        self.line.send((REPORT, what))

    def stop_requested(self) -> bool:
        """Whether the cell was asked to stop."""
        return self.line.poll()


@dataclass(frozen=True)
class Member:
    """A rank, as the process that started it sees it."""

    rank: int
    process: BaseProcess
    line: Connection

    def receive(self) -> tuple[str, Any]:
        """The next thing it says. Raises RankFailed where it has died."""
        try:
            said: tuple[str, Any] = self.line.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join(GRACE_SECONDS)
            raise RankFailed("killed", f"rank {self.rank} {_end(self.process.exitcode)}") from error
        return said


RankFunction = Callable[[Link], Any]  # a function of a module, or a partial of one: it is pickled
Hear = Callable[..., None]


def run_ranks(
    work: RankFunction, world: int, fresh: bool, hear: Hear, asked: Callable[[], bool]
) -> Any:
    """Run `work` in each of `world` new processes; returns what it gave on rank 0. None of them outlives this call.

    `hear` gets what rank 0 reports; once `asked` is true, rank 0 is told. Raises what a rank raised (a UserError, or
    RankFailed), or RankFailed for one that died. The ranks are forked from a server that has imported this package, once for
    all calls; `fresh` starts each from nothing, which takes seconds more.
    """
    members: list[Member] = []
    with tempfile.TemporaryDirectory(prefix="vlpeft-") as folder:
        try:
            with _unheard(), environment(**SAFE_PATH):
                members.extend(
                    _start(work, rank, world, Path(folder) / "meeting", fresh)
                    for rank in range(world)
                )
            return _watch(members, hear, asked)
        finally:
            for member in members:
                member.process.kill()
            for member in members:
                member.process.join()
                member.line.close()


def _start(work: RankFunction, rank: int, world: int, meeting: Path, fresh: bool) -> Member:
    context: SpawnContext | ForkServerContext = (
        get_context("spawn") if fresh else get_context("forkserver")
    )
    context.set_forkserver_preload([PRELOADED])
    ours, theirs = context.Pipe()
    process: BaseProcess = context.Process(
        target=_be_rank,
        args=(work, Link(rank, world, meeting, theirs)),
        name=f"rank {rank}",
        daemon=True,
    )
    process.start()
    theirs.close()  # so that its end is heard
    return Member(rank, process, ours)


def _watch(members: Sequence[Member], hear: Hear, asked: Callable[[], bool]) -> Any:
    """Listen until rank 0 has ended, or one has failed."""
    talking, told, lost = (
        {member.line: member for member in members},
        False,
        list[tuple[float, str]](),
    )
    while True:
        for line in wait(list(talking), POLL_SECONDS):
            member = talking[line]  # type: ignore[index] # wait is typed for sockets and numbers, too
            kind, content = member.receive()
            if kind == REPORT:
                hear(*content)
            elif kind == FAILED:
                raise rebuild_error(member.rank, content)
            elif kind == ENDED and member.rank == 0:
                return content
            else:
                del talking[member.line]
                lost += (
                    [(time.monotonic(), f"rank {member.rank}: {content}")] if kind == LOST else []
                )
        if lost and time.monotonic() > lost[0][0] + GRACE_SECONDS:  # nobody has said why
            raise RankFailed("ranks lost each other", lost[0][1][:500])
        if not told and asked():
            told = True
            members[0].line.send("stop")


def _be_rank(work: RankFunction, link: Link) -> None:
    """What a rank's process does."""
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        link.line.send((ENDED, work(link)))
    except PeerLost as error:
        link.line.send((LOST, str(error)))
    except BaseException as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        link.line.send((FAILED, describe_failure(error)))
    finally:
        link.line.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # an ordinary exit would have torch part from ranks that may be gone


def _end_with_parent() -> None:
    """However the process that started this one ends: the cell's lock is free then, and another may run it."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _unheard() -> Iterator[None]:
    """What is started here inherits blocked signals. multiprocessing's own helper unblocks them when it starts: so first that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended without a word (exit code {code})"
    return f"was killed by {signal.Signals(-code).name}{' (out of memory?)' if code == -signal.SIGKILL else ''}"
