"""Cross-attention in the bottleneck, against the array of the release and its equations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tests.conftest import Case
from vlpeft.baselines.cross_attention_lora import CrossAttentionLinear, CrossAttentionLoRA
from vlpeft.benchmark.contract.sites import VisualContext
from vlpeft.benchmark.core.errors import UserError

REFERENCE = Path(__file__).parent / "reference" / "cross_attention_lora_gpt2.npz"
TOKENS = {"context": "tokens"}


@pytest.fixture
def arrays() -> dict[str, Tensor]:
    with np.load(REFERENCE) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture
def layer(arrays: dict[str, Tensor]) -> CrossAttentionLinear:
    """GPT-2's fused map with a zero weight, so that the output is the update alone."""
    width = arrays["hidden"].shape[-1]
    base = Conv1D(3 * width, width).double().requires_grad_(False)
    base.weight.zero_()
    base.bias.zero_()
    context = VisualContext()
    context.value = arrays["visual"].clone().requires_grad_(True)
    method = CrossAttentionLoRA(
        rank=int(arrays["meta.rank"]), alpha=float(arrays["meta.alpha"]),
        heads=int(arrays["meta.heads"]),
    )  # fmt: skip
    spans = [(0, width), (2 * width, 3 * width)]
    made = CrossAttentionLinear(base, spans, method, width, context).double()
    for name in ("text", "image", "query", "key", "value", "out", "up"):
        getattr(made, name).data = arrays[f"param.{name}"].clone()
    made.lora_b.data = arrays["param.B"].clone()
    return made


def test_outputs_and_gradients_equal_the_release(
    arrays: dict[str, Tensor], layer: CrossAttentionLinear
) -> None:
    hidden = arrays["hidden"].clone().requires_grad_(True)
    output = layer(hidden)
    torch.testing.assert_close(output, arrays["output"], rtol=0, atol=1e-10)
    (output * arrays["loss_weight"]).sum().backward()
    found = {name: getattr(layer, name).grad for name in
             ("text", "image", "query", "key", "value", "out", "up")}  # fmt: skip
    found |= {"B": layer.lora_b.grad, "hidden": hidden.grad, "visual": layer.context.value.grad}
    for name, made in found.items():
        expected = arrays.get(f"grad.{name}", arrays.get(f"grad_{name}"))
        torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-9)


def test_one_visual_token_teaches_three_maps_nothing(
    arrays: dict[str, Tensor], layer: CrossAttentionLinear
) -> None:
    """The softmax over one token is 1; this is why several are needed."""
    layer.context.value = arrays["visual"][:, :1]
    layer(arrays["hidden"]).sum().backward()
    assert not layer.query.grad.any()
    assert not layer.key.grad.any()
    assert not layer.text.grad.any()
    assert layer.value.grad.any()


@pytest.mark.parametrize("backbone", ["vit_roberta", "vit_gpt2", "blip", "clip_bart"])
def test_a_pooled_context_is_skipped(backbone: str) -> None:
    from vlpeft.benchmark.plan.compatibility import reason_to_skip

    reason = reason_to_skip(Case("cross_attention_lora", backbone).cell())
    assert "needs visual_tokens, which" in reason
    assert not reason_to_skip(Case("cross_attention_lora", backbone, {}, TOKENS).cell())


@pytest.mark.parametrize("settings", [{"rank": 2}, {"rank": 8, "heads": 3}])
def test_heads_must_divide_the_width(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match="heads cannot share"):
        Case("cross_attention_lora", "vit_roberta", settings, TOKENS).build()


def test_the_count_of_the_spec() -> None:
    """Rank 128 on query and value of GPT-2's fused map, width 768: 327,680 a layer."""
    method = CrossAttentionLoRA(rank=128)
    context = VisualContext()
    with torch.device("meta"):
        base = Conv1D(3 * 768, 768).requires_grad_(False)
        made = CrossAttentionLinear(base, [(0, 768), (1536, 2304)], method, 768, context)
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == 327_680
