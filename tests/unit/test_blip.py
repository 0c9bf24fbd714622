"""BLIP equals the models of transformers on the same weights, and cached equals uncached.

BLIP's own checkpoints are read, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
)
from transformers.models.blip.modeling_blip_text import BlipTextSelfAttention

from tests.blip_weights import SIZE, random_model, save
from vlpeft.baselines.lora import LoRA
from vlpeft.baselines.prompt_tuning import PromptTuning, SoftPrompt
from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.backbones.blip import BLIPModel
from vlpeft.benchmark.backbones.blip_parts import TextAttention
from vlpeft.benchmark.backbones.vision import transform
from vlpeft.benchmark.contract.backbone import TINY
from vlpeft.benchmark.contract.fit import check_fit
from vlpeft.benchmark.contract.method import Method, apply
from vlpeft.benchmark.contract.visual import single
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.methods.p_adapter import PAdapter
from vlpeft.methods.routing import RoutingLoRA

QUESTIONS = (
    "how many circles?",
    "is the small red circle left of the large green rectangle?",
    "",
    "what is the blue shape?",
)
ANSWERS = (
    "no",
    "yes",
    "circle",
    "a large green rectangle",
    "triangle",
    "blue",
    "a red circle and a blue triangle",
)
CAPTIONS = ("a circle", "two shapes with a large blue rectangle and a small brown circle")
FORMS = ("decoder", "vqa")
METHODS: tuple[Method | None, ...] = (
    None,
    LoRA(rank=4, targets=("query", "key", "value", "output")),
    PromptTuning(length=3),
    RoutingLoRA(rank=4, function="mul"),
    PAdapter(size=4),
)
RANKED = (
    *METHODS,
    PAdapter(size=4, release_cached_graph=True),
)  # the release ranks without a cache, that is with the graph of training


def protocol(**changed: Any) -> Protocol:
    return Protocol(
        **{
            "lr": 1e-3,
            "steps": 1,
            "max_input_tokens": 24,
            "max_output_tokens": 12,
            "rank_candidates": 4,
            **changed,
        }
    )


def build(
    answers: tuple[str, ...] = (),
    method: Method | None = None,
    recipe: dict[str, Any] | None = None,
    **settings: Any,
) -> BLIPModel:
    """Build the tiny model in eval mode.

    Tensors of a method are random and large enough to matter.
    """
    torch.manual_seed(0)
    config = parse(
        BACKBONES.load("blip"), {"weights": "tiny", "image_size": SIZE, **settings}, "test"
    )
    backbone: Any = config.build(answers, protocol(**(recipe or {})))
    if method is not None:
        apply(method, backbone)
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.1)
    return backbone.eval()


def pixels(count: int = 4) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def port(cls: type[Any]) -> Any:
    """Build transformers' own model on the tiny weights."""
    return cls.from_pretrained(TINY / "blip").eval()


def sequence(backbone: BLIPModel, *texts: str) -> list[int]:
    """Tokenize [DEC] texts [SEP]."""
    ids = [
        token
        for text in texts
        for token in backbone.tokenizer(text, add_special_tokens=False).input_ids
    ]
    return [backbone.start, *ids, backbone.end]


def question(backbone: BLIPModel, text: str) -> Tensor:
    first = (
        backbone.start
        if backbone.tokenizer.cls_token_id is None
        else backbone.tokenizer.cls_token_id
    )
    return torch.tensor([[first, *sequence(backbone, text)[1:]]])


# Equal to transformers.


def test_the_tower_gives_the_cls_state_then_all_states() -> None:
    backbone = build()
    states = port(BlipForConditionalGeneration).vision_model(pixels(2)).last_hidden_state
    torch.testing.assert_close(backbone.vision(pixels(2)), torch.cat([states[:, :1], states], 1))
    assert states.shape == (2, 65, 128)


def test_the_transform_equals_hugging_faces_processor() -> None:
    backbone = build()
    image = np.random.default_rng(0).integers(0, 256, (97, 80, 3), dtype=np.uint8)
    processor = BlipImageProcessorPil(
        size={"height": SIZE, "width": SIZE},
        image_mean=list(backbone.vision.mean),
        image_std=list(backbone.vision.std),
    )
    want = processor(image, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(transform(image, backbone.vision), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_attention_equals_the_eager_one(kind: str, recorded: bool) -> None:
    backbone = build()
    site = next(site for site in backbone.sites if site.kind == kind)
    module: Any = site.attention.module
    if recorded:
        site.attention.record()
    eager = BlipTextSelfAttention(module.config, kind == "cross", 0)
    eager.load_state_dict(module.state_dict())
    eager.eval()
    states, memory = torch.randn(2, 5, 128), torch.randn(2, 9, 128) if kind == "cross" else None
    mask = torch.zeros(2, 1, 5, 5).masked_fill(
        torch.ones(5, 5).triu(1).bool(), torch.finfo(torch.float32).min
    )
    mask = None if kind == "cross" else mask
    want, probabilities = eager(states, mask, memory)
    found, _ = module(states, mask, memory)
    torch.testing.assert_close(found, want, atol=1e-6, rtol=1e-6)
    if recorded:
        seen = site.attention.take()
        torch.testing.assert_close(seen.probabilities, probabilities, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(seen.query, eager.query(states))
        torch.testing.assert_close(seen.value, eager.value(states if memory is None else memory))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_caption_loss_equals_that_of_transformers(smoothing: float) -> None:
    """A padded batch with a masked prompt."""
    backbone = build(recipe={"label_smoothing": smoothing})
    other = port(BlipForConditionalGeneration)
    other.text_decoder.label_smoothing = smoothing
    rows = [sequence(backbone, "a picture of", text)[:40] for text in CAPTIONS]
    prompt = len(sequence(backbone, "a picture of")) - 1
    rows = [[*row[:prompt], *row[prompt:-1][:11], backbone.end] for row in rows]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [backbone.pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :prompt] = -100
    want = other(pixels(2), ids, mask, labels=labels).loss
    total, terms = backbone.loss(
        backbone.vision(pixels(2))[:, None],
        ["a picture of"] * 2,
        [{text: 1.0} for text in CAPTIONS],
    )
    assert terms == (labels != -100).sum()
    torch.testing.assert_close(total / terms, want)


def test_the_vqa_loss_equals_that_of_transformers() -> None:
    backbone = build(form="vqa")
    labels = torch.tensor([sequence(backbone, "a large green rectangle")])
    ids = question(backbone, QUESTIONS[1])
    want = port(BlipForQuestionAnswering)(
        ids, pixels(1), attention_mask=torch.ones_like(ids), labels=labels
    ).loss
    total, terms = backbone.loss(
        backbone.vision(pixels(1))[:, None], [QUESTIONS[1]], [{"a large green rectangle": 1.0}]
    )
    torch.testing.assert_close(total / terms, want)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_generation_equals_that_of_transformers(form: str, beams: int) -> None:
    """Several images run at once.

    The port answers one question at a time, so padding has no effect.
    """
    backbone = build(
        form=form, recipe={"beams": beams, "answering": "generate", "min_generated_tokens": 3}
    )
    prompts = ["a picture of"] * 3 if form == "decoder" else [*list(QUESTIONS[:2]), QUESTIONS[3]]
    other = port(BlipForConditionalGeneration if form == "decoder" else BlipForQuestionAnswering)
    want = []
    for image, prompt in zip(pixels(3), prompts, strict=True):
        ids = (
            torch.tensor([sequence(backbone, prompt)])
            if form == "decoder"
            else question(backbone, prompt)
        )
        given = {
            "input_ids": ids,
            "num_beams": beams,
            "do_sample": False,
            "max_new_tokens": 12,
            "min_new_tokens": 3,
        }
        tokens = other.generate(
            pixel_values=image[None], attention_mask=torch.ones_like(ids), **given
        )[0]
        want.append(
            backbone.tokenizer.decode(
                tokens[ids.shape[1] - 1 if form == "decoder" else 1 :], skip_special_tokens=True
            ).strip()
        )
    assert backbone.predict(backbone.vision(pixels(3))[:, None], prompts) == want
    assert all(want)


# Losses against literal formulas.


@pytest.mark.parametrize("form", FORMS)
def test_the_release_sums_all_answers_by_their_share(form: str) -> None:
    """Smoothed, summed over tokens, times the share of the answer, divided by the questions.

    Source: p-Adapter paper, D.2.
    """
    recipe = {"loss_mean": "questions", "label_smoothing": 0.1}
    backbone = build(form=form, recipe=recipe)
    visual = backbone.vision(pixels(2))
    targets = [{"two": 0.7, "a small circle": 0.3}, {"yes": 1.0}]
    total, terms = backbone.loss(visual[:, None], QUESTIONS[:2], targets)
    want = torch.zeros(())
    for i, scores in enumerate(targets):
        for text, weight in scores.items():
            logits, answer = literal(backbone, visual[i : i + 1], QUESTIONS[i], text)
            want = want + weight * functional.cross_entropy(
                logits, torch.tensor(answer), reduction="sum", label_smoothing=0.1
            )
    assert terms == 2
    torch.testing.assert_close(total, want)


def literal(
    backbone: BLIPModel, visual: Tensor, prompt: str, answer: str
) -> tuple[Tensor, list[int]]:
    """Return the logits of an answer's tokens from one unpadded forward, and the tokens."""
    memory, read = visual[:, 1:], prompt
    if backbone.config.form == "vqa":
        memory, read = (
            backbone.reader(
                input_ids=question(backbone, prompt), encoder_hidden_states=memory
            ).last_hidden_state,
            "",
        )
    start, ids = sequence(backbone, read)[:-1], sequence(backbone, answer)[1:]
    out = backbone.decoder(
        input_ids=torch.tensor([[*start, *ids[:-1]]]), encoder_hidden_states=memory, use_cache=False
    )
    return out.logits[0, len(start) - 1 :], ids


@pytest.mark.parametrize("mean", ["tokens", "sequences", "questions"])
def test_a_question_without_answer_costs_nothing(mean: str) -> None:
    backbone = build(recipe={"loss_mean": mean})
    total, terms = backbone.loss(backbone.vision(pixels(1))[:, None], QUESTIONS[:1], [{}])
    assert (total.item(), terms) == (0.0, 0 if mean == "tokens" else 1)
    alone = backbone.loss(backbone.vision(pixels()[:1])[:, None], QUESTIONS[:1], [{"yes": 1.0}])
    next_to = backbone.loss(
        backbone.vision(pixels()[:2])[:, None], QUESTIONS[:2], [{"yes": 1.0}, {}]
    )
    torch.testing.assert_close(next_to[0], alone[0])
    assert next_to[1] == alone[1] + (mean != "tokens")


# Cached equals uncached.


def scores(backbone: BLIPModel, visual: Tensor, prompt: str) -> list[float]:
    """Compute the log-likelihood of each answer alone, without a cache."""
    found = []
    for answer in ANSWERS:
        image = single(visual[:, None])
        backbone.set_visual_context(image)
        memory = backbone.memory_of(image, [prompt])
        backbone.set_visual_context(image)
        labels = backbone._targets([answer])
        logits = backbone.decoder.cls(
            backbone._states(*backbone.embed_prefix([prompt]), labels, memory)
        )[0]
        found.append(
            -float(
                functional.cross_entropy(logits, labels[0], reduction="sum", label_smoothing=0.1)
            )
        )
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", RANKED, ids=lambda m: "none" if m is None else m.name)
def test_ranking_from_the_cache_finds_the_likeliest_answer(
    form: str, method: Method | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of different lengths are ranked together.

    Scores equal those of each sequence alone.
    """
    from vlpeft.benchmark.backbones import blip

    backbone = build(
        ANSWERS, method, {"rank_candidates": len(ANSWERS), "label_smoothing": 0.1}, form=form
    )
    visual = backbone.vision(pixels()).detach()
    given: list[Tensor] = []
    monkeypatch.setattr(
        blip, "RANKED_TOGETHER", 2 * len(ANSWERS)
    )  # two questions of four at a time
    true = blip.log_likelihood
    monkeypatch.setattr(
        blip, "log_likelihood", lambda *args: given.append(true(*args)) or given[-1]
    )
    found = backbone.predict(visual[:, None], QUESTIONS)
    with torch.no_grad():
        want = torch.tensor(
            [scores(backbone, visual[i : i + 1], prompt) for i, prompt in enumerate(QUESTIONS)]
        )
    assert [len(part) for part in given] == [2 * len(ANSWERS)] * 2
    torch.testing.assert_close(
        torch.cat(given).view(4, -1).sort(1).values, want.sort(1).values, atol=1e-4, rtol=1e-4
    )
    assert found == [ANSWERS[i] for i in want.argmax(1)]
    for row, answer, expected in zip(
        backbone.ranked(visual[:, None], QUESTIONS), found, want, strict=True
    ):
        listed = dict(zip(ANSWERS, expected.tolist(), strict=True))
        assert row[0][0] == answer
        assert dict(row) == pytest.approx(listed, abs=1e-4, rel=1e-4)
        assert [score for _, score in row] == sorted(dict(row).values(), reverse=True)


def test_generated_answers_are_not_ranked() -> None:
    backbone = build(ANSWERS, None, {"answering": "generate"})
    visual = backbone.vision(pixels()).detach()
    assert backbone.ranked(visual[:, None], QUESTIONS) == [[]] * 4


def test_the_image_is_projected_once_for_all_candidates() -> None:
    backbone = build(ANSWERS)
    calls: list[tuple[int, ...]] = []
    for site in backbone.sites:
        if site.kind == "cross":
            site.attention.module.key.register_forward_hook(
                lambda _, args, __: calls.append(tuple(args[0].shape))
            )
    backbone.predict(backbone.vision(pixels())[:, None], QUESTIONS)
    assert calls == [(4, 65, 128)] * 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: "none" if m is None else m.name)
def test_generation_equals_a_loop_without_cache(form: str, method: Method | None) -> None:
    backbone = build((), method, {"answering": "generate"}, form=form)
    visual = backbone.vision(pixels()).detach()
    with torch.no_grad():
        want = [greedy(backbone, visual[i : i + 1], prompt) for i, prompt in enumerate(QUESTIONS)]
    assert backbone.predict(visual[:, None], QUESTIONS) == want
    assert len(set(want)) > 1


def greedy(backbone: BLIPModel, visual: Tensor, prompt: str) -> str:
    image = single(visual[:, None])
    memory = backbone.memory_of(image, [prompt])
    backbone.set_visual_context(image)
    ids: list[int] = []
    while len(ids) < 12 and backbone.end not in ids:
        labels = torch.tensor([[*ids, 0]])
        states = backbone._states(*backbone.embed_prefix([prompt]), labels, memory)
        ids.append(int(backbone.decoder.cls(states[:, -1]).argmax()))
    return str(backbone.tokenizer.decode(ids, skip_special_tokens=True).strip())


@pytest.mark.parametrize("form", FORMS)
def test_beams_of_a_batch_equal_those_of_each_image(form: str) -> None:
    backbone = build((), METHODS[-1], {"answering": "generate", "beams": 3}, form=form)
    visual = backbone.vision(pixels())
    together = backbone.predict(visual[:, None], QUESTIONS)
    assert [
        backbone.predict(visual[i : i + 1][:, None], [prompt])[0]
        for i, prompt in enumerate(QUESTIONS)
    ] == together
    assert len(set(together)) > 1


# Soft prompts and settings.


@pytest.mark.parametrize("form", FORMS)
def test_a_soft_prompt_of_words_equals_the_words(form: str) -> None:
    backbone = build(form=form)
    visual = backbone.vision(pixels(2))
    words = [{"a circle": 1.0}] * 2
    want, _ = backbone.loss(visual[:, None], ["what is there"] * 2, words)
    ids = torch.tensor(sequence(backbone, "what is there")[1:-1])
    backbone.prompt = SoftPrompt(backbone.token_embeddings(ids).detach())
    found, _ = backbone.loss(visual[:, None], ["", ""], words)
    torch.testing.assert_close(found, want)


def test_prompts_and_answers_are_cut_to_their_limits() -> None:
    backbone = build(recipe={"max_input_tokens": 3, "max_output_tokens": 4})
    assert backbone.embed_prefix(QUESTIONS)[0].shape[1] == 1 + 3
    labels = backbone._targets([CAPTIONS[1]])
    assert labels.shape == (1, 4)
    assert labels[0, -1] == backbone.end


@pytest.mark.parametrize("form", FORMS)
def test_dropout_follows_the_setting_and_acts_on_text_only(form: str) -> None:
    backbone = build(form=form, dropout=0.25)
    assert {m.p for m in backbone.text.modules() if isinstance(m, nn.Dropout)} == {0.25}
    assert {m.p for m in backbone.vision.modules() if isinstance(m, nn.Dropout)} == {0.0}
    visual = backbone.vision(pixels(1))
    still = backbone.loss(visual[:, None], QUESTIONS[:1], [{"no": 1.0}])[0]
    backbone.train()
    assert not torch.equal(backbone.loss(visual[:, None], QUESTIONS[:1], [{"no": 1.0}])[0], still)


def test_sites_know_the_mask_of_their_attention() -> None:
    flags = {
        site.name: (site.side, site.attention.causal, site.attention.fixed_keys)
        for site in build(form="vqa").sites
        if site.attention
    }
    assert flags["layer.0.self"] == ("decoder", True, False)
    assert flags["layer.0.cross"] == ("decoder", True, False)  # padded states of the question
    assert flags["encoder.layer.1.self"] == ("encoder", False, False)
    assert flags["encoder.layer.1.cross"] == ("encoder", False, True)
    plain = {site.name: site.attention for site in build().sites if site.attention}
    assert list(plain) == ["layer.0.self", "layer.0.cross", "layer.1.self", "layer.1.cross"]
    assert plain["layer.0.cross"].causal
    assert plain["layer.0.cross"].fixed_keys
    assert all(isinstance(attention.module, TextAttention) for attention in plain.values())


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ({"max_input_tokens": 110, "max_output_tokens": 40}, {}, "may need 152 positions"),
        ({"max_generated_tokens": 120}, {}, "may need 146 positions"),
        ({"max_output_tokens": 400}, {"form": "vqa"}, "may need 401 positions"),
        ({}, {"image_size": 60}, "not a multiple of the patch size 8; choose 56"),
    ],
)
def test_too_long_inputs_are_refused(
    recipe: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=message):
        check_fit(build(recipe=recipe, **settings))


def test_a_soft_prompt_that_is_too_long_is_refused_while_planning() -> None:
    with torch.device("meta"), pytest.raises(UserError, match="may need 138 positions"):
        check_fit(build(method=PromptTuning(length=100)))


def test_the_vqa_form_needs_a_text_encoder(tmp_path: Path) -> None:
    other = BlipForConditionalGeneration(port(BlipForQuestionAnswering).config)
    other.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="choose `form: decoder`"):
        build(weights=str(tmp_path), form="vqa")
    with torch.device("meta"), pytest.raises(UserError, match="blip-vqa-base"):
        build(weights="Salesforce/blip-image-captioning-base", form="vqa")


# BLIP's own checkpoints.


def original(model: Any) -> dict[str, Tensor]:
    """Return a state in BLIP's own layout, made from transformers'.

    The names are written by hand instead of taken from the map under test.
    """
    plain = {
        "embeddings.class_embedding": "cls_token",
        "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding": "patch_embed.proj",
        "post_layernorm": "norm",
        "encoder.layers": "blocks",
        "self_attn.projection": "attn.proj",
        "self_attn": "attn",
        "layer_norm": "norm",
    }
    made = {}
    for key, tensor in model.state_dict().items():
        name = key
        if key.startswith("vision_model."):
            name = "visual_encoder." + key.removeprefix("vision_model.")
            for new, old in plain.items():
                name = name.replace(new, old)
        made[name] = tensor.clone()
    made["text_decoder.bert.embeddings.position_ids"] = torch.arange(128)[None]
    made["image_queue"] = torch.zeros(3)
    return made


def written(path: Path, state: dict[str, Tensor], *, nested: bool = True) -> Path:
    torch.save({"model": state, "epoch": 3} if nested else state, path)
    return path


def own(path: Path, **settings: Any) -> BLIPModel:
    return build(**{"weights": str(path), "tokenizer": "tiny", **settings})


@pytest.mark.parametrize("form", FORMS)
def test_an_original_checkpoint_equals_the_model_it_came_from(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = random_model(heads=2, vocabulary=420)  # the heads of BLIP are 64 wide
    model.config.text_config.update({"bos_token_id": 418, "sep_token_id": 102, "pad_token_id": 0})
    model.config.vision_config.layer_norm_eps = 1e-6
    for module in model.vision_model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    save(model, tmp_path / "port")
    state = original(model)
    assert "visual_encoder.blocks.3.attn.qkv.weight" in state
    assert "visual_encoder.blocks.0.norm1.bias" in state
    assert "text_decoder.bert.encoder.layer.1.crossattention.self.query.weight" in state
    ours = own(
        written(tmp_path / "model.pth", state, nested=form == "vqa"),
        form=form,
        tokenizer=str(tmp_path / "port"),
    )
    theirs = build(weights=str(tmp_path / "port"), form=form)
    torch.testing.assert_close(ours.vision(pixels(2)), theirs.vision(pixels(2)))
    visual = theirs.vision(pixels(2))
    targets = [{text: 1.0} for text in CAPTIONS]
    torch.testing.assert_close(
        ours.loss(visual[:, None], QUESTIONS[:2], targets),
        theirs.loss(visual[:, None], QUESTIONS[:2], targets),
    )
    assert {m.p for m in ours.text.modules() if isinstance(m, nn.Dropout)} == {0.1}
    # Words, then positions. The row of padding gets no gradient.
    padding = [m.padding_idx for m in ours.text.modules() if isinstance(m, nn.Embedding)]
    assert padding == [0, None] * (len(padding) // 2)
    with torch.device("meta"):
        planned = own(tmp_path / "model.pth", form=form)
    assert [(n, p.shape) for n, p in planned.named_parameters()] == [
        (n, p.shape) for n, p in ours.named_parameters()
    ]


def test_position_embeddings_are_interpolated(tmp_path: Path) -> None:
    """From 8 x 8 to 12 x 12 patches as in transformers; the position of the CLS state stays."""
    model = random_model(heads=2, vocabulary=420)
    path = written(tmp_path / "model.pth", original(model))
    small, large = own(path), own(path, image_size=96)
    assert (large.vision.size, large.vision(torch.zeros(1, 3, 96, 96)).shape) == (
        96,
        (1, 1 + 145, 128),
    )
    embeddings = small.vision.model.embeddings
    want = embeddings.interpolate_pos_encoding(torch.zeros(1, 145, 128), 96, 96)
    torch.testing.assert_close(large.vision.model.embeddings.position_embedding, want)


def test_the_head_of_a_pretraining_checkpoint_is_the_enlarged_one(tmp_path: Path) -> None:
    model = random_model(heads=2, vocabulary=420)
    state = original(model)
    want = state["text_decoder.cls.predictions.decoder.bias"].clone()
    state["text_decoder.cls.predictions.bias"] = want[:-2] + 1
    backbone = own(written(tmp_path / "model.pth", state))
    torch.testing.assert_close(backbone.text.cls.predictions.decoder.bias.data, want)


def test_unusable_checkpoints_name_the_fix(tmp_path: Path) -> None:
    state = original(random_model(heads=2, vocabulary=420))
    del state["text_decoder.cls.predictions.transform.dense.weight"]
    with pytest.raises(UserError, match=r"transform.dense.weight \(1 missing\)"):
        own(written(tmp_path / "a.pth", state))
    state = {
        key: tensor
        for key, tensor in original(random_model(heads=2, vocabulary=420)).items()
        if "text_encoder" not in key
    }
    with pytest.raises(UserError, match="lacks pretrained weights for text_encoder"):
        own(written(tmp_path / "b.pth", state), form="vqa")
    with pytest.raises(UserError, match="is not a checkpoint of BLIP's own layout"):
        own(written(tmp_path / "c.pth", {"weight": torch.zeros(1)}))
    torch.save({"model": state, "hook": Path}, tmp_path / "d.pth")
    with pytest.raises(UserError, match="is not a file of plain tensors"):
        own(tmp_path / "d.pth")
    with pytest.raises(UserError, match=r"cannot read .*none.pth"):
        own(tmp_path / "none.pth")
