"""The training loop: batch order, schedule, resuming after a kill at any place, and its errors."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.conftest import ANSWERS, Case
from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.plan.check import plan, save_plan
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.run import loop
from vlpeft.benchmark.run.batches import Feed, batches
from vlpeft.benchmark.run.checkpoint import load_checkpoint, save_checkpoint, trained_tensors
from vlpeft.benchmark.run.features import VisualSteps
from vlpeft.benchmark.run.finite import check_trained
from vlpeft.benchmark.run.loop import TrainingState, start, train
from vlpeft.benchmark.run.optimizer import learning_rate_factor
from vlpeft.benchmark.run.runner import run_cell
from vlpeft.benchmark.run.runtime import Runtime
from vlpeft.benchmark.tasks.base import Item

LORA = Case("lora", "vit_roberta")
SWEEP = """
protocol:
  {steps: 12, batch_size: 24, lr: 2e-3, schedule: cosine, warmup_fraction: 0.25,
   weight_decay: 0.01, clip_norm: 1.0, train_limit: 64, eval_limit: 16,
   max_input_tokens: 24, max_output_tokens: 24, metric_tokenizer: treebank}
tasks: [{task: vqa, dataset: ./scenes.yaml}, {task: captioning, dataset: ./scenes.yaml}]
backbones:
  - name: vit_roberta
    text: tiny
    vision: tiny
    head_layers: 1
    protocol: {metrics: [vqa_accuracy]}
  - {name: vit_gpt2, text: tiny, vision: tiny, protocol: {metrics: [bleu]}}
methods: [{name: routing_lora, function: mul, dropout: 0.2}]
"""
SCENES = "{format: shapes, root: '', train_scenes: 60, val_scenes: 1, test_scenes: 20}\n"
# Every attempt is a process of its own, forked before anything is computed. Each but the last kills
# itself.
WORKER = """
import os, signal, sys
from pathlib import Path
from vlpeft.benchmark.run.runtime import Runtime
from vlpeft.benchmark.run.runner import run_cell

root, *cells = sys.argv[1:]
runtime = Runtime(device="cpu", threads=1, checkpoint_seconds=0)
for cell in cells:
    for phase, step in (("train", 5), ("train", 6), ("train", 11), ("evaluate", 16), ("never", 0)):
        def progress(where, done, total):
            if (where, done) == (phase, step):
                os.kill(os.getpid(), signal.SIGKILL)
        child = os.fork()
        if child == 0:
            outcome = run_cell(cell, Path(root), runtime, progress)
            os._exit(0 if outcome == "done" else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        folder = Path(root) / "cells" / cell
        if phase != "never":
            assert (folder / "checkpoint.pt").exists()
            assert not (folder / "record.json").exists()
"""
TIMINGS = {
    "train_seconds",
    "eval_seconds",
    "cpu_seconds",
    "step_ms",
    "peak_memory_mb",
    "tokens_per_second",
    "images_per_second",
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "scenes.yaml").write_text(SCENES)
    (folder / "short.yaml").write_text(SWEEP)
    return plan(SweepHandle(str(folder / "short.yaml")), need_data=True)


# Resuming.


def test_kills_change_nothing(planned: Plan, tmp_path: Path) -> None:
    """Killed at three steps and in evaluation, and resumed in new processes: the same bytes."""
    whole, broken = Store(tmp_path / "whole"), Store(tmp_path / "broken")
    cells = [cell.id for cell in planned.runnable()]
    assert len(cells) == 2
    for store in (whole, broken):
        save_plan(planned, store.root)
    for cell in cells:
        assert run_cell(cell, whole.root, Runtime(device="cpu", threads=1)) == "done"
    command = [sys.executable, "-c", WORKER, str(broken.root), *cells]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["-9", "-9", "-9", "-9", "0"] * 2
    for cell in cells:
        ours, theirs = broken.record(cell), whole.record(cell)
        for name in ("trained.safetensors", "predictions.jsonl", "scores.json", "answers.json"):
            assert (broken.folder(cell) / name).read_bytes() == (
                whole.folder(cell) / name
            ).read_bytes(), name
        assert (ours.metrics, ours.curve, ours.files) == (
            theirs.metrics,
            theirs.curve,
            theirs.files,
        )
        assert {k: v for k, v in ours.cost.items() if k not in TIMINGS} == {
            k: v for k, v in theirs.cost.items() if k not in TIMINGS
        }
        assert len(ours.curve) == 12
        left = {
            path.name for path in broken.folder(cell).iterdir() if not path.name.startswith(".")
        }
        assert left == {
            "cell.json",
            "record.json",
            "predictions.jsonl",
            "scores.json",
            "answers.json",
            "trained.safetensors",
            "lock",
        }


def test_a_failed_attempt_is_reported_and_the_next_resumes(planned: Plan, tmp_path: Path) -> None:
    save_plan(planned, tmp_path)
    cell = planned.runnable()[0].id
    folder = Store(tmp_path).folder(cell)
    runtime = Runtime(device="cpu", threads=1, checkpoint_seconds=0)

    def stop(phase: str, step: int, total: int) -> None:
        if (phase, step) == ("train", 7):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, tmp_path, runtime, stop)
    assert '"cause": "interrupted"' in (folder / "failure.json").read_text()
    steps: list[int] = []
    outcome = run_cell(
        cell,
        tmp_path,
        runtime,
        lambda phase, step, _: steps.append(step) if phase == "train" else None,
    )
    assert outcome == "done"
    assert steps == [7, 8, 9, 10, 11, 12], "the checkpoint was written behind step 6"
    assert not (folder / "failure.json").exists()


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    backbone = LORA.build()
    state = start(backbone, LORA.protocol, 1)
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state, {"cell": "a", "data": "old"})
    load_checkpoint(path, state, {"cell": "a", "data": "old"})
    with pytest.raises(UserError, match=r"checkpoint\.pt was made with other data .* delete it"):
        load_checkpoint(path, state, {"cell": "a", "data": "new"})


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    state, origin = start(LORA.build(), LORA.protocol, 1), {"cell": "a", "data": "b"}
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state, origin)
    saved = torch.load(path, weights_only=True)
    del saved["selection"]
    torch.save(saved, path)
    with pytest.raises(
        UserError, match=r"made by another version of vlpeft \(no 'selection'\); delete it"
    ):
        load_checkpoint(path, state, origin)


def _edit(path: Path, change) -> None:
    saved = torch.load(path, weights_only=True)
    change(saved)
    torch.save(saved, path)


def _shorten(tensors: dict[str, torch.Tensor]) -> None:
    name = next(iter(tensors))
    tensors[name] = tensors[name][:1]


def _shorten_moments(saved: dict[str, Any]) -> None:
    saved["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"hello"),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zip": lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 500),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"a": print})),
    "foreign": lambda path: torch.save({"a": 1}, path),
    "list": lambda path: torch.save([1, 2], path),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "step": lambda path: _edit(path, lambda saved: saved.update(step=10**6)),
    "negative step": lambda path: _edit(path, lambda saved: saved.update(step=-1)),
    "text as step": lambda path: _edit(path, lambda saved: saved.update(step="1")),
    "seconds": lambda path: _edit(path, lambda saved: saved.update(step_seconds=[])),
    "no tensors": lambda path: _edit(path, lambda saved: saved.update(trained={})),
    "short tensor": lambda path: _edit(path, lambda saved: _shorten(saved["trained"])),
    "short moments": lambda path: _edit(path, _shorten_moments),
    "optimizer": lambda path: _edit(path, lambda saved: saved.update(optimizer={"a": 1})),
    "schedule": lambda path: _edit(path, lambda saved: saved.update(schedule=None)),
    "random state": lambda path: _edit(path, lambda saved: saved.update(cpu_rng=torch.zeros(3))),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_named_with_the_fix(tmp_path: Path, damage) -> None:
    origin = {"cell": "a", "data": "b"}
    state = LORA.train(LORA.build(), steps=1)
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state, origin)
    damage(path)
    fresh = start(LORA.build(), LORA.protocol, 1)
    with pytest.raises(UserError, match=r"checkpoint\.pt.* delete it to restart") as found:
        load_checkpoint(path, fresh, origin)
    assert "\n" not in str(found.value)


# Batches.

counts, widths, seeds = st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**31)


def order(n: int, size: int, seed: int, first: int, last: int) -> list[list[int]]:
    return [batch for _, batch in batches([feed(range(n), size)], seed, first, last)]


def feed(items: Sequence[Any], size: int, visual: Any = None) -> Feed:
    return Feed(items, visual, Protocol(lr=0.125, steps=3, batch_size=size), ())


@settings(deadline=None)
@given(counts, widths, seeds, st.integers(1, 4))
def test_every_epoch_is_a_permutation_with_its_last_small_batch(
    n: int, size: int, seed: int, epochs: int
) -> None:
    per_epoch = math.ceil(n / size)
    made = order(n, size, seed, 0, epochs * per_epoch)
    for epoch in range(epochs):
        part = made[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(i for batch in part for i in batch) == list(range(n))
        assert [len(batch) for batch in part[:-1]] == [size] * (per_epoch - 1)
        assert len(part[-1]) == n - size * (per_epoch - 1)


@settings(deadline=None)
@given(counts, widths, seeds, st.integers(0, 30), st.integers(0, 30))
def test_any_step_can_be_the_first(n: int, size: int, seed: int, first: int, more: int) -> None:
    assert (
        order(n, size, seed, first, first + more) == order(n, size, seed, 0, first + more)[first:]
    )


def test_epochs_and_seeds_give_other_orders() -> None:
    one, two = order(50, 50, 0, 0, 2)
    assert one != two
    assert order(50, 50, 1, 0, 1)[0] not in (one, two)


def test_the_order_does_not_depend_on_the_random_state() -> None:
    torch.manual_seed(1)
    one = order(20, 7, 3, 0, 5)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert order(20, 7, 3, 0, 5) == one
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state), (
        "drawing an order must not move dropout's draws"
    )


@pytest.mark.parametrize(("examples", "expected"), [(64, 6), (65, 9), (1, 3)])
def test_steps_of_epochs(examples: int, expected: int) -> None:
    assert Protocol(lr=1.0, epochs=3).total_steps(feed(range(examples), 32).batches) == expected
    assert Protocol(lr=1.0, steps=5).total_steps(examples) == 5


# Learning rate.


def factors(total: int = 20, **settings_: object) -> list[float]:
    factor = learning_rate_factor(Protocol(lr=1.0, steps=total, **settings_), total)
    return [factor(step) for step in range(total + 1)]


def test_linear_decay() -> None:
    assert factors(schedule="linear") == pytest.approx([1 - i / 20 for i in range(21)])


def test_linear_decay_after_a_warm_up() -> None:
    expected = [0, 0.25, 0.5, 0.75, *(1 - i / 16 for i in range(17))]
    assert factors(schedule="linear", warmup_steps=4) == pytest.approx(expected)
    assert factors(schedule="linear", warmup_fraction=0.2) == pytest.approx(expected)


def test_cosine_decay() -> None:
    made = factors(schedule="cosine", warmup_steps=4)
    assert made[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert made[12] == pytest.approx(0.5)
    assert made[20] == pytest.approx(0)
    assert all(a > b for a, b in pairwise(made[4:]))


def test_constant() -> None:
    assert factors(schedule="constant", warmup_steps=2) == [0, 0.5, *[1.0] * 19]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_a_schedule_stays_between_0_and_1(schedule: str) -> None:
    for warmup in (0, 1, 19):
        assert all(0 <= factor <= 1 for factor in factors(schedule=schedule, warmup_steps=warmup))


@settings(deadline=None)
@given(st.lists(st.tuples(counts, widths), min_size=2, max_size=4), seeds)
def test_an_epoch_of_a_joint_cell_shows_every_item_of_every_task_once(
    sizes: list[tuple[int, int]], seed: int
) -> None:
    feeds = [feed([(i, j) for j in range(n)], size) for i, (n, size) in enumerate(sizes)]
    per_epoch = sum(f.batches for f in feeds)
    made = list(batches(feeds, seed, 0, 2 * per_epoch))
    for epoch in (made[:per_epoch], made[per_epoch:]):
        shown = [item for _, batch in epoch for item in batch]
        assert sorted(shown) == sorted(item for f in feeds for item in f.items)
    assert all(len({task for task, _ in batch}) == 1 for _, batch in made)
    assert [f.items[0][0] for f, _ in made] == [
        f.items[0][0] for f, _ in batches(feeds, seed + 1, 0, 2 * per_epoch)
    ], "the seed has no say"
    assert list(batches(feeds, seed, 1, per_epoch)) == made[1:per_epoch], "resumed"


# One step.


def test_matrices_decay_and_vectors_do_not() -> None:
    backbone = Case("full_finetuning", "vit_roberta").build()
    state = start(backbone, Protocol(lr=1e-3, steps=1, weight_decay=0.5), 1)
    decay, plain = state.optimizer.param_groups
    assert (decay["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert {p.ndim for p in plain["params"]} == {1}
    assert min(p.ndim for p in decay["params"]) == 2
    assert len(decay["params"]) + len(plain["params"]) == sum(
        p.requires_grad for p in backbone.parameters()
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_before_any_update_blames_the_towers(value: float) -> None:
    backbone = LORA.build()
    one = feed(
        LORA.items(),
        8,
        VisualSteps(lambda _ids, _seeds: torch.full((8, 1, 128), value), nn.Identity()),
    )
    with pytest.raises(
        UserError, match=r"the loss is nan before the first update; the weights or the features"
    ):
        train(start(backbone, one.protocol, 1), [one], 0, None, lambda _: None)


BART = Case("lora", "clip_bart")


def answer_some(case: Case, answered: Sequence[int]) -> list[Item]:
    """Return a case's items; only those of these places keep their targets."""
    return [
        item if i in answered else replace(item, targets={}) for i, item in enumerate(case.items())
    ]


def train_on(case: Case, items: Sequence[Item], micro_batch: int | None = None) -> Any:
    """Train for four steps of two items; return the state and the weights after each step."""
    backbone = case.build()
    protocol = replace(case.protocol, batch_size=2, steps=4, weight_decay=0.5, clip_norm=1.0)
    size = backbone.vision.size
    image = torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))
    tokens = backbone.vision(image[None]).detach()
    visual = VisualSteps(lambda ids, _: tokens[[0] * len(ids)], nn.Identity())
    state = start(backbone, protocol, 4)
    after: list[dict[str, torch.Tensor]] = []

    def keep(_: TrainingState) -> None:
        after.append({name: p.clone() for name, p in trained_tensors(backbone).items()})

    one = Feed(items, visual, protocol, ANSWERS)
    train(state, [one], 0, micro_batch, keep)
    return state, after


def test_a_batch_without_a_listed_answer_adds_nothing() -> None:
    """Neither momentum nor weight decay moves a weight, and the curve has no such step."""
    everything = [batch for _, batch in batches([feed(range(8), 2)], 0, 0, 4)]
    items = answer_some(BART, [*everything[0], *everything[2]])
    state, after = train_on(BART, items)
    assert [step for step, _ in state.curve] == [1, 3]
    assert all(math.isfinite(loss) for _, loss in state.curve)
    for name, tensor in after[0].items():
        assert torch.equal(tensor, after[1][name]), name
        assert torch.equal(after[2][name], after[3][name]), name
    assert any(not torch.equal(tensor, after[2][name]) for name, tensor in after[1].items())


def test_pieces_without_a_listed_answer_add_nothing() -> None:
    """One of two questions is answered: as parts of one they give what they give together."""
    whole, parts = (train_on(BART, answer_some(BART, [0, 3, 5]), size) for size in (None, 1))
    assert whole[0].curve == [(step, pytest.approx(loss)) for step, loss in parts[0].curve]
    for name, tensor in whole[1][-1].items():
        torch.testing.assert_close(tensor, parts[1][-1][name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (math.nan, r"the trained tensor \S+ is not finite after step 0"),
        (-math.inf, r"the trained tensor \S+ is not finite after step 0"),
        # Finite, and too large for any sum.
        (3e38, "the loss is nan after step 0, the last update"),
    ],
)
def test_weights_that_overflow_in_the_last_update(spoil: float, words: str) -> None:
    case = Case("full_finetuning", "vit_roberta")
    backbone = case.build().train()
    features = torch.ones(8, 1, 128)
    one = feed(case.items(), 8, VisualSteps(lambda ids, _: features[: len(ids)], nn.Identity()))
    state = start(backbone, one.protocol, 1)
    random = torch.get_rng_state()
    check_trained(state, [one])
    assert torch.equal(random, torch.get_rng_state())
    assert backbone.training
    with torch.no_grad():
        next(iter(trained_tensors(backbone).values())).fill_(spoil)
    with pytest.raises(UserError, match=rf"{words}.*lower `lr` \(0\.125\) or set `clip_norm`"):
        check_trained(state, [one])


@pytest.mark.parametrize("best", [False, True])
def test_a_cell_whose_weights_overflow_fails(best: bool, tmp_path: Path) -> None:
    (tmp_path / "scenes.yaml").write_text(SCENES.replace("val_scenes: 1", "val_scenes: 4"))
    recipe = "steps: 1, batch_size: 24, lr: 1e37, train_limit: 8, eval_limit: 16"
    if best:
        recipe = recipe.replace("steps: 1", "epochs: 1, select: best, select_split: val")
    body = SWEEP.partition("max_input_tokens")[2]
    (tmp_path / "a.yaml").write_text(f"protocol:\n  {{{recipe}, max_input_tokens{body}")
    made = plan(SweepHandle(str(tmp_path / "a.yaml")), need_data=True)
    save_plan(made, tmp_path)
    for cell in made.runnable():
        with pytest.raises(UserError, match=r"(overflowed|became nan at step 1); lower `lr`"):
            run_cell(cell.id, tmp_path, Runtime(device="cpu", threads=1))
        assert not Store(tmp_path).has_record(cell.id)


@pytest.fixture
def curve() -> list[tuple[int, float]]:
    backbone = LORA.build()
    return LORA.train(backbone, 3).curve


def test_the_curve_has_the_mean_loss_of_every_window(curve: list[tuple[int, float]]) -> None:
    assert [step for step, _ in curve] == [1, 2, 3]
    backbone = LORA.build()
    first = sum(LORA.loss(backbone, [item]).item() for item in LORA.items()) / (8 * 6)
    assert curve[0][1] == pytest.approx(first, rel=1e-5)


@given(
    n=st.integers(1, 60), size=st.integers(1, 7), window=st.integers(2, 5), seed=st.integers(0, 5)
)
def test_sorting_by_length_neither_drops_nor_repeats(
    n: int, size: int, window: int, seed: int
) -> None:
    """Within a window no batch overlaps another in lengths.

    Batches are as many and as large as without sorting.
    """
    items = [Item((str(i),), "x" * (i * 37 % 23), {"y": 1.0}) for i in range(n)]
    recipe = Protocol(lr=1.0, epochs=2, batch_size=size, length_window=window)
    made = [
        batch for _, batch in batches([Feed(items, None, recipe, ())], seed, 0, 2 * -(-n // size))
    ]  # type: ignore[arg-type]
    epochs = [made[: len(made) // 2], made[len(made) // 2 :]]
    for epoch in epochs:
        assert sorted(item.images for batch in epoch for item in batch) == sorted(
            item.images for item in items
        )
        assert [len(batch) for batch in epoch[:-1]] == [size] * (len(epoch) - 1)
        for begin in range(0, len(epoch), window):
            lengths = (
                [len(item.prompt) for item in batch] for batch in epoch[begin : begin + window]
            )
            ranges = sorted((min(each), max(each)) for each in lengths)
            assert all(first[1] <= second[0] for first, second in pairwise(ranges))
    middle = len(made) // 3
    again = [
        batch for _, batch in batches([Feed(items, None, recipe, ())], seed, middle, len(made))
    ]  # type: ignore[arg-type]
    assert again == made[middle:], "any step can be the first"


def test_a_key_that_needs_another() -> None:
    with pytest.raises(ValueError, match="remove one of the two keys"):
        Protocol(lr=1.0, steps=1, views=4)


def test_a_long_curve_has_means_of_several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    every = LORA.train(LORA.build(), 6).curve
    monkeypatch.setattr(loop, "CURVE_POINTS", 2)
    curve = LORA.train(LORA.build(), 6).curve
    means = [sum(loss for _, loss in every[i : i + 3]) / 3 for i in (0, 3)]
    assert [step for step, _ in curve] == [3, 6]
    assert [loss for _, loss in curve] == pytest.approx(means, rel=1e-6)
