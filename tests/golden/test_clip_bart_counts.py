"""Published parameter counts of CLIP-BART at full size, on the meta device: no weight is read.

The numbers are those of the VL-Adapter and VL-PET benchmarks. CLIP never counts and the visual
embedding always trains. Percentages are of all parameters, those of the method included.
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

VISUAL_EMBEDDING, BART, ROWS = 1_582_848, 139_420_416, 153_600
TASKS = 4  # VQA, GQA, NLVR2, captions
LORA = {
    "rank": 128,
    "alpha": 32,
    "targets": ["query", "value"],
    "dropout": 0.1,
    "also_train": ["biases"],
}
ADAPTER = {"size": 96, "activation": "gelu_new", "also_train": ["all_norms"]}
PROMPT = {"length": 40, "mlp": 800}
HYPERFORMER = {"size": 96, "also_train": ["all_norms"]}
PUBLISHED = [  # method, settings, trained, all, percent
    ("full_finetuning", {}, 141_156_864, 141_156_864, 100.0),
    ("bitfit", {}, 1_708_800, 141_156_864, 1.211),
    ("head_only", {}, VISUAL_EMBEDDING, 141_156_864, 1.121),
    ("prompt_tuning", PROMPT, 2_843_936, 142_417_952, 1.997),
    ("prompt_tuning", PROMPT | {"per_task": True}, 6_627_200, 146_201_216, 4.533),
    ("adapter", ADAPTER, 6_081_600, 145_606_464, 4.177),
    (
        "adapter",
        ADAPTER | {"per_task": "down"},
        12_725_760,
        152_250_624,
        8.358,
    ),  # half-shared: all tasks share the up-projection
    ("adapter", ADAPTER | {"per_task": "up"}, 12_786_240, 152_311_104, 8.395),
    ("adapter", ADAPTER | {"per_task": "all"}, 19_430_400, 158_955_264, 12.224),
    ("lora", LORA, 8_786_688, 148_234_752, 5.928),
    ("lora", LORA | {"per_task": True}, 30_020_352, 169_468_416, 17.714),
    ("compacter", ADAPTER, 3_870_240, 143_395_104, 2.699),
    ("compacter", ADAPTER | {"per_task": "all"}, 10_584_960, 150_109_824, 7.051),
    ("hyperformer", HYPERFORMER, 8_579_088, 148_103_952, 5.793),
    ("vl_pet", {"size": 96, "gate": "small"}, 4_291_020, 143_845_068, 2.983),
    ("vl_pet", {"size": 96, "gate": "middleX"}, 4_281_804, 143_835_852, 2.977),
    ("vl_pet", {"size": 96, "gate": "middleY"}, 4_281_792, 143_835_840, 2.977),
    ("vl_pet", {"size": 96, "gate": "large"}, 6_052_416, 145_606_464, 4.157),
    # Table 9 of VL-PET: 18 modules of VL-Adapter or Compacter, 12 gates, 13 LayerNorms of the
    # encoder.
    ("vl_pet", {"size": 96, "gate": "small", "modules": "adapter"}, 4_291_020, 143_845_068, 2.983),
    (
        "vl_pet",
        {"size": 96, "gate": "middleX", "modules": "adapter"},
        4_281_804,
        143_835_852,
        2.977,
    ),
    (
        "vl_pet",
        {"size": 96, "gate": "middleY", "modules": "adapter"},
        4_281_792,
        143_835_840,
        2.977,
    ),
    ("vl_pet", {"size": 96, "gate": "large", "modules": "adapter"}, 6_052_416, 145_606_464, 4.157),
    (
        "vl_pet",
        {"size": 96, "gate": "small", "modules": "compacter"},
        2_964_204,
        142_518_252,
        2.080,
    ),
    (
        "vl_pet",
        {"size": 96, "gate": "middleX", "modules": "compacter"},
        2_954_988,
        142_509_036,
        2.0735,
    ),
    (
        "vl_pet",
        {"size": 96, "gate": "middleY", "modules": "compacter"},
        2_954_976,
        142_509_024,
        2.0735,
    ),
    (
        "vl_pet",
        {"size": 96, "gate": "large", "modules": "compacter"},
        4_725_600,
        144_279_648,
        3.275,
    ),
]


def adapted(method: str, settings: dict[str, Any], **model: Any) -> Backbone:
    config = parse(BACKBONES.load("clip_bart"), model, "clip_bart")
    with torch.device("meta"):
        backbone = config.build([], Protocol(lr=1e-3, steps=1))
        backbone.active_task.count = TASKS
        apply(parse(METHODS.load(method), settings, method), backbone)
    return backbone


@pytest.mark.parametrize(("method", "settings", "trained", "everything", "percent"), PUBLISHED)
def test_trainable_counts_of_the_papers(
    method: str, settings: dict[str, Any], trained: int, everything: int, percent: float
) -> None:
    backbone = adapted(method, settings)
    found = count(p for p in backbone.parameters() if p.requires_grad)
    whole = count(p for name, p in backbone.named_parameters() if not name.startswith("vision."))
    assert (found, whole) == (trained, everything)
    assert 100 * found / whole == pytest.approx(percent, abs=5e-4)
    declared = parse(METHODS.load(method), settings, method).trainable(adapted("head_only", {}))
    assert declared + VISUAL_EMBEDDING == trained


def test_the_parts() -> None:
    backbone = adapted("head_only", {})
    assert count(backbone.text.parameters()) == BART + ROWS
    assert count(adapted("head_only", {}, extra_tokens=36).text.parameters()) == BART + 36 * 768
    assert sorted(p.numel() for p in backbone.head_parameters()) == sorted(
        [2048 * 768, 768, 768, 768, 5 * 768, 768, 768, 768, 2 * 768]
    )
    assert count(backbone.head_parameters()) == VISUAL_EMBEDDING


def test_the_vision_tower_is_rn101_without_its_pooling() -> None:
    tower = adapted("head_only", {}).vision
    assert (tower.width, tower.size, tower.leading) == (2048, 224, 1)
    # ResNet-101: 3 + 4 + 23 + 3 blocks and three convolutions in the stem, without attention
    # pooling and projection.
    convolutions = [m for m in tower.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 3 + 3 * 33 + 4
    assert not any(isinstance(m, torch.nn.Linear) for m in tower.modules())


@pytest.mark.parametrize(("per_layer", "side"), [(2, "encoder"), (3, "decoder")])
def test_sites(per_layer: int, side: str) -> None:
    sites = [s for s in adapted("head_only", {}).sites if s.side == side]
    assert len(sites) == 6 * per_layer
    assert sum(s.norm.weight.numel() + s.norm.bias.numel() for s in sites) == len(sites) * 1_536


def test_the_adapters_of_the_papers() -> None:
    """Thirty adapters of 148,320 parameters each; the papers also train all LayerNorms."""
    backbone = adapted("adapter", {"size": 96, "activation": "gelu_new"})
    assert (
        count(p for p in backbone.parameters() if p.requires_grad)
        == VISUAL_EMBEDDING + 30 * 148_320
    )
