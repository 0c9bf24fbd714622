"""A cell that is asked to stop is saved at that step and later ends with the same bits."""

import pytest

from tests.end_to_end.conftest import write_one
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.plan.check import plan, save_plan
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.run.runner import Stopped, run_cell
from vlpeft.benchmark.run.runtime import Runtime

RUNTIME = Runtime(device="cpu", threads=1, checkpoint_seconds=1e9)
PROTOCOL = "{lr: 1e-3, steps: 5, batch_size: 4, train_limit: 8, eval_limit: 4}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return plan(
        SweepHandle(str(write_one(tmp_path_factory.mktemp("sweep"), protocol=PROTOCOL))),
        need_data=True,
    )


def test_stopped_and_resumed(made, tmp_path) -> None:
    cell = made.cells[0].id
    for name in ("whole", "parts"):
        save_plan(made, tmp_path / name)
    run_cell(cell, tmp_path / "whole", RUNTIME)
    folder, seen = tmp_path / "parts" / "cells" / cell, []

    def progress(phase: str, step: int, _total: int) -> None:
        seen.append((phase, step))

    for phase, step in (("load data", 0), ("train", 3), ("train", 5), ("evaluate", 4)):
        seen.clear()

        def stop(reached: tuple[str, int] = (phase, step)) -> bool:
            return seen[-1] == reached

        with pytest.raises(Stopped):
            run_cell(cell, tmp_path / "parts", RUNTIME, progress, stop)
        assert not any(
            (folder / name).exists() for name in ("record.json", "failure.json", "progress.json")
        )
        trained = [step for phase, step in seen if phase == "train"]
        assert trained == {("train", 3): [1, 2, 3], ("train", 5): [4, 5]}.get((phase, step), [])
    assert run_cell(cell, tmp_path / "parts", RUNTIME) == "done"
    whole, parts = (Store(tmp_path / name).record(cell) for name in ("whole", "parts"))
    assert (whole.metrics, whole.curve, whole.files) == (parts.metrics, parts.curve, parts.files)
    assert not (folder / "checkpoint.pt").exists()
