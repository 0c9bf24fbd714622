"""How failures are reported, and how workers are stopped."""

import os
import subprocess
import sys
from dataclasses import replace

import psutil

from tests.unit.test_grid import CELL
from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.launch.failed import count_failures, group_by_cause
from vlpeft.benchmark.launch.local import stop


def failed(seed: int, message: str) -> tuple[Planned, dict]:
    cell = replace(CELL, seed=seed)
    planned = Planned(f"id{seed}", "lora", "vit_roberta", "vqa", "shapes", seed, cell)
    return planned, {"cause": "settings", "message": message, "user": True}


def test_one_cause_is_reported_once() -> None:
    assert list(
        group_by_cause([failed(0, "no weights"), failed(1, "the loss"), failed(2, "no weights")])
    ) == [
        "2 cells: settings: no weights",
        "id1 lora on vit_roberta, vqa/shapes, seed 1: settings: the loss",
    ]
    assert list(group_by_cause([])) == []


def test_a_cancelled_cell_is_not_an_error() -> None:
    cancelled = [
        (cell, {**why, "cause": "cancelled"})
        for cell, why in (failed(0, "job 7"), failed(1, "job 8"))
    ]
    assert list(group_by_cause(cancelled[:1])) == [
        "id0 lora on vit_roberta, vqa/shapes, seed 0: cancelled: job 7"
    ]
    assert list(group_by_cause(cancelled)) == [
        (
            "2 cells: cancelled: their jobs were cancelled; `vlpeft retry "
            "--cause cancelled` runs them again"
        )
    ]
    assert (
        count_failures(cancelled, 6)
        == "2 of 6 cells were cancelled; the same command runs them again"
    )
    mixed = [*cancelled, failed(2, "no weights")]
    assert (
        count_failures(mixed, 6)
        == "1 of 6 cells failed, 2 were cancelled; fix the cause and rerun the same command"
    )
    assert (
        count_failures(mixed[2:], 6)
        == "1 of 6 cells failed; fix the cause and rerun the same command"
    )


CONTROLLER = """
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print(worker.pid, flush=True)
worker.wait()
"""


def test_stopping_also_ends_the_workers() -> None:
    controller = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    worker = psutil.Process(int(controller.stdout.readline()))
    stop([controller.pid])
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert controller.communicate(timeout=10)[1] == ""
    stop([controller.pid, os.getpid() + 2**22])  # already ended
