"""Fetching ahead gives the same bits earlier."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import ANSWERS, Case, visual
from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.datasets.shapes import Shapes
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.distributed import ALONE, Ranks
from vlpeft.benchmark.run.evaluation import predict_split
from vlpeft.benchmark.run.features import VisualSteps, views
from vlpeft.benchmark.run.fetch_ahead import DEPTH, ahead, fetch_depth, pin
from vlpeft.benchmark.run.loop import start, train
from vlpeft.benchmark.tasks.base import Item

LORA = Case("lora", "vit_roberta")
PATIENCE = 30.0  # seconds after which a missing thread is given up


@given(n=st.integers(0, 9), depth=st.integers(0, 4))
def test_items_arrive_in_order_and_the_depth_is_respected(n: int, depth: int) -> None:
    fetched: list[int] = []

    def fetch(job: int) -> int:
        fetched.append(job)
        return job * job

    for turn, (job, found) in enumerate(ahead(range(n), fetch, depth)):
        assert (job, found) == (turn, turn * turn)
        assert len(fetched) <= turn + 1 + depth
    assert fetched == list(range(n))


def test_the_next_item_is_fetched_during_work() -> None:
    begun = [threading.Event() for _ in range(3)]
    with closing(ahead(range(3), lambda job: begun[job].set(), depth=2)) as jobs:
        next(jobs)
        assert begun[1].wait(PATIENCE)
        assert begun[2].wait(PATIENCE)


def test_without_depth_each_item_is_fetched_in_turn() -> None:
    fetched: list[int] = []
    for job, _ in ahead(range(4), fetched.append, depth=0):
        assert fetched == list(range(job + 1))


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_waits_for_its_turn(depth: int) -> None:
    def fetch(job: int) -> int:
        if job == 2:
            raise DataError("image 2: damaged")
        return job

    done: list[int] = []
    with pytest.raises(DataError, match="image 2: damaged"):
        done.extend(found for _, found in ahead(range(4), fetch, depth))
    assert done == [0, 1]


def test_an_early_exit_stops_threads_and_work() -> None:
    fetched: list[int] = []
    before = threading.active_count()
    with closing(ahead(range(100), fetched.append, depth=2)) as jobs:
        next(jobs)
    assert len(fetched) <= 3
    assert threading.active_count() == before


def trained(depth: int, micro_batch: int | None) -> tuple[list[tuple[int, float]], set[str]]:
    """Train on augmented views; return the curve and the names of the drawing threads."""
    torch.manual_seed(0)
    backbone, threads = LORA.build(), set()
    live = views(backbone, Shapes(train_scenes=8, val_scenes=1, test_scenes=1))

    def fetch(ids: Sequence[str], seeds: Sequence[str]) -> Tensor:
        threads.add(threading.current_thread().name.split("_")[0])
        return live.fetch(ids, seeds)

    items = [
        Item((f"train/{i}",), item.prompt, item.targets) for i, item in enumerate(LORA.items())
    ]
    feed = Feed(items, live, LORA.protocol, ANSWERS, views=VisualSteps(fetch, live.finish))
    state = start(backbone, LORA.protocol, feed.batches)
    train(state, [feed], 0, micro_batch, lambda _: None, depth=depth)
    return state.curve, threads


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_training_gives_the_same_bits_at_any_depth(micro_batch: int | None) -> None:
    at_once, threads = trained(0, micro_batch)
    assert threads == {threading.current_thread().name}
    assert trained(3, micro_batch) == (at_once, {"fetch"})
    assert len({loss for _, loss in at_once}) == 3


def test_one_micro_batch_is_held_at_a_time() -> None:
    """This holds for any size of the batch, because it is the purpose of micro-batches."""
    made, done = visual(backbone := LORA.build()), []

    def fetch(ids: Sequence[str], seeds: Sequence[str]) -> Tensor:
        done.append(f"fetch {len(ids)}")
        return made.fetch(ids, seeds)

    def finish(pixels: Tensor) -> Tensor:
        done.append(f"finish {len(pixels)}")
        return made.finish(pixels)

    feed = Feed(LORA.items(), VisualSteps(fetch, finish), LORA.protocol, ANSWERS)
    train(start(backbone, replace(LORA.protocol, steps=1), 1), [feed], 0, 3, lambda _: None)
    assert done == ["fetch 3", "finish 3", "fetch 3", "finish 3", "fetch 2", "finish 2"]


@pytest.mark.parametrize("ranks", [ALONE, Ranks(1, 2)], ids=["alone", "the second of two"])
def test_evaluation_gives_the_same_results_at_any_depth(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, threads = LORA.build(), set[str]()
    made = visual(backbone)

    def fetch(ids: Sequence[str], seeds: Sequence[str]) -> Tensor:
        threads.add(threading.current_thread().name.split("_")[0])
        return made.fetch(ids, seeds)

    examples = LORA.examples()
    inputs = SimpleNamespace(
        answers=ANSWERS, prompts=lambda part: [example.question for example in part]
    )
    feed, found = Feed((), VisualSteps(fetch, made.finish), LORA.protocol, ANSWERS), []
    monkeypatch.setattr(Ranks, "gather", lambda self, mine: [mine] * self.world)
    for depth in (0, 2):
        monkeypatch.setattr(
            "vlpeft.benchmark.run.evaluation.fetch_depth", lambda _, depth=depth: depth
        )
        found.append(
            predict_split(backbone, features_and_prompts, inputs, feed, examples, 2, ranks=ranks)
        )
    assert found[0] == found[1]
    assert len(set(found[0])) == 8 // ranks.world
    assert threads == {threading.current_thread().name, "fetch"}


def features_and_prompts(features: Tensor, prompts: Sequence[str]) -> list[tuple[float, str]]:
    return list(zip(features.sum((1, 2, 3)).tolist(), prompts, strict=True))


def test_only_a_gpu_fetches_ahead_and_pins_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (fetch_depth(torch.device("cpu")), fetch_depth(torch.device("cuda", 1))) == (0, DEPTH)
    tensor, asked = torch.ones(2), []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: asked.append(self) or self)
    assert pin(tensor, torch.device("cpu")) is tensor
    assert not asked
    assert pin(tensor, torch.device("cuda", 0)) is tensor
    assert len(asked) == 1
