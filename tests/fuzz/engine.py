"""Run inputs in child processes, with a bound on time and memory, and judge how each ended."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import psutil

from tests.fuzz.inputs import KINDS
from tests.fuzz.prepared import Prepared
from vlpeft.benchmark.cli.main import main

SECONDS = 30.0  # of a processor that one input may take
PATIENCE = 4  # times as long, where other programs keep the processor, or nothing happens at all
MEMORY = 2 << 30  # bytes that one input may need, imported libraries included
FORGET = 500  # inputs after which a child is replaced, because caches of a process only grow
ERROR = re.compile(r"vlpeft( [a-z-]+)*: error: .")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Verdict:
    """How one input ended; `problem` is "" if it ended as it should."""

    kind: str
    seed: int
    problem: str = ""
    detail: str = ""


@dataclass
class Campaign:
    """The counts of a campaign, by kind of input."""

    tried: Counter[str] = field(default_factory=Counter)
    problems: list[Verdict] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        """Count one verdict."""
        self.tried[verdict.kind] += 1
        if verdict.problem:
            self.problems.append(verdict)


def run_campaign(
    work: list[tuple[str, int]], base: Prepared, folder: Path, processes: int = 1
) -> Iterator[Verdict]:
    """Try (kind, seed) pairs and yield a verdict for each, not always in order."""
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(work))
    children: list[_Child] = []
    try:
        while waiting or children:
            while waiting and len(children) < processes:
                batch = [waiting.pop() for _ in range(min(FORGET, len(waiting)))]
                children.append(_Child(context, batch, base, folder))
            for child in list(children):
                yield from child.verdicts()
                if child.over:
                    waiting.extend(reversed(child.left))
                    children.remove(child)
    finally:
        for child in children:
            child.kill()


class _Child:
    """A process that tries a batch of inputs, one after the other."""

    def __init__(
        self,
        context: multiprocessing.context.ForkContext,
        batch: list[tuple[str, int]],
        base: Prepared,
        folder: Path,
    ) -> None:
        self.left, self.over = batch, False
        self.receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_try_all, args=(batch, base, folder, sender))
        self.process.start()
        sender.close()

    def verdicts(self) -> Iterator[Verdict]:
        """Yield the next verdict; one about a hang or a crash if the child gave none."""
        if not self.left:
            self.process.join()
            self.over = True
            return
        kind, seed = self.left[0]
        if not self._ends():
            self.kill()
            self.left = self.left[1:]
            yield Verdict(kind, seed, "hang", f"no end after {SECONDS:g} s")
            return
        try:
            verdict: Verdict = self.receiver.recv()
        except EOFError:
            self.process.join()
            self.over = True
            verdict = Verdict(kind, seed, "crash", f"the process ended: {self.process.exitcode}")
        self.left = self.left[1:]
        yield verdict

    def _ends(self) -> bool:
        """Wait for the end of an input. A busy machine must not look like a hang."""
        before = self._processor_seconds()
        for _ in range(PATIENCE):
            if self.receiver.poll(SECONDS):
                return True
            if self._processor_seconds() - before >= SECONDS:
                return False
        return False

    def _processor_seconds(self) -> float:
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.NoSuchProcess:  # the pipe says how it ended
            return 0.0
        return times.user + times.system

    def kill(self) -> None:
        """Stop the process."""
        self.process.kill()
        self.process.join()
        self.over = True


def _try_all(
    batch: list[tuple[str, int]], base: Prepared, folder: Path, sender: Connection
) -> None:
    os.environ["COLUMNS"] = "100"
    for kind, seed in batch:
        sender.send(try_input(kind, seed, base, folder))


def try_input(kind: str, seed: int, base: Prepared, folder: Path) -> Verdict:
    """Write one input into a folder of its own, run its command, and judge the end."""
    here = Path(tempfile.mkdtemp(prefix="input-", dir=folder))
    before, standard_input = Path.cwd(), sys.stdin
    os.chdir(here)
    sys.stdin = io.StringIO("")
    try:
        arguments = KINDS[kind](Random(f"{kind} {seed}"), here, base)
        problem, detail = _judge([str(each) for each in arguments], here)
    finally:
        os.chdir(before)
        sys.stdin = standard_input
        shutil.rmtree(here, ignore_errors=True)
    return Verdict(kind, seed, problem, detail)


def _judge(arguments: list[str], here: Path) -> tuple[str, str]:
    """Run a command; return the problem and what shows it."""
    out, err = io.StringIO(), io.StringIO()
    _forget_peak()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(arguments)
        return "no exit", repr(arguments)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:  # everything that escapes is a finding
        return "traceback", traceback.format_exc()
    said, printed = err.getvalue(), out.getvalue()
    found = {
        "memory": peak() > MEMORY,
        "traceback": "Traceback (most recent call last)" in said + printed,
        "exit code": code not in (0, 1, 2),
        "control character": CONTROL.search(said + printed) is not None,
        "message": code == 2 and not _is_one_error(said, arguments[0], printed),
        "left behind": any(path.name != ".download.lock" for path in here.rglob(".*")),
    }
    for problem, is_found in found.items():
        if is_found:
            files = [str(path.relative_to(here)) for path in here.rglob(".*")]
            return problem, f"{arguments}: {code}, {peak() >> 20} MiB, {files}, {said[-700:]!r}"
    return "", ""


def _is_one_error(said: str, command: str, printed: str) -> bool:
    """Return whether a refusal is one line; `data check` prints a report of what it found."""
    if command == "data":
        return bool(said.strip() or printed.strip())
    lines = said.splitlines()
    errors = [line for line in lines if ERROR.match(line)]
    return len(errors) == 1 and lines[-1:] == errors


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> int:
    """Return the largest memory of this process since `_forget_peak`, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not report memory")
