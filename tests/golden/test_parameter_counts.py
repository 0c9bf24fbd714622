"""Published and hand-computed parameter counts at full size, on the meta device.

No weight is read. The expected numbers follow from the shapes of the routing-functions release.
Percentages are of the language tower with the parameters of the method.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import apply
from vlpeft.benchmark.contract.sites import count
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.protocol import Protocol

ANSWERS = [str(i) for i in range(3129)]
VIT = {"base": "google/vit-base-patch16-224-in21k", "large": "google/vit-large-patch16-224-in21k"}
SIZE = {"gpt2": "base", "roberta-base": "base", "gpt2-medium": "large", "roberta-large": "large"}
LORA = {"rank": 128, "alpha": 128.0, "also_train": ["norms", "target_biases"]}
GPT2_ADAPTER = {
    "size": 128,
    "activation": "gelu_new",
    "share_in_block": True,
    "also_train": ["norms"],
}
ROBERTA_ADAPTER = {"size": 64, "residual": False, "also_train": ["norms"]}
ROWS = [  # text tower, method, settings, trained, percent of the language tower
    ("gpt2", "lora", LORA, 4_783_104, 3.703),
    ("gpt2", "adapter", GPT2_ADAPTER, 2_406_912, 1.898),
    ("gpt2-medium", "lora", LORA, 12_754_944, 3.472),
    ("gpt2-medium", "adapter", GPT2_ADAPTER, 6_417_408, 1.777),
    ("roberta-base", "lora", LORA, 4_773_888, 3.690),
    ("roberta-base", "adapter", ROBERTA_ADAPTER, 2_416_128, 1.902),
    ("roberta-large", "lora", LORA, 12_730_368, 3.460),
    ("roberta-large", "adapter", ROBERTA_ADAPTER, 6_441_984, 1.781),
]
ADDED = [  # the same without biases and norms
    ("gpt2", "lora", 128, 4_718_592),
    ("gpt2-medium", "lora", 128, 12_582_912),
    ("roberta-base", "lora", 128, 4_718_592),
    ("roberta-large", "lora", 128, 12_582_912),
]


def model(text: str, **settings: Any) -> Backbone:
    name = "vit_gpt2" if text.startswith("gpt2") else "vit_roberta"
    config = parse(
        BACKBONES.load(name), {"text": text, "vision": VIT[SIZE[text]], **settings}, name
    )
    with torch.device("meta"):
        return config.build(ANSWERS, Protocol(lr=1e-3, steps=1))


def adapted(text: str, method: str, settings: dict[str, Any]) -> Backbone:
    backbone = model(text)
    with torch.device("meta"):
        apply(parse(METHODS.load(method), settings, method), backbone)
    return backbone


def trains(backbone: Backbone) -> int:
    """Return the trainable parameters of the language tower."""
    return count(p for p in backbone.text.parameters() if p.requires_grad)


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize(("text", "method", "settings", "expected", "percent"), ROWS)
def test_trainable_counts_of_the_release(
    text: str, method: str, settings: dict[str, Any], expected: int, percent: float, routed: bool
) -> None:
    name = f"routing_{method}" if routed else method
    declared = parse(METHODS.load(name), settings, name).trainable(model(text))
    backbone = adapted(text, name, settings)
    assert (declared, trains(backbone)) == (expected, expected)
    assert not any(p.requires_grad for p in backbone.vision.parameters())
    assert 100 * expected / count(backbone.text.parameters()) == pytest.approx(percent, abs=5e-4)


@pytest.mark.parametrize(("text", "method", "rank", "expected"), ADDED)
def test_lora_counts(text: str, method: str, rank: int, expected: int) -> None:
    assert trains(adapted(text, method, {"rank": rank})) == expected


@pytest.mark.parametrize(
    ("text", "settings", "added", "norms"),
    [
        ("gpt2", GPT2_ADAPTER, 2_370_048, 36_864),
        ("gpt2-medium", GPT2_ADAPTER, 6_319_104, 98_304),
        ("roberta-base", ROBERTA_ADAPTER, 2_379_264, 36_864),
        ("roberta-large", ROBERTA_ADAPTER, 6_343_680, 98_304),
    ],
)
def test_adapter_counts(text: str, settings: dict[str, Any], added: int, norms: int) -> None:
    assert trains(adapted(text, "adapter", {**settings, "also_train": []})) == added
    assert trains(adapted(text, "adapter", settings)) - added == norms


@pytest.mark.parametrize(
    ("text", "biases"),
    [
        ("gpt2", 27_648),
        ("gpt2-medium", 73_728),
        ("roberta-base", 18_432),
        ("roberta-large", 49_152),
    ],
)
def test_the_biases_of_the_targets(text: str, biases: int) -> None:
    """A fused projection has one bias, which trains as a whole."""
    with_biases = trains(adapted(text, "lora", {"rank": 128, "also_train": ["target_biases"]}))
    assert with_biases - trains(adapted(text, "lora", {"rank": 128})) == biases


@pytest.mark.parametrize(
    ("text", "layers", "expected"),
    [
        ("roberta-base", 1, 2_406_201),
        ("roberta-large", 1, 3_207_225),
        ("roberta-base", 2, 5_993_529),
        ("roberta-large", 2, 8_514_617),
    ],
)
def test_answer_heads(text: str, layers: int, expected: int) -> None:
    assert count(model(text, head_layers=layers).head_parameters()) == expected


def test_lora_with_its_head() -> None:
    backbone = adapted("roberta-base", "lora", LORA)
    trainable = count(p for p in backbone.parameters() if p.requires_grad)
    assert trainable == 10_767_417
    whole = count(backbone.text.parameters()) + count(backbone.head_parameters())
    assert 100 * trainable / whole == pytest.approx(7.955, abs=5e-4)


@pytest.mark.parametrize(
    ("text", "language", "vision"),
    [
        ("gpt2", 124_439_808, 86_389_248),
        ("gpt2-medium", 354_823_168, 304_351_232),
        ("roberta-base", 124_645_632, 86_389_248),
        ("roberta-large", 355_359_744, 304_351_232),
    ],
)
def test_whole_towers(text: str, language: int, vision: int) -> None:
    backbone = model(text)
    assert count(backbone.text.parameters()) == language
    assert count(backbone.vision.parameters()) == vision
    assert parse(METHODS.load("full_finetuning"), {}, "full").trainable(backbone) == language
    assert (
        parse(METHODS.load("full_finetuning"), {"vision": True}, "full").trainable(backbone)
        == language + vision
    )


@pytest.mark.parametrize("text", ["gpt2", "gpt2-medium", "roberta-base"])
def test_bitfit(text: str) -> None:
    """Each layer has 3d + d (attention), 4d + d (feed-forward) and 2d (norms), in total 11 d.

    One more norm is outside, and RoBERTa has a pooler.
    """
    width, layers = (1024, 24) if text == "gpt2-medium" else (768, 12)
    formula = 11 * width * layers + width + (width if text.startswith("roberta") else 0)
    assert trains(adapted(text, "bitfit", {})) == formula


def test_soft_prompts() -> None:
    backbone = adapted("gpt2", "prompt_tuning", {"length": 20})
    assert count(p for p in backbone.parameters() if p.requires_grad) == 20 * 768


def blip(**settings: Any) -> Backbone:
    with torch.device("meta"):
        return parse(BACKBONES.load("blip"), settings, "blip").build(
            ANSWERS, Protocol(lr=1e-3, steps=1)
        )


def test_blip() -> None:
    """BLIP with ViT-B/16 at 224 px as in the p-Adapter paper, from a checkpoint of 384 px."""
    backbone = blip()
    assert (count(backbone.vision.parameters()), count(backbone.text.parameters())) == (
        85_798_656,
        137_881_148,
    )
    assert count(backbone.parameters()) == 223_679_804
    assert [site.name for site in backbone.sites][:4] == [
        "layer.0.self",
        "layer.0.cross",
        "layer.0.ffn",
        "layer.1.self",
    ]
    assert len(backbone.sites) == 36


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("adapter", {"size": 96}, 5_339_520),
        ("lora", {"rank": 8, "targets": ["query", "key"]}, 589_824),
        ("prompt_tuning", {"length": 16}, 12_288),
    ],
)
def test_counts_of_methods_on_blip(method: str, settings: dict[str, Any], expected: int) -> None:
    """36 adapters of 96 with biases; LoRA of rank 8 on query and key of 24 attentions."""
    assert parse(METHODS.load(method), settings, method).trainable(blip()) == expected


def test_blips_own_form_for_questions() -> None:
    """A text encoder of 12 layers without a head: the size of the decoder minus its head."""
    backbone = blip(weights="Salesforce/blip-vqa-base", form="vqa")
    head = 768 * 768 + 768 + 2 * 768 + 30_524
    assert count(backbone.text.parameters()) == 2 * 137_881_148 - head
    assert len(backbone.sites) == 72
