"""LoRA against Hugging Face peft on tiny towers, and against its formula where peft means something else."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from baselines.lora import LoRALinear
from tests.conftest import Case

# peft reads a property that the installed transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
RANK, ALPHA = 4, 10.0
# Our roles -> the names peft knows the modules by, and whether those store (in, out).
LAYOUTS = {
    "vit_roberta": [
        (("query", "value"), r".*self\.(query|value)", False),
        (("query", "key", "value", "output", "up", "down"), None, False),
    ],
    "vit_gpt2": [(("output", "up", "down"), r".*\.(c_proj|c_fc)", True)],
}
ROBERTA_ALL = r".*encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)"
GRID = [(backbone, roles, names or ROBERTA_ALL, fan) for backbone, rows in LAYOUTS.items() for roles, names, fan in rows]


def ours(backbone: str, roles: Sequence[str]) -> nn.Module:
    """A text tower with LoRA, its updates drawn at random."""
    tower = Case("lora", backbone, {"targets": list(roles), "rank": RANK, "alpha": ALPHA}).build().text
    torch.manual_seed(1)
    for layer in updates(tower).values():
        nn.init.normal_(layer.lora_b, std=0.1)
    return tower


def updates(tower: nn.Module) -> dict[str, LoRALinear]:
    return {name: module for name, module in tower.named_modules() if isinstance(module, LoRALinear)}


def theirs(backbone: str, pattern: str, fan_in_fan_out: bool, source: nn.Module) -> Any:
    """The same tower with peft's LoRA, holding the updates of `source`."""
    plain = Case("full_finetuning", backbone).build().text
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=pattern, lora_dropout=0.0, fan_in_fan_out=fan_in_fan_out)
    model = get_peft_model(plain, config).eval()
    layers = {name.removeprefix("base_model.model."): module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert layers.keys() == updates(source).keys()
    with torch.no_grad():
        for name, layer in updates(source).items():
            layers[name].lora_A["default"].weight.copy_(layer.lora_a)
            layers[name].lora_B["default"].weight.copy_(layer.lora_b)
    return model


def output(tower: Any) -> Tensor:
    embeds = torch.randn(3, 7, 128, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return tower(inputs_embeds=embeds, attention_mask=torch.ones(3, 7, dtype=torch.long))[0]


@pytest.mark.parametrize(("backbone", "roles", "pattern", "fan_in_fan_out"), GRID)
def test_outputs_and_merged_weights_equal_peft(backbone: str, roles: Sequence[str], pattern: str, fan_in_fan_out: bool) -> None:
    mine = ours(backbone, roles)
    reference = theirs(backbone, pattern, fan_in_fan_out, mine)
    expected = output(reference)
    torch.testing.assert_close(output(mine), expected, **CLOSE)
    assert not torch.allclose(expected, output(Case("full_finetuning", backbone).build().text), rtol=1e-2), "the updates do nothing"
    trainable = sum(p.numel() for p in reference.parameters() if p.requires_grad)
    assert sum(p.numel() for layer in updates(mine).values() for p in (layer.lora_a, layer.lora_b)) == trainable
    merged = dict(reference.merge_and_unload().named_modules())
    for name, layer in updates(mine).items():
        torch.testing.assert_close(merged_weight(layer), merged[name].weight, **CLOSE)


def test_the_gradients_equal_pefts() -> None:
    mine = ours("vit_roberta", ("query", "value"))
    reference = theirs("vit_roberta", LAYOUTS["vit_roberta"][0][1], False, mine)
    embeds = torch.randn(3, 7, 128, generator=torch.Generator().manual_seed(2))
    for tower in (mine, reference):
        tower(inputs_embeds=embeds)[0].square().mean().backward()
    layers = {name.removeprefix("base_model.model."): module for name, module in reference.named_modules() if hasattr(module, "lora_A")}
    for name, layer in updates(mine).items():
        torch.testing.assert_close(layer.lora_a.grad, layers[name].lora_A["default"].weight.grad, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(layer.lora_b.grad, layers[name].lora_B["default"].weight.grad, rtol=1e-4, atol=1e-7)


@torch.no_grad()
def merged_weight(layer: LoRALinear) -> Tensor:
    """The base weight, in its own layout, with the update added."""
    delta = layer.delta_weight()
    return layer.base.weight + (delta.T if isinstance(layer.base, Conv1D) else delta)


@pytest.mark.parametrize("roles", [("query",), ("key",), ("query", "value"), ("query", "key"), ("query", "key", "value")])
def test_a_fused_projection_equals_its_formula(roles: tuple[str, ...]) -> None:
    """peft gives q, k and v of GPT-2 one update of one rank; here each target has its own, as in the LoRA paper."""
    tower = ours("vit_gpt2", roles)
    layers = updates(tower)
    assert [name.rsplit(".", 1)[1] for name in layers] == ["c_attn"] * 3
    x = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for layer in layers.values():
            expected = x @ layer.base.weight + layer.base.bias
            for i, role in enumerate(roles):
                columns = slice(128 * ("query", "key", "value").index(role), 128 * ("query", "key", "value").index(role) + 128)
                a, b = layer.lora_a[RANK * i : RANK * (i + 1)], layer.lora_b[128 * i : 128 * (i + 1)]
                expected[..., columns] += ALPHA / RANK * (x @ a.T) @ b.T
            torch.testing.assert_close(layer(x), expected, **CLOSE)
            torch.testing.assert_close(x @ merged_weight(layer) + layer.base.bias, expected, **CLOSE)


@pytest.mark.parametrize(("backbone", "roles"), [("vit_gpt2", ("query", "value")), ("vit_roberta", ("query", "value", "up", "down"))])
def test_the_merged_tower_equals_the_unmerged(backbone: str, roles: tuple[str, ...]) -> None:
    tower = ours(backbone, roles)
    merged = copy.deepcopy(tower)
    for name, layer in updates(merged).items():
        owner, _, attribute = name.rpartition(".")
        with torch.no_grad():
            layer.base.weight.copy_(merged_weight(layer))
        setattr(merged.get_submodule(owner), attribute, layer.base)
    assert not updates(merged)
    torch.testing.assert_close(output(merged), output(tower), rtol=1e-4, atol=1e-5)


def test_each_target_has_an_update_of_its_own_size() -> None:
    """RoBERTa's feed-forward maps are two modules of one attribute name."""
    layers = updates(ours("vit_roberta", ("up", "down")))
    shapes = {name: (tuple(layer.lora_a.shape), tuple(layer.lora_b.shape)) for name, layer in layers.items()}
    wide, narrow = ((RANK, 128), (512, RANK)), ((RANK, 512), (128, RANK))
    for i in range(3):
        assert shapes[f"encoder.layer.{i}.intermediate.dense"] == wide
        assert shapes[f"encoder.layer.{i}.output.dense"] == narrow
    assert len(shapes) == 6
