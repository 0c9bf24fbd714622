"""The number of operations in a step, counted on a step that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from tests.conftest import ANSWERS, Case, visual
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.checkpoint import trained_tensors
from vlpeft.benchmark.run.cost import gpu_hours
from vlpeft.benchmark.run.distributed import ALONE, Ranks
from vlpeft.benchmark.run.features import VisualSteps
from vlpeft.benchmark.run.flops import StepFlops, first_step
from vlpeft.benchmark.run.loop import start
from vlpeft.benchmark.tasks.base import Item


def counted(
    case: Case, micro_batch: int | None = None
) -> tuple[StepFlops, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    made = case.build()
    feed = Feed(case.items(), visual(made), case.protocol, ANSWERS)
    state = start(made, case.protocol, feed.batches)
    before = {name: tensor.clone() for name, tensor in trained_tensors(made).items()}
    return first_step(state, [feed], 0, micro_batch, ALONE), before, trained_tensors(made)


@pytest.mark.parametrize("backbone", ["vit_roberta", "vit_gpt2", "blip", "clip_bart"])
def test_more_is_counted_if_more_trains(backbone: str) -> None:
    lora, full = (counted(Case(method, backbone))[0] for method in ("lora", "full_finetuning"))
    assert 0 < lora.flops < full.flops
    assert (lora.tokens, lora.images) == (full.tokens, full.images)


def test_any_method_can_be_counted_and_nothing_changes(case: Case) -> None:
    """Methods that pass parameters to modules directly are included: prompts, prefixes, p."""
    work, before, after = counted(case)
    assert work.flops > 0
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(tensor.grad is None for tensor in after.values())


class Two(nn.Module):
    """A minimal backbone for counting: look-ups, a frozen linear map and a trained one."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.token_embeddings = nn.Embedding(7, 4).requires_grad_(False)
        self.frozen, self.trained = nn.Linear(4, 5).requires_grad_(False), nn.Linear(5, 3)

    def follow(self, *_: object) -> None: ...

    def loss(
        self, _visual: torch.Tensor, prompts: Sequence[str], _targets: object
    ) -> tuple[torch.Tensor, int]:
        ids = torch.zeros(len(prompts), 2, dtype=torch.long)
        return self.trained(self.frozen(self.token_embeddings(ids))).sum(), len(prompts)


@pytest.mark.parametrize("ranks", [Ranks(0, 1), Ranks(0, 2)])
def test_flops_counted_by_hand(ranks: Ranks) -> None:
    """6 rows: 2 * 6 * 4 * 5 for the frozen map and 2 * 6 * 5 * 3 for the trained one.

    The gradient of the trained weights costs as much again. The count is the same for any number of
    ranks, and gradients of the last step are freed.
    """
    made = Two()
    items = [
        Item(("a",), "", {"b": 1.0}),
        Item(("b",), "", {"b": 1.0}),
        Item(("c",), "", {"b": 1.0}),
    ]
    recipe = Protocol(lr=1.0, steps=1, batch_size=3)
    state = start(made, recipe, 1)  # type: ignore[arg-type]
    for parameter in made.trained.parameters():
        parameter.grad = torch.ones_like(parameter)
    feed = Feed(
        items, VisualSteps(lambda ids, _: torch.zeros(len(ids), 1, 1), nn.Identity()), recipe, ()
    )
    assert first_step(state, [feed], 0, None, ranks) == StepFlops(
        flops=240 + 180 + 180, tokens=6, images=3
    )
    assert all(parameter.grad is None for parameter in made.parameters())


def test_parts_of_a_batch_make_the_batch() -> None:
    whole, parts = (counted(Case("lora", "vit_gpt2"), size)[0] for size in (None, 1))
    assert whole.images == parts.images
    assert 0 < parts.tokens <= whole.tokens  # shorter parts have less padding
    assert parts.flops <= whole.flops


def test_gpu_hours_are_those_of_all_ranks() -> None:
    assert gpu_hours(torch.device("cuda:1"), 1800.0, 4) == 2.0
    assert gpu_hours(torch.device("cpu"), 1800.0, 4) == 0.0


def test_rates_are_of_one_step() -> None:
    assert StepFlops(10, 20, 4).per_second(0.5) == {"tokens_per_second": 40, "images_per_second": 8}
