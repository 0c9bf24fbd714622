"""Backbones: weight sources, image transform, the release and the repaired settings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors.torch import load_file
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from tests.uncached import write_without_cache
from vlpeft.baselines.head_only import HeadOnly
from vlpeft.benchmark.backbones import BACKBONES, weights
from vlpeft.benchmark.backbones.vision import transform, vision_tower
from vlpeft.benchmark.backbones.weights import WeightSource
from vlpeft.benchmark.contract.backbone import TINY, Backbone
from vlpeft.benchmark.contract.method import apply
from vlpeft.benchmark.contract.visual import VisualFeatures, single
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError, WeightsError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.methods.routing import RoutingLoRA

QUESTIONS = [
    "is there a red circle?",
    "what color is the large rectangle that is left of the small circle?",
]
CAPTIONS = ["a red circle", "a large blue rectangle above a small red circle"]


def protocol(beams: int, **changed: Any) -> Protocol:
    recipe = {"max_input_tokens": 24, "max_output_tokens": 12, "beams": beams, **changed}
    return Protocol(lr=1e-3, steps=1, **recipe)


def build(name: str, **settings: object) -> Backbone:
    torch.manual_seed(0)
    limit = settings.pop("max_output_tokens", 12)
    config = parse(BACKBONES.load(name), {"text": "tiny", "vision": "tiny", **settings}, "test")
    return config.build(
        ["yes", "no", "red"], protocol(settings.pop("beams", 1), max_output_tokens=limit)
    ).eval()


def features(count: int = 2, tokens: int = 1) -> torch.Tensor:
    return torch.randn(count, tokens, 128, generator=torch.Generator().manual_seed(1)).tanh()[
        :, None
    ]


def scenes(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("size", [64, 40, 97])
def test_the_transform_equals_hugging_faces_processor(size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size + 9, 3), dtype=np.uint8)
    processor = ViTImageProcessorPil(
        size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    want = processor(pixels, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(
        transform(pixels, vision_tower("tiny", "pooler", tokens=False)), want, atol=1e-6, rtol=0
    )


def test_a_local_folder_equals_the_model_it_was_saved_from(tmp_path: Path) -> None:
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
    }
    model = ViTModel(ViTConfig(**shape)).eval()
    model.save_pretrained(tmp_path)
    tower = vision_tower(str(tmp_path), "pooler", tokens=True)
    pixels = torch.randn(2, 3, 32, 32)
    out = model(pixels)
    torch.testing.assert_close(
        tower(pixels), torch.cat([out.pooler_output[:, None], out.last_hidden_state], 1)
    )


def test_a_checkpoint_without_pooler_is_refused_where_a_pooler_is_asked_for(tmp_path: Path) -> None:
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
    }
    ViTModel(ViTConfig(**shape), add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="pool: cls"):
        vision_tower(str(tmp_path), "pooler", tokens=False)
    assert vision_tower(str(tmp_path), "cls", tokens=False)(torch.zeros(1, 3, 32, 32)).shape == (
        1,
        1,
        16,
    )


def test_timm_towers_load_from_a_folder_and_pool_as_named(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=1).eval()
    timm.models.save_for_hf(
        model, tmp_path, model_config={"num_classes": 0}, model_args={"img_size": 32, "depth": 1}
    )
    pixels = torch.randn(2, 3, 224, 224)
    full = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    assert vision_tower("timm:random:vit_tiny_patch16_224", "cls", tokens=True)(pixels).shape == (
        2,
        198,
        192,
    )
    tower = vision_tower(f"timm:local-dir:{tmp_path}", "mean", tokens=False)
    states = model.forward_features(pixels[:, :, :32, :32])
    torch.testing.assert_close(tower(pixels[:, :, :32, :32])[:, 0], states[:, 1:].mean(1))
    assert full.num_features == tower.width
    with pytest.raises(UserError, match="no pretrained pooler"):
        vision_tower("timm:vit_tiny_patch16_224", "pooler", tokens=False)


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ("/no/such/folder", "no such folder; fix the path"),
        ("no-such-model-of-ours", "`vlpeft prefetch SWEEP`"),
    ],
)
def test_unknown_weights_name_the_fix(source: str, fix: str) -> None:
    with pytest.raises(WeightsError, match=f"cannot load weights from .*{fix}"):
        vision_tower(source, "cls", tokens=False)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("tinny", "tiny"), ("random:gpt-2", "gpt2"), ("roberta-bse@main", "roberta-base")],
)
def test_a_typo_is_refused_without_a_request_to_the_hub(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=rf"unknown weights '[^']+'; did you mean '{meant}'\?"):
        WeightSource.parse(name, tiny="gpt2")
    monkeypatch.setattr(weights, "cached_path", lambda *_: "/cache/config.json")
    WeightSource.parse(name, tiny="gpt2")  # a user who has downloaded a model of that name means it


@pytest.mark.parametrize(
    "name",
    ["distilgpt2", "gpt2-large", "gpt2-xl", "distilroberta-base", "xlm-roberta-base", "some/tinny"],
)
def test_other_names_of_the_hub_are_not_typos(name: str) -> None:
    assert WeightSource.parse(name, tiny="gpt2").location == name


def test_the_hub_is_quiet_while_weights_load() -> None:
    before, seen = hub_logging.get_verbosity(), []

    def load() -> None:
        seen.append(hub_logging.get_verbosity())
        raise OSError("no network")

    with pytest.raises(
        UserError,
        match=r"cannot load weights from 'gpt2-lrge': check the id \(did you mean 'gpt2'\?\)",
    ):
        WeightSource("gpt2-lrge", None, False, "gpt2")._load(load)
    assert seen == [logging.ERROR]
    assert hub_logging.get_verbosity() == before


def test_towers_of_unlike_widths_are_refused() -> None:
    with torch.device("meta"), pytest.raises(UserError, match="one width, got 768 and 1024"):
        build("vit_roberta", text="roberta-large", vision="google/vit-base-patch16-224-in21k")


@pytest.mark.parametrize(
    ("name", "text", "vision"),
    [
        ("vit_roberta", "roberta-base", "google/vit-base-patch16-224-in21k"),
        ("vit_roberta", "roberta-large", "google/vit-large-patch16-224-in21k"),
        ("vit_gpt2", "gpt2", "google/vit-base-patch16-224-in21k"),
        ("vit_gpt2", "gpt2-medium", "google/vit-large-patch16-224-in21k"),
        ("vit_gpt2", "gpt2", "timm:vit_base_patch16_224"),
    ],
)
def test_the_papers_sizes_build_on_the_meta_device(name: str, text: str, vision: str) -> None:
    pool = "cls" if vision.startswith("timm") else "pooler"
    with torch.device("meta"):
        backbone = build(name, text=text, vision=vision, pool=pool)
    assert len(backbone.sites) == (48 if text.endswith(("large", "medium")) else 24)


def test_the_release_sends_text_through_the_embedding_layer_twice() -> None:
    backbone = build("vit_roberta", embed_text_twice=True, read="prefix")
    ids = backbone.tokenizer(QUESTIONS, padding=True, return_tensors="pt")
    once = backbone.text.embeddings(input_ids=ids.input_ids)
    twice = torch.cat([features()[:, 0], once], 1)
    mask = torch.cat([torch.ones(2, 1, dtype=torch.long), ids.attention_mask], 1)
    states = backbone.text(inputs_embeds=twice, attention_mask=mask)
    want = backbone.head["classifier"](states.pooler_output)
    torch.testing.assert_close(
        backbone.logits(features(), QUESTIONS)[:, :], want[:, None].squeeze(1)
    )


def test_poolers_follow_the_setting(tmp_path: Path) -> None:
    RobertaModel(
        RobertaConfig(vocab_size=99, hidden_size=128, num_hidden_layers=1, num_attention_heads=2),
        add_pooling_layer=False,
    ).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(TINY / "roberta").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="pooler: random"):
        build("vit_roberta", text=str(tmp_path), pooler="checkpoint")
    for pooler in ("random", "trained"):
        backbone = build("vit_roberta", text=str(tmp_path), pooler=pooler)
        apply(HeadOnly(), backbone)
        trains = [
            name for name, p in backbone.named_parameters() if p.requires_grad and "pooler" in name
        ]
        assert bool(trains) == (pooler == "trained")
    stored = load_file(TINY / "roberta" / "model.safetensors")["pooler.dense.weight"].float()
    torch.testing.assert_close(
        build("vit_roberta", pooler="checkpoint").text.pooler.dense.weight, stored
    )


def test_the_classifier_loss_is_binary_cross_entropy_of_soft_scores() -> None:
    backbone = build("vit_roberta")
    total, terms = backbone.loss(
        features(), QUESTIONS, [{"yes": 0.6, "unlisted": 1.0}, {"red": 1.0}]
    )
    goal = torch.tensor([[0.6, 0, 0], [0, 0, 1.0]])
    want = functional.binary_cross_entropy_with_logits(backbone.logits(features(), QUESTIONS), goal)
    torch.testing.assert_close(total / terms, want)


@pytest.mark.parametrize("prefix", ["raw", "projected", "none"])
@pytest.mark.parametrize("limit", [12, 4])
def test_the_captioning_loss_of_the_release(prefix: str, limit: int) -> None:
    """As its code computes it, on one caption at a time.

    The tokenizer pads with the end token to the limit and masks all of the padding. Logits without
    those of the prefix and of the last position predict tokens from the second on, and id 0 is
    ignored.
    """
    backbone = build("vit_gpt2", loss="release", prefix=prefix, max_output_tokens=limit)
    tokenizer = backbone.tokenizer
    tokenizer.pad_token = tokenizer.eos_token
    total, terms = backbone.loss(features(), ["", ""], [{c: 1.0} for c in CAPTIONS])
    want, counted = torch.zeros(()), 0
    for caption, visual in zip(CAPTIONS, features(), strict=True):
        given = tokenizer(
            caption, max_length=limit, truncation=True, padding="max_length", return_tensors="pt"
        )
        context = backbone.embed_context(visual[None])
        embeds = torch.cat([context, backbone.token_embeddings(given.input_ids)], 1)
        seen = torch.cat([torch.ones(1, context.shape[1]), given.attention_mask], 1)
        logits = backbone.text(inputs_embeds=embeds, attention_mask=seen).logits
        shifted = logits[0, context.shape[1] : -1]
        goal = given.input_ids[0, 1:]
        want += functional.cross_entropy(shifted, goal, ignore_index=0, reduction="sum")
        counted += int((goal != 0).sum())
    assert terms == counted
    torch.testing.assert_close(total, want, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["raw", "projected", "none"])
def test_the_repaired_captioning_loss(prefix: str) -> None:
    """Every token of a caption and its end token count, and nothing else."""
    backbone = build("vit_gpt2", loss="repaired", prefix=prefix)
    losses = []
    for caption, visual in zip(CAPTIONS, features(), strict=True):
        ids = [*backbone.tokenizer(caption).input_ids[:11], backbone.end]
        context = backbone.embed_context(visual[None])
        embeds = torch.cat([context, backbone.token_embeddings(torch.tensor([ids]))], 1)
        logits = backbone.text(inputs_embeds=embeds).logits[0, context.shape[1] - 1 : -1]
        losses.append(functional.cross_entropy(logits, torch.tensor(ids), reduction="sum"))
    total, terms = backbone.loss(features(), ["", ""], [{c: 1.0} for c in CAPTIONS])
    assert terms == sum(min(len(backbone.tokenizer(c).input_ids), 11) + 1 for c in CAPTIONS)
    torch.testing.assert_close(total, torch.stack(losses).sum(), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_cached_generation_equals_uncached_and_batches_do_not_matter(beams: int) -> None:
    torch.manual_seed(0)
    config = parse(
        BACKBONES.load("vit_gpt2"), {"text": "tiny", "vision": "tiny", "loss": "repaired"}, "test"
    )
    backbone = config.build([], protocol(beams, length_penalty=0.0)).eval()
    apply(RoutingLoRA(rank=4, function="mul"), backbone)
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    visual = features(4)
    together = backbone.predict(visual, [""] * 4)
    assert write_without_cache(backbone, visual) == together
    assert [backbone.predict(visual[i : i + 1], [""])[0] for i in range(4)] == together
    assert len(set(together)) > 1


def test_patch_tokens_reach_routing_functions_but_not_the_prefix() -> None:
    backbone = build("vit_roberta", context="tokens")
    visual = backbone.vision(scenes())[:, None]
    assert visual.shape == (2, 1, 1 + 65, 128)
    apply(RoutingLoRA(rank=4, function="project"), backbone)
    assert backbone.logits(visual, QUESTIONS).shape == (2, 3)
    assert backbone.visual_context.value.shape == (2, 65, 128)


def test_visual_features_are_views_of_what_is_stored() -> None:
    """A copy would have another layout, for which matrix products may round differently."""
    stored = torch.arange(2.0 * 2 * 5 * 3).view(2, 2, 5, 3)
    images = VisualFeatures(stored)
    assert torch.equal(images.pooled, torch.stack([stored[:, 0, 0], stored[:, 1, 0]], 1))
    assert torch.equal(images.tokens, torch.cat([stored[:, 0, 1:], stored[:, 1, 1:]], 1))
    assert torch.equal(images.grids(2), stored[:, :, 2:])
    one = single(stored[:, :1])
    assert torch.equal(one.tokens, stored[:, 0, 1:])
    for view in (images.pooled, images.grids(2), one.pooled, one.tokens):
        assert view.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()
    assert torch.equal(one.rows(torch.tensor([1, 1, 0])).stored, stored[[1, 1, 0], :1])
    assert torch.equal(one.repeat(2).stored, stored[[0, 0, 1, 1], :1])
    with pytest.raises(RuntimeError, match="reads one image per example, got 2"):
        single(stored)


def test_the_shipped_towers_match_the_manifest() -> None:
    import hashlib
    import json

    manifest = json.loads((TINY / "manifest.json").read_text())
    for name, about in manifest["files"].items():
        assert hashlib.sha256((TINY / name).read_bytes()).hexdigest() == about["sha256"], name
    assert sum(about["bytes"] for about in manifest["files"].values()) < 10 * 2**20
