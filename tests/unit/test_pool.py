"""What is known of workers that died, and parts of batches after memory ran out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vlpeft.benchmark.cells.attempts import Failure, failure
from vlpeft.benchmark.cells.failures import describe_failure
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.launch.pool import Deaths, LocalWorker
from vlpeft.benchmark.run.memory import PartsInMemory

CELLS = ("a", "b", "c")


def died(folder: Path, pid: int, code: int, text: str = "") -> LocalWorker:
    out, err = folder / f"{pid}.out", folder / f"{pid}.err"
    out.write_text("=== a starts\nprinted\n")
    err.write_text(f"=== a starts\n{text}")
    process: Any = SimpleNamespace(pid=pid, returncode=code)
    return LocalWorker(process, out, err)


@pytest.fixture
def store(tmp_path) -> Store:
    for cell in CELLS:
        (tmp_path / "cells" / cell).mkdir(parents=True)
    return Store(tmp_path)


def begin(store: Store, cell: str, pid: int) -> None:
    where = {"phase": "train", "step": 1, "total": 2, "updated": 0.0, "pid": pid}
    (store.folder(cell) / "progress.json").write_text(json.dumps(where))


def test_a_worker_that_its_cell_kills_is_replaced(store, tmp_path) -> None:
    deaths = Deaths(store, CELLS)
    begin(store, "a", 7)
    assert deaths.count(died(tmp_path, 7, -9, "a warning\n"))
    assert not (store.folder("a") / "progress.json").exists()
    log = str(tmp_path / "7.err")
    message = (
        f"its worker was killed by SIGKILL (out of memory?); {log} ends: === a starts | a warning"
    )
    assert failure(store, "a") == Failure("killed", message, user=False, log=log)
    for cell in CELLS[1:]:
        begin(store, cell, 8)
    assert not deaths.count(died(tmp_path, 8, -11)), "nothing is left for another worker"
    deaths.finish()
    assert failure(store, "c") is None, "other workers may run it"


def test_workers_that_never_had_a_cell_are_not_replaced(store, tmp_path) -> None:
    deaths = Deaths(store, CELLS)
    assert not deaths.count(died(tmp_path, 7, 0))
    assert not deaths.count(died(tmp_path, 8, 1, "ModuleNotFoundError: torch\n"))
    (store.folder("b") / "record.json").write_text("{}")
    deaths.finish()
    for cell in ("a", "c"):
        found = failure(store, cell)
        assert found is not None
        assert found.reason.startswith("worker failed: its worker ended with exit code 1; ")
        assert found.reason.endswith("8.err ends: === a starts | ModuleNotFoundError: torch")
    assert failure(store, "b") is None


MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
)


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("fits", [1, 2, 5])
def test_parts_are_halved_until_they_fit(capsys, error, fits: int) -> None:
    """The order and the items stay the same, and the next batch starts with the smaller parts."""
    tried: list[int] = []

    def work(part: range) -> list[int]:
        tried.append(len(part))
        if len(part) > fits:
            raise error
        return list(part)

    parts = PartsInMemory(8, "evaluation: examples")
    assert [i for part in parts.run(range(10), work) for i in part] == list(range(10))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        "evaluation: examples at once: 8 ran out of memory, continuing with 4 "
        "(results stay the same)"
    )
    assert len(said) == sum(size > fits for size in tried)
    tried.clear()
    assert [i for part in parts.run(range(10), work) for i in part] == list(range(10))
    assert max(tried) <= fits


def test_a_single_item_that_does_not_fit_is_an_error() -> None:
    def work(_part: object) -> None:
        raise MEMORY[0]

    with pytest.raises(torch.OutOfMemoryError):
        list(PartsInMemory(4, "images").run(range(4), work))
    assert {describe_failure(error).cause for error in MEMORY} == {"out of memory"}


@pytest.mark.parametrize("error", [UserError("no file"), RuntimeError("shapes differ")])
def test_other_errors_are_not_tried_again(error) -> None:
    tried: list[int] = []

    def work(part: range) -> None:
        tried.append(len(part))
        raise error

    with pytest.raises(type(error)):
        list(PartsInMemory(4, "images").run(range(4), work))
    assert tried == [4]


WATCH = """
import sys, time
from vlpeft.benchmark.launch import local_worker
local_worker.END_SECONDS = 0.0
watch = local_worker.LauncherWatch()
print("ready", flush=True)
time.sleep(60)
"""


SIGNAL_BETWEEN = """
import os, select, signal, time
def find_nothing(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    select.select = lambda *_: time.sleep(0.1) or ([], [], [])
    return select.select()
select.select = find_nothing
"""


def test_a_signal_is_kept_that_comes_while_a_worker_looks_at_its_launcher() -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", SIGNAL_BETWEEN + WATCH],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        assert worker.wait(30) == 75
    finally:
        worker.kill()
        worker.communicate()


def test_a_worker_that_does_not_look_is_ended_with_its_launcher() -> None:
    """Closing the pipe is all that the end of a launcher does."""
    worker = subprocess.Popen(
        [sys.executable, "-c", WATCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdout is not None
    assert worker.stdin is not None
    assert worker.stdout.readline() == b"ready\n"
    assert worker.poll() is None
    worker.stdin.close()
    assert worker.wait(30) == 75
    worker.stdout.close()
