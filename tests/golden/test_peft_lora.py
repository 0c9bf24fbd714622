"""LoRA against Hugging Face peft on tiny backbones, and against its formula if peft differs."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tests.conftest import Case
from vlpeft.baselines.lora import LoRALinear
from vlpeft.benchmark.contract.backbone import Backbone

# peft reads a property that the installed transformers has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
RANK, ALPHA = 4, 10.0
ALL = ("query", "key", "value", "output", "up", "down")
ROBERTA_ALL = (
    r".*encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|attention\.output\.dense"
    r"|intermediate\.dense|output\.dense)"
)
GRID = [  # backbone, our settings, the modules as peft names them, whether they store (in, out)
    ("vit_roberta", {"targets": ["query", "value"]}, r".*self\.(query|value)", False),
    ("vit_roberta", {"targets": ALL}, ROBERTA_ALL, False),
    (
        "vit_roberta",
        {"targets": ["output", "down"], "places": ["ffn", "self"], "sides": ["encoder"]},
        r".*layer\..*output\.dense",
        False,
    ),
    ("vit_gpt2", {"targets": ["output", "up", "down"]}, r".*\.(c_proj|c_fc)", True),
    ("vit_gpt2", {"targets": ["output"], "places": ["self"]}, r".*attn\.c_proj", True),
    (
        "blip",
        {"targets": ["query", "key"], "places": ["self", "cross"]},
        r".*attention\.self\.(query|key)",
        False,
    ),
    ("blip", {"targets": ALL}, r".*layer\..*(query|key|value|dense)", False),
    ("clip_bart", {"targets": ["query", "value"]}, r".*(q_proj|v_proj)", False),
    ("clip_bart", {"targets": ALL, "sides": ["decoder"]}, r".*decoder.*(_proj|fc1|fc2)", False),
]
LAYOUTS = pytest.mark.parametrize(("backbone", "settings", "pattern", "fan_in_fan_out"), GRID)


def case(backbone: str, settings: dict[str, object]) -> Case:
    return Case("lora", backbone, {"rank": RANK, "alpha": ALPHA, **settings})


def ours(backbone: str, settings: dict[str, object]) -> Backbone:
    """Build a backbone with LoRA and random updates."""
    made = case(backbone, settings).build()
    torch.manual_seed(1)
    for layer in updates(made.text).values():
        nn.init.normal_(layer.lora_b, std=0.1)
    return made


def updates(tower: nn.Module) -> dict[str, LoRALinear]:
    return {
        name: module for name, module in tower.named_modules() if isinstance(module, LoRALinear)
    }


def theirs(backbone: str, pattern: str, fan_in_fan_out: bool, source: Backbone) -> Backbone:
    """Build the same backbone with peft's LoRA and the updates of `source`."""
    made = Case("full_finetuning", backbone).build()
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=pattern,
        lora_dropout=0.0,
        fan_in_fan_out=fan_in_fan_out,
    )
    inject_adapter_in_model(config, made.text)
    layers = peft_layers(made.text)
    assert layers.keys() == updates(source.text).keys()
    with torch.no_grad():
        for name, layer in updates(source.text).items():
            layers[name].lora_A["default"].weight.copy_(layer.lora_a)
            layers[name].lora_B["default"].weight.copy_(layer.lora_b)
    return made.eval()


def peft_layers(tower: nn.Module) -> dict[str, LoraLayer]:
    return {name: module for name, module in tower.named_modules() if isinstance(module, LoraLayer)}


@LAYOUTS
def test_outputs_and_merged_weights_equal_peft(
    backbone: str, settings: dict[str, object], pattern: str, fan_in_fan_out: bool
) -> None:
    mine = ours(backbone, settings)
    reference = theirs(backbone, pattern, fan_in_fan_out, mine)
    layers = peft_layers(reference.text)
    expected = case(backbone, settings).losses(reference)
    torch.testing.assert_close(case(backbone, settings).losses(mine), expected, **CLOSE)
    plain = case(backbone, settings).losses(Case("full_finetuning", backbone).build())
    assert not torch.allclose(expected, plain, rtol=1e-3), "the updates do nothing"
    trainable = sum(p.numel() for p in reference.text.parameters() if p.requires_grad)
    assert sum(p.numel() for p in mine.text.parameters() if p.requires_grad) == trainable
    for name, layer in updates(mine.text).items():
        x = torch.randn(2, 5, layer.lora_a.shape[1], generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            torch.testing.assert_close(layer(x), layers[name](x), **CLOSE)
            layers[name].merge()
        torch.testing.assert_close(
            merged_weight(layer), layers[name].get_base_layer().weight, **CLOSE
        )


@LAYOUTS
def test_gradients_equal_those_of_peft(
    backbone: str, settings: dict[str, object], pattern: str, fan_in_fan_out: bool
) -> None:
    mine = ours(backbone, settings)
    reference = theirs(backbone, pattern, fan_in_fan_out, mine)
    items = case(backbone, settings).items()
    for made in (mine, reference):
        (case(backbone, settings).loss(made, items) / 100).backward()
    layers = peft_layers(reference.text)
    for name, layer in updates(mine.text).items():
        torch.testing.assert_close(
            layer.lora_a.grad, layers[name].lora_A["default"].weight.grad, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            layer.lora_b.grad, layers[name].lora_B["default"].weight.grad, rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def merged_weight(layer: LoRALinear) -> Tensor:
    """Return the base weight in its own layout, with the update added."""
    delta = layer.delta_weight()
    return layer.base.weight + (delta.T if isinstance(layer.base, Conv1D) else delta)


@pytest.mark.parametrize(
    "roles", [("query",), ("key",), ("query", "value"), ("query", "key"), ("query", "key", "value")]
)
def test_a_fused_projection_equals_its_formula(roles: tuple[str, ...]) -> None:
    """peft gives q, k and v of GPT-2 one shared update.

    Here each target has its own, as in the LoRA paper.
    """
    layers = updates(ours("vit_gpt2", {"targets": roles}).text)
    assert [name.rsplit(".", 1)[1] for name in layers] == ["c_attn"] * 3
    x = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for layer in layers.values():
            expected = x @ layer.base.weight + layer.base.bias
            for i, role in enumerate(roles):
                columns = slice(
                    128 * ("query", "key", "value").index(role),
                    128 * ("query", "key", "value").index(role) + 128,
                )
                a, b = (
                    layer.lora_a[RANK * i : RANK * (i + 1)],
                    layer.lora_b[128 * i : 128 * (i + 1)],
                )
                expected[..., columns] += ALPHA / RANK * (x @ a.T) @ b.T
            torch.testing.assert_close(layer(x), expected, **CLOSE)
            torch.testing.assert_close(
                x @ merged_weight(layer) + layer.base.bias, expected, **CLOSE
            )


@pytest.mark.parametrize(
    ("backbone", "roles"),
    [("vit_gpt2", ("query", "value")), ("vit_roberta", ("query", "value", "up", "down"))],
)
def test_the_merged_tower_equals_the_unmerged(backbone: str, roles: tuple[str, ...]) -> None:
    made = ours(backbone, {"targets": roles})
    merged = copy.deepcopy(made)
    for name, layer in updates(merged.text).items():
        owner, _, attribute = name.rpartition(".")
        with torch.no_grad():
            layer.base.weight.copy_(merged_weight(layer))
        setattr(merged.text.get_submodule(owner), attribute, layer.base)
    assert not updates(merged)
    expected = case(backbone, {}).losses(made)
    torch.testing.assert_close(case(backbone, {}).losses(merged), expected, rtol=1e-5, atol=1e-5)


def test_each_target_has_an_update_of_its_own_size() -> None:
    """Two feed-forward modules of RoBERTa have the same attribute name."""
    layers = updates(ours("vit_roberta", {"targets": ["up", "down"]}).text)
    shapes = {
        name: (tuple(layer.lora_a.shape), tuple(layer.lora_b.shape))
        for name, layer in layers.items()
    }
    wide, narrow = ((RANK, 128), (512, RANK)), ((RANK, 512), (128, RANK))
    for i in range(3):
        assert shapes[f"encoder.layer.{i}.intermediate.dense"] == wide
        assert shapes[f"encoder.layer.{i}.output.dense"] == narrow
    assert len(shapes) == 6
