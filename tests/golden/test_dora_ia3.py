"""DoRA and (IA)3 against the authors' modules and against Hugging Face peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from tests.conftest import Case
from tests.golden.test_clip_bart_counts import adapted
from vlpeft.baselines.dora import DoRALinear
from vlpeft.baselines.ia3 import ScaledInputs, ScaledOutputs
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.linear import Mergeable
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
REFERENCE = Path(__file__).parent / "reference"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def arrays(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(np.asarray(value)) for key, value in
            np.load(REFERENCE / f"{name}.npz").items()}  # fmt: skip


def frozen(found: dict[str, Tensor]) -> nn.Linear:
    outputs, inputs = found["weight"].shape
    base = nn.Linear(inputs, outputs, dtype=torch.float64)
    base.weight.data.copy_(found["weight"])
    base.bias.data.copy_(found.get("bias", found.get("param.bias")))
    return base


def check_gradient(made: Tensor | None, expected: Tensor) -> None:
    assert made is not None
    assert (made - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("gradient", ["full", "detached"])
def test_dora_equals_the_authors_module(gradient: str) -> None:
    found = arrays(f"dora_{gradient}")
    rank, scale = int(found["meta.rank"]), float(found["meta.scale"])
    outputs = len(found["weight"])
    made = DoRALinear(
        frozen(found), [(0, outputs)], rank, scale * rank, 0.0, gradient == "detached"
    )
    made.lora_a.data = found["param.A"].clone()
    made.lora_b.data = found["param.B"].clone()
    made.magnitude.data = found["param.magnitude"].reshape(-1).clone()
    x = found["x"].clone().requires_grad_(True)
    output = made(x)
    torch.testing.assert_close(output, found["output"], rtol=0, atol=1e-10)
    (output * found["loss_weight"]).sum().backward()
    check_gradient(x.grad, found["grad_x"])
    check_gradient(made.lora_a.grad, found["grad.A"])
    check_gradient(made.lora_b.grad, found["grad.B"])
    check_gradient(made.magnitude.grad, found["grad.magnitude"].reshape(-1))
    torch.testing.assert_close(made.merge()(x), found["output"], rtol=0, atol=1e-10)


def test_dora_starts_as_the_frozen_map_and_refuses_factors() -> None:
    base = nn.Linear(6, 5)
    made = DoRALinear(base, [(0, 2), (3, 5)], 2, 4.0, 0.0, True)
    x = torch.randn(3, 6)
    torch.testing.assert_close(made(x), base(x))
    with pytest.raises(UserError, match="no pair of small matrices"):
        made.low_rank()


def test_the_two_gradients_of_dora_differ() -> None:
    grads = []
    for detached in (True, False):
        torch.manual_seed(0)
        made = DoRALinear(nn.Linear(6, 5), [(0, 5)], 2, 4.0, 0.0, detached)
        nn.init.normal_(made.lora_b)
        made(torch.ones(1, 6)).square().sum().backward()
        assert made.lora_b.grad is not None
        grads.append(made.lora_b.grad)
    assert not torch.allclose(grads[0], grads[1], rtol=1e-3)


@pytest.mark.parametrize(
    ("place", "make"),
    [
        ("attention", lambda base, n: ScaledOutputs(base, [(0, n)])),
        ("feedforward", lambda base, n: ScaledInputs(base)),
    ],
)
def test_ia3_equals_the_module_of_peft(place: str, make: Any) -> None:
    found = arrays("ia3_linear")
    made = make(frozen(found), len(found["weight"]))
    made.factors.data = found[f"param.{place}"].reshape(-1).clone()
    x = found["x"].clone().requires_grad_(True)
    output = made(x)
    torch.testing.assert_close(output, found[f"{place}.output"], rtol=0, atol=1e-10)
    (output * found["loss_weight"]).sum().backward()
    check_gradient(x.grad, found[f"{place}.grad_x"])
    torch.testing.assert_close(made.merge()(x), output, rtol=0, atol=1e-10)


ROBERTA = r".*encoder\.layer\.\d+\."
WHOLE = [  # backbone, targets of DoRA in peft, targets of (IA)3, those of its feed-forwards
    ("vit_roberta", rf"{ROBERTA}.*self\.(query|value)",
     rf"{ROBERTA}(attention\.self\.(key|value)|output\.dense)", rf"{ROBERTA}output\.dense"),
    ("clip_bart", r".*(q_proj|v_proj)", r".*(k_proj|v_proj|fc2)", r".*fc2"),
]  # fmt: skip


@pytest.mark.parametrize(("backbone", "dora", "ia3", "down"), WHOLE)
@pytest.mark.parametrize("method", ["dora", "ia3"])
def test_losses_and_gradients_equal_peft(
    backbone: str, dora: str, ia3: str, down: str, method: str
) -> None:
    settings = {"rank": 4, "alpha": 10.0} if method == "dora" else {}
    case = Case(method, backbone, settings)
    mine, theirs = case.build(), Case("full_finetuning", backbone).build()
    if method == "dora":
        config: Any = LoraConfig(r=4, lora_alpha=10.0, target_modules=dora, use_dora=True)
    else:
        config = IA3Config(target_modules=ia3, feedforward_modules=down)
    inject_adapter_in_model(config, theirs.text)
    generator = torch.Generator().manual_seed(1)
    pairs = list(_pairs(mine.text, theirs.text, method))
    assert pairs
    with torch.no_grad():
        for own, other in pairs:
            own.add_(torch.randn(own.shape, generator=generator) * 0.1)
            other.copy_(own.view(other.shape))
    losses = [case.loss(each.eval(), case.items()).sum() for each in (mine, theirs)]
    torch.testing.assert_close(*losses, **CLOSE)
    for loss in losses:
        loss.backward()
    for own, other in pairs:
        torch.testing.assert_close(own.grad, other.grad.view(own.shape), rtol=1e-4, atol=1e-5)


def _pairs(mine: nn.Module, theirs: nn.Module, method: str):
    """Yield our parameters next to peft's of the same map."""
    wrapped = {
        name: module
        for name, module in mine.named_modules()
        if isinstance(module, (DoRALinear, ScaledOutputs, ScaledInputs))
    }
    for name, module in wrapped.items():
        other = theirs.get_submodule(name)
        if method == "dora":
            yield module.lora_a, other.lora_A["default"].weight
            yield module.lora_b, other.lora_B["default"].weight
            yield module.magnitude, other.lora_magnitude_vector["default"].weight
        else:
            yield module.factors, other.ia3_l["default"]


@pytest.mark.parametrize("method", ["dora", "ia3"])
@pytest.mark.parametrize("backbone", ["vit_roberta", "vit_gpt2", "blip", "clip_bart"])
def test_merged_maps_compute_the_same(method: str, backbone: str) -> None:
    case = Case(method, backbone)
    made = case.build().eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.text.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        before = case.losses(made)
        for name, module in list(made.named_modules()):
            if isinstance(module, Mergeable):
                owner, _, attribute = name.rpartition(".")
                setattr(made.get_submodule(owner), attribute, module.merge())
        assert not [m for m in made.modules() if isinstance(m, Mergeable)]
        torch.testing.assert_close(case.losses(made), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        # The spec's counts for BART-base: 18 attentions, 12 feed-forwards; LoRA and magnitudes.
        ("ia3", {}, 18 * 2 * 768 + 12 * 3072),
        ("dora", {"rank": 128}, 7_077_888 + 27_648),
    ],
)
def test_counts_of_bart(method: str, settings: dict[str, Any], expected: int) -> None:
    made = parse(METHODS.load(method), settings, method)
    assert made.trainable(adapted("head_only", {})) == expected
