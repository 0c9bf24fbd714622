"""Measure the two sides of a comparison in turns, each in its own process.

Turns alternate, so other load on the machine affects both sides alike. On a CPU a turn is
measured in CPU seconds of its process, or by the clock if threads work in parallel. On a GPU
it is measured by the clock, between two synchronisations.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vlpeft.benchmark.bench._rows import BenchRow, BenchSetting, RatioLimit, row
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.processes import end_with_parent
from vlpeft.benchmark.run.cost import MIB, peak_memory, reset_peak_memory
from vlpeft.benchmark.run.runtime import Runtime, prepare_torch

TimedStep = Callable[[], Any]  # what a turn times; what it returns must be alike on both sides


@dataclass(frozen=True)
class Repeated:
    """Steps that are made together. Their time is divided by their number.

    run: makes a number of steps, and returns what the last one returned.
    steps: the number; a quick setting makes one.
    """

    run: Callable[[int], Any]
    steps: int


# Builds a side: a function of a module, or `functools.partial` of one.
Make = Callable[[torch.device], TimedStep | Repeated]
TURN_SECONDS = 0.3  # of a turn: so many steps that it takes about as long
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Turn:
    """The result of one turn.

    seconds: of one step; memory: peak above what the built side takes, in MiB; said: what the
    last step returned.
    """

    seconds: float
    memory: float
    said: float


class Contender(Protocol):
    """A side that takes turns."""

    def __call__(self) -> Turn: ...


class Here:
    """A side in this process."""

    def __init__(self, make: Make, setting: BenchSetting, elapsed: bool = False) -> None:
        self.device, self.elapsed = (
            prepare_torch(Runtime(device=setting.device, threads=1)),
            elapsed,
        )
        made, self.steps = make(self.device), 1
        if isinstance(made, Repeated):
            self.steps = 1 if setting.quick else made.steps
            made = partial(made.run, self.steps)
        self.step = made
        gc.collect()
        _give_back_memory()
        reset_peak_memory(self.device)
        self.base = peak_memory(self.device)
        began = self._clock()
        self.step()  # warms up
        taken = self._clock() - began
        self.count = (
            1 if setting.quick else max(1, min(1000, round(TURN_SECONDS / max(taken, 1e-6))))
        )
        self.peak = peak_memory(self.device)

    def __call__(self) -> Turn:
        """Run the steps of one turn."""
        reset_peak_memory(self.device)
        began = self._clock()
        for _ in range(self.count):
            said = self.step()
        seconds = (self._clock() - began) / self.count / self.steps
        self.peak = max(self.peak, peak_memory(self.device))
        return Turn(seconds, (self.peak - self.base) / MIB, 0.0 if said is None else float(said))

    def _clock(self) -> float:
        """Return seconds; CPU seconds include those of processes that a step starts."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self.device.type == "cuda" or self.elapsed:
            return time.perf_counter()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime


class Elsewhere:
    """A side in its own process."""

    def __init__(self, make: Make, setting: BenchSetting, elapsed: bool) -> None:
        self.ours, theirs = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(
            target=_serve, args=(theirs, make, setting, elapsed), daemon=True
        )
        self.process.start()
        theirs.close()

    def wait(self) -> None:
        """Wait until the side is ready. Raises the error that it had."""
        self._hear()

    def __call__(self) -> Turn:
        """Take one turn in that process."""
        self._tell("turn")
        turn: Turn = self._hear()
        return turn

    def _tell(self, word: str) -> None:
        with _alive():
            self.ours.send(word)

    def _hear(self) -> Any:
        with _alive():
            answer = self.ours.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stop(self) -> None:
        """End the process."""
        self.ours.close()
        self.process.join()


@contextmanager
def _alive() -> Iterator[None]:
    """Say what has happened if the process at the other end is gone."""
    try:
        yield
    except (EOFError, ConnectionError):
        raise UserError(
            "the process of one side was killed (out of memory?); free memory for it"
        ) from None


def _serve(connection: Connection, make: Make, setting: BenchSetting, elapsed: bool) -> None:
    end_with_parent()
    with suppress(BrokenPipeError):  # the other process has stopped listening
        try:
            side = Here(make, setting, elapsed)
            connection.send("ready")
            while _is_asked(connection):
                connection.send(side())
        except BrokenPipeError:
            raise
        except Exception as error:  # the other process raises it
            connection.send(
                error
                if isinstance(error, UserError)
                else RuntimeError(f"{type(error).__name__}: {error}")
            )


def _is_asked(connection: Connection) -> bool:
    """Wait to be asked for a turn. Return False once no more will come."""
    try:
        connection.recv()
    except EOFError:
        return False
    return True


@contextmanager
def side(make: Make, setting: BenchSetting, elapsed: bool = False) -> Iterator[Contender]:
    """Start a side that is ready to take turns, and stop it at the end."""
    with sides([make], setting, elapsed) as (made,):
        yield made


@contextmanager
def sides(
    makes: Sequence[Make], setting: BenchSetting, elapsed: bool = False
) -> Iterator[list[Contender]]:
    """Start sides, all at once, and stop them at the end."""
    if setting.quick:
        yield [Here(make, setting, elapsed) for make in makes]
        return
    with ExitStack() as stack:
        made = [Elsewhere(make, setting, elapsed) for make in makes]
        for each in made:
            stack.callback(each.stop)
        for each in made:
            each.wait()
        yield [*made]


def turns(
    ours: Make, other: Make, setting: BenchSetting, *, elapsed: bool = False
) -> list[tuple[Turn, Turn]]:
    """Return pairs of turns; the sides take turns at going first.

    Raises RuntimeError if the two sides compute different things.
    """
    with sides((ours, other), setting, elapsed) as made:
        pairs = []
        for number in range(setting.turns):
            order = made if number % 2 == 0 else made[::-1]
            taken = {id(each): each() for each in order}
            pairs.append((taken[id(made[0])], taken[id(made[1])]))
    for mine, theirs in pairs:
        near = abs(mine.said - theirs.said) <= TOLERANCE * (1 + abs(theirs.said))
        if not near:  # also if one of them is NaN
            raise RuntimeError(
                f"the two sides compute different things: {mine.said} and {theirs.said}"
            )
    return pairs


def time_row(
    bench: str,
    name: str,
    pairs: list[tuple[Turn, Turn]],
    setting: BenchSetting,
    rule: RatioLimit,
    required: float | None,
    *,
    elapsed: bool = False,
) -> BenchRow:
    """Return a row of milliseconds for each step."""
    unit = "CPU ms" if setting.device == "cpu" and not elapsed else "ms"
    return row(
        bench,
        name,
        unit,
        [(1e3 * mine.seconds, 1e3 * theirs.seconds) for mine, theirs in pairs],
        rule,
        required,
    )


def memory_row(
    bench: str, name: str, pairs: list[tuple[Turn, Turn]], rule: RatioLimit, required: float | None
) -> BenchRow:
    """Return a row of peak memory above what the built sides take.

    A process's size is counted in whole pages, so small values are noise: take 1 MiB at least.
    """
    values = [(max(1.0, mine.memory), max(1.0, theirs.memory)) for mine, theirs in pairs]
    return row(bench, f"{name}, memory", "MiB", values, rule, required)


def kept_bytes(forward: Callable[[], Any], weights: nn.Module | None = None) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without the weights.

    A storage that is kept twice counts once.
    """
    known = (
        {p.untyped_storage().data_ptr() for p in weights.parameters()}
        if weights is not None
        else set()
    )
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = forward()  # what is freed before all is counted could give its place to another
    del alive
    return sum(size for place, size in kept.items() if place not in known)


def _give_back_memory() -> None:
    """Return freed memory to the system, so that it does not hide what steps take."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc
        library.malloc_trim(0)
