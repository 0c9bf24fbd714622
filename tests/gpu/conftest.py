"""The device of these tests, and models and images on it.

`VLPEFT_TEST_DEVICE=cpu` runs on a CPU what does not need the card itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from tests.conftest import ANSWERS, Case
from tests.end_to_end.conftest import main
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.plan.verify.models import without_dropout
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.features import VisualSteps
from vlpeft.benchmark.run.loop import TrainingState, start, train

__all__ = ["main"]
DEVICE = torch.device(os.environ.get("VLPEFT_TEST_DEVICE", "cuda"))


@pytest.fixture(autouse=True)
def _on_a_gpu(_torch_as_in_a_run: None) -> Iterator[None]:
    """Skip without the device, and set torch up as a run on it does."""
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU, and none is visible here")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(DEVICE.type == "cpu")
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def card() -> torch.device:
    """Return the GPU; skip a test of the card itself on a CPU."""
    if DEVICE.type != "cuda":
        pytest.skip("tests the card itself")
    return DEVICE


def random_features(backbone: Backbone) -> VisualSteps:
    """Return the visual features of random images, computed on the model's device."""
    tower = backbone.vision

    def draw(name: str) -> Tensor:
        generator = torch.Generator().manual_seed(int(name))
        return torch.randn(3, tower.size, tower.size, generator=generator)

    def fetch(ids: Sequence[str], _seeds: Sequence[str]) -> Tensor:
        return torch.stack([draw(name) for name in ids])

    return VisualSteps(fetch, lambda pixels: tower(pixels.to(backbone.device)))


def fresh_state(
    case: Case, device: torch.device, *, dropout: bool = False, total: int = 3
) -> TrainingState:
    """Return the state before training a fresh model on a device."""
    backbone = case.build().to(device)
    if not dropout:
        without_dropout(backbone)
    state = start(backbone, case.protocol, 1)
    state.total = total
    torch.manual_seed(0)
    return state


def run(state: TrainingState, case: Case, micro_batch: int | None = None) -> list[float]:
    """Train to the end, and return the losses of the curve."""
    feed = Feed(case.items(), random_features(state.backbone), case.protocol, ANSWERS)
    train(state, [feed], 0, micro_batch, lambda _: None)
    return [loss for _, loss in state.curve]
