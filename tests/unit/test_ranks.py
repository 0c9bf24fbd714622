"""Several processes on one cell: the same training, shared predictions, resuming, failures."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tests.conftest import ANSWERS, Case
from tests.end_to_end.conftest import main, write_one
from tests.ranks_at_work import (
    Job,
    be_deaf,
    be_unlike,
    fail,
    in_ranks,
    start_sleepers,
    sum_some,
    train_alike,
    train_all,
)
from vlpeft.benchmark.cells.attempts import Failure
from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.cells.failures import RankFailed
from vlpeft.benchmark.cells.records import Record, Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.check import plan, save_plan
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.run.distributed import ALONE, Ranks
from vlpeft.benchmark.run.runner import Stopped, run_cell
from vlpeft.benchmark.run.runtime import Runtime

__all__ = ["main"]
CASES = (
    Case("lora", "vit_roberta"),
    Case("full_finetuning", "vit_gpt2"),
    Case("p_adapter", "blip"),
    Case("routing_adapter", "clip_bart"),
    Case("bitfit", "clip_bart"),
)
WORLDS = (2, 3)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Check that no process outlives its cell."""
    yield
    assert multiprocessing.active_children() == []


# Training.


def job(case: Case) -> Job:
    """Train on seven of eight items, the remaining one, and seven again.

    Some questions have several answers.
    """
    # Adam divides by the size of the gradient. A small eps would amplify the rounding of gradients
    # that should be 0.
    protocol = replace(case.protocol, batch_size=7, weight_decay=0.1, clip_norm=0.5, eps=1e-4)
    if case.backbone == "blip":
        protocol = replace(protocol, loss_mean="questions")
    items = [
        replace(item, targets={**item.targets, "no": 0.3} if i % 3 == 0 else item.targets)
        for i, item in enumerate(case.items())
    ]
    return Job(replace(case.cell(), protocol=protocol), items, ANSWERS)


@pytest.fixture(scope="module")
def together() -> dict[int, list[dict[str, Any]]]:
    return {world: in_ranks(train_all, world, [job(case) for case in CASES]) for world in WORLDS}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("index", range(len(CASES)), ids=map(str, CASES))
def test_as_in_one_process(together, index: int, world: int) -> None:
    """The loss is always the mean over all terms of the batch.

    Pieces are uneven or empty, and so are their parts.
    """
    alone, found = train_alike(job(CASES[index]), ALONE), together[world][index]
    assert found["curve"] == [
        (step, pytest.approx(loss, rel=1e-5)) for step, loss in alone["curve"]
    ]
    assert found["tensors"].keys() == alone["tensors"].keys()
    for name, tensor in alone["tensors"].items():
        np.testing.assert_allclose(found["tensors"][name], tensor, rtol=0, atol=1e-5, err_msg=name)


def test_a_gradient_is_none_only_if_no_rank_has_one() -> None:
    """The optimizer skips a parameter without a gradient, such as the copy of another task.

    A zero gradient would let it decay.
    """
    assert in_ranks(sum_some, 2) == [(1.0, 2 * 10**10 + 1), [[3.0, 30.0], [2.0, 20.0], None]]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9])
def test_pieces_are_the_batch(size: int, world: int) -> None:
    pieces = [Ranks(rank, world).piece(size) for rank in range(world)]
    assert [i for piece in pieces for i in piece] == list(range(size))
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_draws_depend_on_the_rank_and_the_step() -> None:
    def draw(rank: int, step: int, world: int = 2) -> float:
        Ranks(rank, world).reseed(0, step)
        return torch.rand(()).item()

    assert draw(1, 3) == draw(1, 3)
    assert len({draw(0, 3), draw(1, 3), draw(1, 4)}) == 3
    torch.manual_seed(5)
    expected = [torch.rand(()).item() for _ in range(2)]
    torch.manual_seed(5)
    assert [draw(0, 3, 1), draw(0, 3, 1)] == expected, "one process goes on with its stream"


def test_ranks_with_other_weights_are_detected() -> None:
    with pytest.raises(RankFailed, match="models with different weights"):
        in_ranks(be_unlike, 2)


def test_each_rank_has_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("auto", "cuda"):
        assert [str(Runtime(device=name, ranks=2).torch_device(rank)) for rank in range(2)] == [
            "cuda:0",
            "cuda:1",
        ]
        assert str(Runtime(device=name).torch_device()) == "cuda"
        with pytest.raises(
            UserError,
            match="ranks: 3 need a GPU each, 2 visible here; use at most 2, or --device cpu",
        ):
            Runtime(device=name, ranks=3).torch_device()
    with pytest.raises(
        UserError, match="--device cuda:1: 2 ranks need a GPU each; use --device cuda"
    ):
        Runtime(device="cuda:1", ranks=2).torch_device()
    assert str(Runtime(device="cuda:1").torch_device()) == "cuda:1"
    assert str(Runtime(device="cpu", ranks=3).torch_device(2)) == "cpu"


# Whole cells.

RECIPE = (
    "{lr: 1e-3, epochs: 2, batch_size: 7, train_limit: 19, eval_limit: 9, select: best, "
    "augment: blip, weight_decay: 0.01, clip_norm: 1.0,"
    " max_output_tokens: 12, metric_tokenizer: treebank}"
)
DROPPING = "{lr: 1e-3, steps: 30, batch_size: 6, train_limit: 24, eval_limit: 9}"


def planned(folder: Path, **lines: str) -> Plan:
    return plan(SweepHandle(str(write_one(folder, **lines))), need_data=True)


def run(made: Plan, root: Path, ranks: int, **options: Any) -> Record:
    save_plan(made, root)
    cell, runtime = (
        made.cells[0].id,
        Runtime(device="cpu", threads=1, eval_batch=4, ranks=ranks, checkpoint_seconds=1e9),
    )
    assert run_cell(cell, root, runtime, **options) == "done"
    return Store(root).record(cell)


def predicted(root: Path) -> bytes:
    (path,) = root.glob("cells/*/predictions.jsonl")
    return path.read_bytes()


@pytest.mark.parametrize("task", ["vqa", "captioning"])
def test_a_cell_as_in_one_process(tmp_path, task: str) -> None:
    """Nine examples in batches of four, the better of two epochs.

    Views, scores, predictions and their order are the same.
    """
    backbone, metric = {
        "vqa": ("vit_roberta", "vqa_accuracy"),
        "captioning": ("vit_gpt2", "rouge_l"),
    }[task]
    lines = {
        "tasks": f"[{{task: {task}, dataset: small_shapes.yaml}}]",
        "backbones": f"[{{name: {backbone}, text: tiny, vision: tiny, "
        f"protocol: {{metrics: [{metric}]}}}}]",
    }
    made = planned(tmp_path, protocol=RECIPE, **lines)
    alone, several = run(made, tmp_path / "alone", 1), run(made, tmp_path / "several", 2)
    assert predicted(tmp_path / "several") == predicted(tmp_path / "alone")
    ids = [json.loads(line)["id"] for line in predicted(tmp_path / "several").splitlines()]
    assert len(ids) == len(set(ids)) == 9
    assert several.curve == [(step, pytest.approx(loss, rel=1e-5)) for step, loss in alone.curve]
    assert (several.id, several.metrics, several.selection) == (
        alone.id,
        alone.metrics,
        alone.selection,
    )
    assert (alone.provenance["ranks"], several.provenance["ranks"]) == (1, 2)
    assert {key: several.cost[key] for key in ("trainable", "total", "steps", "delta_bytes")} == {
        key: alone.cost[key] for key in ("trainable", "total", "steps", "delta_bytes")
    }


def stop_after(made: Plan, root: Path, step: int, ranks: int) -> int:
    """Run until that step is reported, then ask to stop; return the step at which it was saved."""
    heard: list[int] = []

    def progress(phase: str, done: int, _total: int) -> None:
        if phase == "train":
            heard.append(done)

    with pytest.raises(Stopped):
        run(made, root, ranks, progress=progress, asked=lambda: bool(heard) and heard[-1] >= step)
    (path,) = root.glob("cells/*/checkpoint.pt")
    return int(torch.load(path, weights_only=True)["step"])


def test_resumed_with_the_same_bits(tmp_path) -> None:
    """Dropout is included: the draws of two ranks are functions of the step."""
    made = planned(tmp_path, protocol=DROPPING, methods="[{name: lora, rank: 4, dropout: 0.3}]")
    whole = run(made, tmp_path / "whole", 2)
    saved = stop_after(made, tmp_path / "parts", 3, 2)
    assert 3 <= saved < 30
    parts = run(made, tmp_path / "parts", 2)
    assert (parts.curve, parts.files, parts.metrics) == (whole.curve, whole.files, whole.metrics)
    assert not list((tmp_path / "parts").glob("cells/*/checkpoint.pt"))


def test_resumed_with_other_ranks(tmp_path) -> None:
    made = planned(tmp_path, protocol=DROPPING)
    alone = run(made, tmp_path / "alone", 1)
    stop_after(made, tmp_path / "mixed", 3, 3)
    mixed = run(made, tmp_path / "mixed", 1)
    assert mixed.curve == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in alone.curve]
    assert predicted(tmp_path / "mixed") == predicted(tmp_path / "alone")


def test_a_killed_rank_fails_the_cell(tmp_path) -> None:
    made = planned(tmp_path, protocol=DROPPING)
    pids: list[int] = []

    def progress(phase: str, step: int, _total: int) -> None:
        if (phase, step) == ("train", 3):
            members = {each.name: each.pid for each in multiprocessing.active_children()}
            pids.extend(members.values())
            os.kill(members["rank 1"], signal.SIGKILL)

    with pytest.raises(RankFailed, match=r"^rank 1 was killed by SIGKILL \(out of memory\?\)$"):
        run(made, tmp_path / "root", 2, progress=progress)
    (path,) = (tmp_path / "root").glob("cells/*/failure.json")
    assert json.loads(path.read_text())["cause"] == "killed"
    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))
    assert not Store(tmp_path / "root").is_held(made.cells[0].id)


def test_user_errors_are_reported_as_such(tmp_path) -> None:
    made = planned(
        tmp_path, protocol="{lr: 1e30, steps: 4, batch_size: 4, train_limit: 8, eval_limit: 4}"
    )
    with pytest.raises(UserError, match="the loss became nan at step"):
        run(made, tmp_path / "root", 2)
    (path,) = (tmp_path / "root").glob("cells/*/failure.json")
    assert json.loads(path.read_text())["cause"] == "diverged"


def test_an_interrupted_cell_leaves_no_process(tmp_path) -> None:
    made = planned(tmp_path, protocol=DROPPING)

    def progress(phase: str, step: int, _total: int) -> None:
        if (phase, step) == ("train", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "root", 2, progress=progress)


def test_the_command(tmp_path, main) -> None:
    sweep = write_one(tmp_path)
    cell = json.loads(main("plan", sweep, "--json").out)[0]["id"]
    said = main(
        "run",
        sweep,
        "--cell",
        cell,
        "--root",
        tmp_path / "root",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--ranks",
        "2",
    )
    assert said.code == 0, said.err
    assert Store(tmp_path / "root").record(cell).provenance["ranks"] == 2
    for more, words in (
        (("--ranks", "0"), "--ranks: input should be greater than 0, got 0"),
        (
            ("--ranks", "2", "--on", "slurm", "--profile", "cpu"),
            "not for --on slurm; write `ranks` into the profile",
        ),
    ):
        refused = main("sweep", sweep, "--root", tmp_path / "root", *more)
        assert (refused.code, words in refused.err) == (2, True), refused.err


# The processes.


def test_the_cause_is_reported_and_not_its_consequences() -> None:
    """Rank 1 fails; ranks 0 and 2, which wait for it, lose their connection."""
    with pytest.raises(RankFailed) as error:
        in_ranks(fail, 3, 1, "raise")
    assert error.value.about == Failure("out of memory", "rank 1: no more", user=False)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("leave", r"exited without an error message \(exit code 3\)"),
        ("die", r"was killed by SIGKILL"),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_without_a_message(rank: int, how: str, words: str) -> None:
    with pytest.raises(RankFailed, match=f"^rank {rank} {words}"):
        in_ranks(fail, 2, rank, how)


def test_ranks_ignore_signals() -> None:
    """SLURM sends them to every process of a job.

    The state of a rank that a signal ended could not be saved.
    """
    heard: list[object] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert in_ranks(be_deaf, 1, hear=lambda *what: heard.append(what)) == [0, 1]
    assert heard == [(0, 1)]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_ranks_end_with_the_process_that_started_them(tmp_path) -> None:
    starter = multiprocessing.get_context("forkserver").Process(
        target=start_sleepers, args=(tmp_path,)
    )
    starter.start()
    assert starter.pid is not None
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    os.kill(starter.pid, signal.SIGKILL)
    starter.join()
    wait_until(lambda: not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir()))


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
