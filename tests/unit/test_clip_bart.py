"""CLIP-BART against transformers' own BART and literal formulas, and the towers of open_clip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.backbones.clip_bart import CLIPBartModel
from vlpeft.benchmark.backbones.vision import transform, vision_tower
from vlpeft.benchmark.contract.backbone import TINY
from vlpeft.benchmark.contract.method import apply
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.methods.routing import RoutingLoRA

START, BOS, PAD, END = 2, 0, 1, 2
QUESTIONS = [
    "is there a red circle?",
    "what color is the large rectangle that is left of the small circle?",
    "how many?",
]
ANSWERS = ["yes", "no", "a large blue rectangle", "red", "two circles"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a random BART with generation settings that must be ignored."""
    return _save(tmp_path_factory.mktemp("bart"))


def _save(path: Path, **changed: Any) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(TINY / "roberta")
    sides = {
        f"{side}_{key}": n
        for side in ("encoder", "decoder")
        for key, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 96))
    }
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer),
        "d_model": 48,
        "max_position_embeddings": 64,
        "init_std": 0.3,
    }
    model = BartForConditionalGeneration(
        BartConfig(**{**shape, **sides, "dropout": 0.0, **changed})
    )
    model.generation_config.forced_bos_token_id, model.generation_config.no_repeat_ngram_size = (
        BOS,
        1,
    )
    nn.init.normal_(model.final_logits_bias)
    for (
        name,
        parameter,
    ) in model.named_parameters():  # so that the text depends on the image and on the position
        if "encoder_attn." in name or "decoder.embed_positions" in name:
            nn.init.normal_(parameter, std=1.0)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def build(folder: Path, model: dict[str, Any] | None = None, **recipe: Any) -> CLIPBartModel:
    torch.manual_seed(0)
    config = parse(
        BACKBONES.load("clip_bart"),
        {"text": str(folder), "vision": "tiny", **(model or {})},
        "test",
    )
    backbone = config.build(
        ANSWERS,
        Protocol(lr=1e-3, steps=1, **{"max_input_tokens": 24, "max_output_tokens": 12, **recipe}),
    ).eval()
    for parameter in backbone.head_parameters():
        nn.init.normal_(parameter, std=0.5)
    return backbone


def features(count: int = 3, images: int = 1) -> Tensor:
    return torch.randn(count, images, 2 + 64, 128, generator=torch.Generator().manual_seed(1))


def written(backbone: CLIPBartModel, states: Tensor, mask: Tensor, ids: list[int]) -> Tensor:
    """Return the log-probabilities after each of `ids`, (tokens, vocabulary), from transformers."""
    outputs = BaseModelOutput(last_hidden_state=states[None])
    out = backbone.text(
        encoder_outputs=outputs,
        attention_mask=mask[None],
        decoder_input_ids=torch.tensor([ids]),
        use_cache=False,
    )
    return out.logits[0].log_softmax(-1)


def ids_of(backbone: CLIPBartModel, text: str, limit: int = 99) -> list[int]:
    words = backbone.tokenizer(text, add_special_tokens=False).input_ids
    return [BOS, *words[: limit - 2], END]


# The encoder.


@pytest.mark.parametrize("scale", [False, True])
def test_without_visual_tokens_the_encoder_is_transformers_own(tmp_path: Path, scale: bool) -> None:
    backbone = build(_save(tmp_path, scale_embedding=scale))
    states, mask = backbone.encode(torch.zeros(3, 0, 48), QUESTIONS)
    batch = backbone.tokenizer(QUESTIONS, padding=True, return_tensors="pt")
    assert torch.equal(mask, batch.attention_mask)
    assert not mask.all()
    torch.testing.assert_close(states, backbone.text.model.encoder(**batch).last_hidden_state)


def test_the_encoder_reads_prompt_then_text_then_unnormed_visual_tokens(folder: Path) -> None:
    backbone = build(folder)
    prompt = torch.randn(5, 48)
    backbone.prompt = _Constant(prompt)
    tokens = backbone.embed(features())
    seen: list[tuple[Any, ...]] = []
    backbone.text.model.encoder.layers[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs)
    )
    _, mask = backbone.encode(tokens, QUESTIONS)
    encoder, batch = (
        backbone.text.model.encoder,
        backbone.tokenizer(QUESTIONS, padding=True, return_tensors="pt"),
    )
    for row, ids in enumerate(batch.input_ids):
        places = encoder.embed_positions.weight[
            2 : 2 + len(ids)
        ]  # BART's table starts with two unused rows
        text = torch.cat([prompt, encoder.embed_tokens.weight[ids] + places])
        torch.testing.assert_close(
            seen[0][0][row], torch.cat([encoder.layernorm_embedding(text), tokens[row]])
        )
        assert mask[row].tolist() == [1] * 5 + batch.attention_mask[row].tolist() + [1] * 36


class _Constant(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> Tensor:
        return self.value


def test_dropout_acts_on_text_and_visual_tokens_alike(tmp_path: Path) -> None:
    backbone = build(_save(tmp_path, dropout=0.5)).train()
    seen: list[tuple[Any, ...]] = []
    backbone.text.model.encoder.layers[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs)
    )
    backbone.encode(torch.randn(3, 36, 48), QUESTIONS)
    for part in (seen[0][0][:, :-36], seen[0][0][:, -36:]):
        assert (part == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_inputs_are_truncated_with_both_specials(folder: Path) -> None:
    backbone = build(folder, max_input_tokens=6)
    seen: list[Tensor] = []
    backbone.text.model.encoder.embed_tokens.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    backbone.encode(torch.zeros(3, 0, 48), QUESTIONS)
    assert seen[0][1].tolist() == ids_of(backbone, QUESTIONS[1], 6)


# The visual embedding.


@pytest.mark.parametrize("images", [1, 2])
def test_the_visual_embedding_is_the_literal_formula(folder: Path, images: int) -> None:
    backbone = build(folder)
    head, table, visual = backbone.head, backbone.token_embeddings.weight, features(images=images)
    found = backbone.embed(visual)
    assert found.shape == (3, images * 36, 48)
    for image, token in product(range(images), (0, 1, 8, 35)):
        rows, columns = (
            range(8 * i // 6, -(-8 * (i + 1) // 6)) for i in divmod(token, 6)
        )  # adaptive windows overlap
        pooled = torch.stack([visual[:, image, 2 + 8 * r + c] for r in rows for c in columns]).amax(
            0
        )
        f = head.feature[1](pooled @ head.feature[0].weight.T + head.feature[0].bias)
        p = head.position[1](head.position[0].bias)
        want = f + p + head.image_order.weight[image] + table[len(table) - 1 - token]
        torch.testing.assert_close(found[:, 36 * image + token], want)
    assert torch.equal(backbone.visual_context.value, found.mean(1, keepdim=True))


def test_the_whole_grid_may_be_kept_and_be_the_visual_context(folder: Path) -> None:
    backbone = build(folder, {"grid": None, "context": "tokens"})
    found = backbone.embed(features())
    assert found.shape == (3, 64, 48)
    assert torch.equal(backbone.visual_context.value, found)


@pytest.mark.parametrize(
    ("model", "rows", "message"),
    [
        ({"extra_tokens": 35}, 66, "extra_tokens: 36 visual tokens need as many"),
        ({"grid": None, "extra_tokens": 63}, 66, "extra_tokens: 64 visual tokens"),
        ({"grid": 9}, 66, "9 x 9 from 64"),
        ({}, 65, "from 63 visual tokens"),
    ],
)
def test_impossible_grids_are_refused(
    folder: Path, model: dict[str, Any], rows: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build(folder, model).embed(features()[:, :, :rows])


def test_new_rows_are_the_same_in_every_run_and_old_ones_the_checkpoints(folder: Path) -> None:
    one, stored = build(folder), BartForConditionalGeneration.from_pretrained(folder)
    torch.manual_seed(7)
    other = one.config.build(ANSWERS, one.protocol)
    table = one.text.model.shared.weight
    assert torch.equal(table, other.text.model.shared.weight)
    assert torch.equal(table[:-200], stored.model.shared.weight)
    assert table[-200:].std().item() == pytest.approx(0.02, rel=0.05)
    assert one.text.lm_head.weight is table
    assert one.text.final_logits_bias.shape == (1, len(table))
    assert not any("final_logits_bias" in name for name, _ in one.named_parameters())


# Training.


@pytest.mark.parametrize("mean", ["tokens", "sequences"])
def test_the_loss_equals_the_literal_formula(folder: Path, mean: str) -> None:
    backbone = build(folder, loss_mean=mean, max_output_tokens=6)
    targets = [{"yes": 0.3, "a large blue rectangle above it": 1.0}, {"no": 0.0}, {"red": 0.6}]
    states, mask = backbone.encode(backbone.embed(features()), QUESTIONS)
    total, count = torch.tensor(0.0), 0
    for row, (text, weight) in (
        (0, ("yes", 0.3)),
        (0, ("a large blue rectangle above it", 1.0)),
        (2, ("red", 0.6)),
    ):  # the question without an answer costs nothing
        goal = ids_of(backbone, text, 6)
        log = written(backbone, states[row], mask[row], [START, *goal[:-1]])
        losses = -log[range(len(goal)), goal]
        total = total + (losses.sum() if mean == "tokens" else losses.mean() * weight)
        count += len(goal)
    found, terms = backbone.loss(features(), QUESTIONS, targets)
    assert terms == (count if mean == "tokens" else 3)
    torch.testing.assert_close(found, total)


# Writing.


def greedy(backbone: CLIPBartModel, states: Tensor, mask: Tensor, tokens: int) -> list[int]:
    ids = [START]
    while len(ids) < tokens + 1 and (ids[-1] != END or len(ids) == 1):
        ids.append(
            END if len(ids) == tokens else int(written(backbone, states, mask, ids)[-1].argmax())
        )
    return ids


def test_greedy_answers_ignore_the_settings_of_the_checkpoint(
    folder: Path,
) -> None:
    backbone = build(folder, answering="generate", max_generated_tokens=7)
    tokens: list[Tensor] = []
    generate = backbone.text.generate
    backbone.text.generate = lambda **inputs: tokens.append(generate(**inputs)) or tokens[-1]
    texts = backbone.predict(features(), QUESTIONS)
    states, mask = backbone.encode(backbone.embed(features()), QUESTIONS)
    for row in range(3):
        want = greedy(backbone, states[row], mask[row], 7)
        assert tokens[0][row].tolist() == want + [PAD] * (tokens[0].shape[1] - len(want))
        assert texts[row] == backbone.tokenizer.decode(want, skip_special_tokens=True).strip()
    assert tokens[0].shape[1] == 8  # at least one answer reaches the limit and is cut there
    assert set(tokens[0][:, -1].tolist()) <= {PAD, END}
    assert len(set(texts)) > 1


@pytest.fixture
def adapted(folder: Path, request: pytest.FixtureRequest) -> CLIPBartModel:
    """Build a routed model, in which every projection sees the image."""
    backbone = build(folder, **request.param)
    apply(RoutingLoRA(rank=4, function="mul"), backbone)
    for name, parameter in backbone.named_parameters():
        if "lora" in name:
            nn.init.normal_(parameter, std=0.3)
    return backbone


RECIPES = [
    {"answering": "generate", "beams": 1},
    {"answering": "generate", "beams": 3, "no_repeat_ngram": 2},
    {"rank_candidates": 3},
]


@pytest.mark.parametrize("adapted", RECIPES, indirect=True)
def test_cached_equals_uncached_and_batches_do_not_matter(
    adapted: CLIPBartModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses: list[bool] = []
    forward = adapted.text.model.decoder.forward

    def watch(*given: Any, **named: Any) -> Any:
        uses.append(named["use_cache"])
        return forward(*given, **named)

    together = adapted.predict(features(), QUESTIONS)
    assert [
        adapted.predict(features()[i : i + 1], [q])[0] for i, q in enumerate(QUESTIONS)
    ] == together
    if adapted.protocol.answering == "generate":
        monkeypatch.setattr(adapted.text.model.decoder, "forward", watch)
        adapted.decoding.use_cache = False
        assert adapted.predict(features(), QUESTIONS) == together
        assert uses
        assert not any(uses)
    assert adapted.predict(features().flip(0), QUESTIONS) != together


@pytest.mark.parametrize("adapted", [{"rank_candidates": 5}, {"rank_candidates": 2}], indirect=True)
def test_ranking_equals_scoring_each_answer_alone(adapted: CLIPBartModel) -> None:
    keep, visual = adapted.protocol.rank_candidates, features()
    want = []
    for i, question in enumerate(QUESTIONS):
        states, mask = adapted.encode(adapted.embed(visual[i : i + 1]), [question])
        goals = [ids_of(adapted, answer)[1:] for answer in ANSWERS]
        logs = [
            written(adapted, states[0], mask[0], [START, BOS, *goal[:-1]])[1:] for goal in goals
        ]
        likely = sorted(range(5), key=lambda a: -logs[a][0, goals[a][0]].item())[:keep]
        want.append(
            ANSWERS[max(likely, key=lambda a: logs[a][range(len(goals[a])), goals[a]].sum().item())]
        )
    assert adapted.predict(visual, QUESTIONS) == want
    assert len(set(want)) > 1


def test_without_a_list_captions_are_written(folder: Path) -> None:
    backbone = build(folder)
    backbone.answers = []
    assert not set(backbone.predict(features(), [""] * 3)) & set(ANSWERS)


# The towers of open_clip.

SMALL = {
    "small-rn": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    "small-vit": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
}


@pytest.fixture(autouse=True, scope="module")
def _small_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Register two small CLIP models with open_clip under their own names for this file."""
    path = tmp_path_factory.mktemp("open_clip")
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    for name, vision in SMALL.items():
        (path / f"{name}.json").write_text(
            json.dumps({"embed_dim": 12, "vision_cfg": vision, "text_cfg": text})
        )
    open_clip.add_model_config(path)
    yield
    from open_clip import factory

    factory._MODEL_CONFIG_PATHS.remove(path)
    factory._rescan_model_configs()


def small(name: str, path: Path) -> tuple[nn.Module, str]:
    """Return a random CLIP and the source that reads it from a file."""
    torch.manual_seed(3)
    model = open_clip.create_model(name)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    torch.save(model.state_dict(), path / "clip.pt")
    return model.visual.eval(), f"open_clip:{name}/{path / 'clip.pt'}"


def test_rn101_gives_layer4_row_by_row() -> None:
    tower = vision_tower("open_clip:random:RN101", "mean", tokens=True).eval()
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    seen: list[Tensor] = []
    tower.model.layer4.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        found = tower(torch.randn(1, 3, 224, 224))
    assert found.shape == (1, 1 + 49, 2048)
    assert torch.equal(found[0, 1 + 7 * 2 + 5], seen[0][0, :, 2, 5])
    torch.testing.assert_close(found[:, 0], seen[0].mean((2, 3)))


def test_a_resnet_from_a_file_is_the_one_saved(tmp_path: Path) -> None:
    visual, source = small("small-rn", tmp_path)
    seen: list[Tensor] = []
    visual.layer4.register_forward_hook(lambda *call: seen.append(call[2]))
    pixels = torch.randn(2, 3, 64, 64)
    visual(pixels)
    tower = vision_tower(source, "mean", tokens=True).train()  # batch norms keep their statistics
    assert tower.width == 256
    assert torch.equal(tower(pixels)[:, 1:], seen[0].flatten(2).transpose(1, 2))
    torch.testing.assert_close(tower(pixels[:1]), tower(pixels)[:1])


def test_a_vit_from_a_file_gives_its_states_without_projection(tmp_path: Path) -> None:
    visual, source = small("small-vit", tmp_path)
    seen: list[Tensor] = []
    visual.ln_post.register_forward_hook(lambda *call: seen.append(call[2]))
    pixels = torch.randn(2, 3, 32, 32)
    visual(pixels)
    tower = vision_tower(source, "cls", tokens=True)
    assert (tower.width, tower.leading) == (16, 2)
    torch.testing.assert_close(tower(pixels), torch.cat([seen[0][:, :1], seen[0]], 1))
    torch.testing.assert_close(
        vision_tower(source, "mean", tokens=False)(pixels)[:, 0], seen[0][:, 1:].mean(1)
    )


def test_images_are_squashed_by_bicubic_interpolation_and_normalised_as_clip_does(
    tmp_path: Path,
) -> None:
    tower = vision_tower(small("small-rn", tmp_path)[1], "mean", tokens=True)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    squashed = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC))
    want = (squashed / 255 - [0.48145466, 0.4578275, 0.40821073]) / [
        0.26862954,
        0.26130258,
        0.27577711,
    ]
    torch.testing.assert_close(
        transform(pixels, tower), torch.tensor(want).permute(2, 0, 1).float()
    )


def test_openais_weights_bring_their_activation() -> None:
    def quick(source: str) -> bool:
        with torch.device("meta"):
            return any(
                isinstance(m, QuickGELU)
                for m in vision_tower(source, "cls", tokens=False).modules()
            )

    assert quick("open_clip:ViT-B-32/openai")
    assert not quick("open_clip:ViT-B-32/laion2b_s34b_b79k")


@pytest.mark.parametrize(
    ("source", "pool", "message"),
    [
        (
            "RN101/openai",
            "mean",
            (
                "fetch its weights on a machine with a network .`vlpeft "
                "prefetch SWEEP`., or give a file"
            ),
        ),
        ("RN11/openai", "mean", "no model 'RN11'; did you mean"),
        ("RN101/opnai", "mean", "neither a file nor a tag of RN101; did you mean 'openai'"),
        ("RN101/no/such.pt", "mean", "neither a file nor a tag"),
        ("random:small-rn", "cls", "choose `pool: mean`"),
        ("random:convnext_base", "mean", "not a plain CLIP"),
    ],
)
def test_unusable_towers_name_the_fix(source: str, pool: Any, message: str) -> None:
    with (
        torch.device("cpu" if source == "RN101/openai" else "meta"),
        pytest.raises(UserError, match=message),
    ):
        vision_tower(f"open_clip:{source}", pool, tokens=True)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    _, source = small("small-vit", tmp_path)
    with pytest.raises(UserError, match="cannot make open_clip:small-rn"):
        vision_tower(source.replace("small-vit", "small-rn"), "mean", tokens=True)
