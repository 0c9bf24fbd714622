"""Every method on every backbone trains on the GPU as on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.conftest import Case
from tests.gpu.conftest import DEVICE, fresh_state, run
from vlpeft.benchmark.run.checkpoint import load_checkpoint, save_checkpoint, trained_tensors
from vlpeft.benchmark.run.compile import compile_layers
from vlpeft.benchmark.run.fetch_ahead import fetch_depth, pin

pytestmark = pytest.mark.gpu
SOME = [
    Case("lora", "vit_roberta"),
    Case("routing_lora", "vit_gpt2", {"function": "mul_expand"}),
    Case("routing_adapter", "clip_bart", {"function": "project"}),
    Case("p_adapter", "blip"),
    Case("full_finetuning", "vit_roberta", {"vision": True}),
]


def test_the_first_losses_are_those_of_the_cpu(case: Case, card: torch.device) -> None:
    """Also: all parameters, buffers and moments of the optimizer are on the GPU."""
    here, there = fresh_state(case, card), fresh_state(case, torch.device("cpu"))
    found, expected = run(here, case), run(there, case)
    assert found == pytest.approx(expected, rel=1e-4)
    model = here.backbone
    everything = [*model.parameters(), *model.buffers()]
    everything += [
        each
        for moments in here.optimizer.state.values()
        for name, each in moments.items()
        if name != "step"
    ]
    assert {each.device.type for each in everything} == {card.type}


@pytest.mark.parametrize("case", SOME, ids=str)
def test_bfloat16_losses_are_near_those_of_float32(case: Case) -> None:
    half = _Half(case.method, case.backbone, case.settings)
    expected, found = run(fresh_state(case, DEVICE), case), run(fresh_state(half, DEVICE), half)
    assert found == pytest.approx(expected, rel=2e-2)
    assert found != expected, "autocast has changed nothing"


class _Half(Case):
    """A case whose recipe computes in bfloat16."""

    @property
    def protocol(self):
        return replace(super().protocol, precision="bf16")


@pytest.mark.parametrize("exact", [True, False], ids=["deterministic", "as in a run"])
@pytest.mark.parametrize("case", SOME, ids=str)
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(
    case: Case, exact: bool, tmp_path
) -> None:
    """With deterministic kernels to the bit, with dropout; else up to rounding."""
    torch.use_deterministic_algorithms(exact)
    whole = fresh_state(case, DEVICE, dropout=True, total=6)
    run(whole, case)
    begun = fresh_state(case, DEVICE, dropout=True, total=3)
    run(begun, case)
    save_checkpoint(tmp_path / "checkpoint.pt", begun, {})
    resumed = fresh_state(case, DEVICE, dropout=True, total=6)
    load_checkpoint(tmp_path / "checkpoint.pt", resumed, {})
    assert resumed.step == 3
    run(resumed, case)
    expected, found = trained_tensors(whole.backbone), trained_tensors(resumed.backbone)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        if exact:
            assert torch.equal(tensor, expected[name]), name
        else:
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", SOME, ids=str)
def test_micro_batches_give_the_same_step(case: Case) -> None:
    whole, cut = (run(fresh_state(case, DEVICE), case, size) for size in (None, 3))
    assert cut == pytest.approx(whole, rel=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("case", SOME, ids=str)
def test_compiled_layers_give_the_same_losses(case: Case) -> None:
    """On a GPU by Triton. On a CPU no compiler is needed: torch runs the graphs itself."""
    expected = run(fresh_state(case, DEVICE), case)
    state = fresh_state(case, DEVICE)
    compile_layers(state.backbone, "inductor" if DEVICE.type == "cuda" else "aot_eager")
    assert run(state, case) == pytest.approx(expected, rel=1e-4)


def test_fetched_images_are_pinned(card: torch.device) -> None:
    assert pin(torch.ones(2), card).is_pinned()
    assert fetch_depth(card) > 0
