"""When memory runs out in training, the message names the batch that fits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch

from tests.conftest import ANSWERS, Case, visual
from vlpeft.benchmark.cells.failures import describe_failure
from vlpeft.benchmark.core.errors import OutOfMemory
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.checkpoint import trained_tensors
from vlpeft.benchmark.run.distributed import ALONE
from vlpeft.benchmark.run.fitting import train_in_memory
from vlpeft.benchmark.run.loop import TrainingState, start
from vlpeft.benchmark.tasks.base import Item

LORA = Case("lora", "vit_roberta")


def limited(state: TrainingState, room: int) -> None:
    """Let the model raise an out-of-memory error for more than `room` examples."""
    loss = state.backbone.loss

    def checked(visual, prompts, targets):
        if len(prompts) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.")
        return loss(visual, prompts, targets)

    state.backbone.loss = checked


def attempt(
    room: int, micro_batch: int | None = None, items: Sequence[Item] | None = None
) -> TrainingState:
    backbone = LORA.build()
    state = start(backbone, LORA.protocol, 1)
    limited(state, room)
    feed = Feed(items or LORA.items(), visual(backbone), LORA.protocol, ANSWERS)
    work = partial(train_in_memory, state, [feed], 0, micro_batch, lambda _: None, ALONE)
    before = {name: each.clone() for name, each in trained_tensors(backbone).items()}
    if room < (micro_batch or 8):
        with pytest.raises(OutOfMemory) as caught:
            work()
        state.message = describe_failure(caught.value).message
        assert describe_failure(caught.value).cause == "out of memory"
        after = trained_tensors(backbone)
        assert all(torch.equal(before[name], each) for name, each in after.items())
    else:
        work()
    return state


@pytest.mark.parametrize(
    ("room", "micro_batch", "advice"),
    [
        (5, None, "8 at once ran out of memory; `--micro-batch 4` fits"),
        (2, None, "8 at once ran out of memory; `--micro-batch 2` fits"),
        (1, 6, "6 at once ran out of memory; `--micro-batch 1` fits"),
        (0, None, "8 at once ran out of memory; one example needs more memory, too"),
        (0, 1, "1 at once ran out of memory; one example needs more memory, too"),
    ],
)
def test_the_batch_that_fits_is_named(room: int, micro_batch: int | None, advice: str) -> None:
    message = attempt(room, micro_batch).message
    assert message == f"training: {advice} (CUDA out of memory)"
    fits = advice.partition("--micro-batch ")[2].partition("`")[0]
    if fits:
        assert attempt(room, int(fits)).step == 3


def test_a_question_without_answers_does_not_hide_the_advice() -> None:
    items = [*LORA.items()[:7], Item(("7",), "what is this?", {})]
    assert "`--micro-batch 4` fits" in attempt(5, items=items).message


def test_other_errors_pass() -> None:
    state = start(LORA.build(), LORA.protocol, 1)
    state.backbone.loss = None
    feed = Feed(LORA.items(), visual(state.backbone), LORA.protocol, ANSWERS)
    with pytest.raises(TypeError):
        train_in_memory(state, [feed], 0, None, lambda _: None, ALONE)
