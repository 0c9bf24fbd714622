"""How much a step does, counted on a step that changes nothing."""

from __future__ import annotations

import pytest
import torch

from benchmark.checkpoint import trained
from benchmark.distributed import ALONE
from benchmark.training import Feed, start
from benchmark.work import Work, first_step
from tests.conftest import ANSWERS, Case, visual


def counted(method: str, backbone: str, micro_batch: int | None = None) -> tuple[Work, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    case = Case(method, backbone)
    made = case.build()
    feed = Feed(case.items(), lambda ids: visual(made, ids), case.protocol, ANSWERS)
    state = start(made, case.protocol, feed.batches)
    before = {name: tensor.clone() for name, tensor in trained(made).items()}
    return first_step(state, [feed], 0, micro_batch, ALONE), before, trained(made)


@pytest.mark.parametrize("backbone", ["vit_roberta", "vit_gpt2", "blip", "clip_bart"])
def test_more_is_counted_where_more_trains_and_nothing_changes(backbone: str) -> None:
    lora, before, after = counted("lora", backbone)
    full, _, _ = counted("full_finetuning", backbone)
    assert 0 < lora.flops < full.flops
    assert (lora.tokens, lora.images) == (full.tokens, full.images)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(tensor.grad is None for tensor in after.values())


def test_parts_of_a_batch_make_the_batch() -> None:
    whole, parts = (counted("lora", "vit_gpt2", size)[0] for size in (None, 1))
    assert whole.images == parts.images
    assert 0 < parts.tokens <= whole.tokens  # shorter parts are padded less
    assert parts.flops <= whole.flops


def test_rates_are_of_one_step() -> None:
    assert Work(10, 20, 4).per_second(0.5) == {"tokens_per_second": 40, "images_per_second": 8}
