"""Start the processes (ranks) that run a cell together, and watch them.

When one rank dies, the others are ended and the cause is reported.

The process that starts them holds the cell's lock and computes nothing. So it can always end them,
even if they wait for a rank that is gone.
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
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cells.failures import RankFailed, describe_failure, rebuild_error
from vlpeft.benchmark.core.environment import SAFE_PATH, environment
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.processes import describe_end, end_with_parent
from vlpeft.benchmark.run.distributed import PeerLost

POLL_SECONDS = 0.2
# A rank that loses its peers may report this before the rank that failed reports the cause.
GRACE_SECONDS = 5.0
PRELOADED = "vlpeft.benchmark.run.runner"  # every rank imports it
# Signals for the process that starts the ranks. SLURM and terminals send them to all processes.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
# Kinds of messages from a rank.
ENDED, FAILED, LOST, REPORT = "ended", "failed", "lost", "report"


@dataclass(frozen=True)
class Link:
    """A rank's end of the connection to the process that started it."""

    rank: int
    world: int
    meeting: Path  # a file that does not exist yet, through which the ranks find each other
    line: Connection

    def report(self, *what: Any) -> None:
        """Report progress."""
        self.line.send((REPORT, what))

    def stop_requested(self) -> bool:
        """Return whether the cell was asked to stop."""
        # The only message in this direction is the one that asks to stop.
        return self.line.poll()


@dataclass(frozen=True)
class Member:
    """A rank, as the process that started it sees it."""

    rank: int
    process: BaseProcess
    line: Connection

    def receive(self) -> tuple[str, Any]:
        """Return the next message: its kind and content.

        Raises:
            RankFailed: the process has died.
        """
        try:
            message: tuple[str, Any] = self.line.recv()
        except (EOFError, ConnectionError) as error:
            # The exit code is known only after the process is joined.
            self.process.join(GRACE_SECONDS)
            ended = describe_end(self.process.exitcode)
            raise RankFailed("killed", f"rank {self.rank} {ended}") from error
        return message


RankFunction = Callable[[Link], Any]  # pickled: a function of a module, or a partial of one
OnReport = Callable[..., None]


def run_ranks(
    work: RankFunction, world: int, fresh: bool, on_report: OnReport, asked: Callable[[], bool]
) -> Any:
    """Run `work` in each of `world` new processes, and return its result on rank 0.

    No process outlives this call.

    Args:
        work: called once in each process.
        world: number of processes.
        fresh: start each process from nothing. By default they are forked from a server that has
            imported this package, once for all calls; this saves seconds.
        on_report: called with what rank 0 reports.
        asked: once it returns True, rank 0 is asked to stop.

    Raises:
        UserError: a rank raised it.
        RankFailed: a rank raised another error, or died.
    """
    members: list[Member] = []
    with tempfile.TemporaryDirectory(prefix="vlpeft-") as folder:
        meeting = Path(folder) / "meeting"
        try:
            # The safe path first: _block_signals starts a Python process, the resource tracker.
            with environment(**SAFE_PATH), _block_signals():
                # A generator, so that those that have started are ended if a later one fails.
                members.extend(_start(work, rank, world, meeting, fresh) for rank in range(world))
            return _watch(members, on_report, asked)
        finally:
            for member in members:
                # SIGTERM is blocked in the ranks, so only a kill ends them.
                member.process.kill()
            for member in members:
                member.process.join()
                member.line.close()


def _start(work: RankFunction, rank: int, world: int, meeting: Path, fresh: bool) -> Member:
    """Start one rank."""
    context: SpawnContext | ForkServerContext = get_context("forkserver")
    if fresh:
        context = get_context("spawn")
    context.set_forkserver_preload([PRELOADED])
    ours, theirs = context.Pipe()
    process: BaseProcess = context.Process(
        target=_be_rank,
        args=(work, Link(rank, world, meeting, theirs)),
        name=f"rank {rank}",
        daemon=True,
    )
    process.start()
    # With our copy open, the pipe would not report the end of the process.
    theirs.close()
    return Member(rank, process, ours)


def _watch(members: Sequence[Member], on_report: OnReport, asked: Callable[[], bool]) -> Any:
    """Read messages until rank 0 has ended or a rank has failed; return the result of rank 0."""
    open_lines = {member.line: member for member in members}
    lost: list[tuple[float, str]] = []  # when ranks lost their peers, and their messages
    stopping = False
    while True:
        for line in wait(list(open_lines), POLL_SECONDS):
            member = open_lines[line]  # type: ignore[index] # wait is typed for sockets, too
            kind, content = member.receive()
            if kind == REPORT:
                on_report(*content)
                continue
            if kind == FAILED:
                raise rebuild_error(member.rank, content)
            if kind == ENDED and member.rank == 0:
                return content
            del open_lines[member.line]
            if kind == LOST:
                lost.append((time.monotonic(), f"rank {member.rank}: {content}"))
        if lost and time.monotonic() > lost[0][0] + GRACE_SECONDS:  # no rank reported the cause
            raise RankFailed("ranks lost each other", lost[0][1][:500])
        if not stopping and asked():
            stopping = True
            members[0].line.send("stop")


def _be_rank(work: RankFunction, link: Link) -> None:
    """Run `work` in the process of a rank, and report its result or its error."""
    # The lock is free once the parent has ended, so others may run the cell.
    end_with_parent()
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
        # At an ordinary exit torch would leave the group, and wait for ranks that may be gone.
        os._exit(0)


@contextmanager
def _block_signals() -> Iterator[None]:
    """Block SIGNALS, so that the processes started here inherit the blocked signals.

    multiprocessing unblocks some of them when it starts its resource tracker. So the tracker is
    started first, and then they are blocked again.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
