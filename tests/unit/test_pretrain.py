"""The tiny pretrained towers: reproducible byte for byte, loadable offline, and as documented."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BartForConditionalGeneration,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    ViTModel,
)

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.datasets.drawing import SHAPES, Scene, Thing, sample_single
from vlpeft.benchmark.datasets.questions import questions
from vlpeft.benchmark.pretraining import towers
from vlpeft.benchmark.pretraining.batches import (
    MASK,
    PROMPT,
    make_blind_batch,
    make_caption_batch,
    make_infilling_batch,
)
from vlpeft.benchmark.pretraining.common import HELD_OUT, TrainingSchedule
from vlpeft.benchmark.pretraining.images import (
    IGNORED,
    PATCH,
    draw_scene,
    patches_on,
    pixel_values,
    scene_labels,
)
from vlpeft.benchmark.pretraining.text import easy_questions, sample_dialogue
from vlpeft.benchmark.pretraining.towers import TOWERS, pretrain_tiny

SHORT = TrainingSchedule(
    vit_steps=2,
    roberta_steps=2,
    gpt2_steps=2,
    blip_steps=2,
    bart_steps=2,
    batch=4,
    tokenizer_texts=300,
    held_out=10,
)
SHIPPED = Path(__file__).resolve().parents[2] / "benchmark" / "backbones" / "tiny"
LIMIT = 10_000_000
CLASSES = {
    "gpt2": AutoModelForCausalLM,
    "blip": BlipForQuestionAnswering,
    "bart": BartForConditionalGeneration,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    pretrain_tiny(out, seed=3, plan=SHORT)
    return out


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_the_same_seed_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    torch.rand(7)  # the random state of the caller does not matter
    before = torch.random.get_rng_state()
    pretrain_tiny(tmp_path, seed=3, plan=SHORT)
    assert contents(tmp_path) == contents(made)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_seed_gives_other_weights(made: Path, tmp_path: Path) -> None:
    pretrain_tiny(tmp_path, seed=4, plan=SHORT)
    ours, theirs = contents(tmp_path), contents(made)
    assert all(
        ours[f"{tower}/model.safetensors"] != theirs[f"{tower}/model.safetensors"]
        for tower in TOWERS
    )


def test_a_single_tower_is_the_same_and_the_others_stay(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for tower in ("blip", "bart"):
        shutil.rmtree(tmp_path / tower)
    pretrain_tiny(tmp_path, seed=3, plan=SHORT, only=("blip", "bart"))
    assert contents(tmp_path) == contents(made)


def test_blip_uses_the_shipped_image_tower_by_default(tmp_path: Path) -> None:
    pretrain_tiny(tmp_path, seed=3, plan=SHORT, only=("blip",))
    assert {path.name for path in tmp_path.iterdir()} == {"blip", "manifest.json"}
    assert_same_vision(ViTModel.from_pretrained(SHIPPED / "vit"), tmp_path / "blip")


def test_unknown_towers_and_mixed_seeds_are_errors(made: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'bart'"):
        pretrain_tiny(made, seed=3, plan=SHORT, only=("brat",))
    with pytest.raises(UserError, match="seed 3"):
        pretrain_tiny(made, seed=4, plan=SHORT, only=("bart",))


def test_a_manifest_never_speaks_for_towers_of_other_versions_or_plans(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="another training schedule"):
        pretrain_tiny(made, seed=3, plan=TrainingSchedule(), only=("bart",))
    monkeypatch.setattr(towers, "version", lambda name: "0.1")
    with pytest.raises(UserError, match="other versions"):
        pretrain_tiny(made, seed=3, plan=SHORT, only=("bart",))


def described(folder: Path) -> dict[str, str]:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


@pytest.mark.parametrize("shipped", [False, True])
def test_the_manifest_lists_every_file_with_its_checksum(made: Path, shipped: bool) -> None:
    folder = SHIPPED if shipped else made
    found = contents(folder)
    del found["manifest.json"]
    assert found == described(folder)


def test_shipped_towers_are_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < LIMIT


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("shipped", [False, True])
def test_towers_load_whole_and_as_float32(made: Path, tower: str, shipped: bool) -> None:
    folder = (SHIPPED if shipped else made) / tower
    model, loading = CLASSES.get(tower, AutoModel).from_pretrained(folder, output_loading_info=True)
    assert model.dtype == torch.float32
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]


def test_blip_also_loads_for_captioning_whole() -> None:
    model, loading = BlipForConditionalGeneration.from_pretrained(
        SHIPPED / "blip", output_loading_info=True
    )
    assert model.dtype == torch.float32
    assert not loading["missing_keys"]
    assert all(key.startswith("text_encoder.") for key in loading["unexpected_keys"])


def assert_same_vision(vit: ViTModel, blip: Path) -> None:
    pixels = pixel_values([draw_scene(0, HELD_OUT + i) for i in range(8)])
    with torch.no_grad():
        ours = (
            BlipForQuestionAnswering.from_pretrained(blip)
            .vision_model(pixel_values=pixels)
            .last_hidden_state
        )
        theirs = vit(pixel_values=pixels).last_hidden_state
    assert (ours - theirs).abs().max() < 1e-5


def test_blip_sees_what_vit_sees() -> None:
    assert_same_vision(ViTModel.from_pretrained(SHIPPED / "vit"), SHIPPED / "blip")


def test_blips_text_encoder_is_a_copy_of_its_decoder() -> None:
    model = BlipForQuestionAnswering.from_pretrained(SHIPPED / "blip")
    theirs = model.text_decoder.bert.state_dict()
    assert all(
        torch.equal(value, theirs[name]) for name, value in model.text_encoder.state_dict().items()
    )


def test_blip_captions_the_image_it_is_given() -> None:
    metrics = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))["metrics"]["blip"]
    model, tokenizer = (
        BlipForQuestionAnswering.from_pretrained(SHIPPED / "blip"),
        AutoTokenizer.from_pretrained(SHIPPED / "blip"),
    )
    scenes = [draw_scene(0, HELD_OUT + i) for i in range(100)]
    ids, labels = make_caption_batch(tokenizer, "test", scenes)
    with torch.no_grad():
        states = model.vision_model(pixel_values=pixel_values(scenes)).last_hidden_state
        logits = [
            model.text_decoder(input_ids=ids, encoder_hidden_states=seen).logits
            for seen in (states, states.roll(1, 0))
        ]
    right, wrong = (
        F.cross_entropy(x[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).exp().item()
        for x in logits
    )
    assert right == pytest.approx(metrics["caption_perplexity"], rel=0.1)
    assert wrong > 2 * right


def test_bart_answers_from_a_text() -> None:
    model, tokenizer = (
        BartForConditionalGeneration.from_pretrained(SHIPPED / "bart"),
        AutoTokenizer.from_pretrained(SHIPPED / "bart"),
    )
    for thing in ("red circle", "blue triangle", "green rectangle"):
        color, shape = thing.split()
        source = tokenizer(
            f"there is a {thing}. what shape is present?<mask>. what color is the {shape}?<mask>",
            return_tensors="pt",
        )
        text = tokenizer.decode(
            model.generate(**source, max_new_tokens=40, num_beams=1)[0], skip_special_tokens=True
        )
        assert (
            text.strip() == f"there is a {thing}. what shape is present? {shape}. "
            f"what color is the {shape}? {color}"
        )


def test_infilling_hides_each_answer_behind_one_mask() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "bart")
    batch = make_infilling_batch(tokenizer, "test", 50, answers_only=True)
    assert torch.equal(batch.hidden, batch.answers)
    for source, label, answers in zip(batch.sources, batch.labels, batch.answers, strict=True):
        assert (
            source[source != 1].tolist()
            == label.masked_fill(answers, MASK)[label != IGNORED].tolist()
        )
    assert all(tokenizer.decode(word).strip().isalnum() for word in batch.labels[batch.answers])


def test_infilling_hides_spans_but_never_the_frame() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "bart")
    batch = make_infilling_batch(tokenizer, "test", 200)
    paired = ~batch.answers.any(1)
    share = batch.hidden[paired].sum() / (batch.labels[paired] > MASK).sum()
    assert 0.2 < paired.float().mean() < 0.6
    assert 0.25 < share < 0.5
    assert (batch.labels[batch.hidden] > MASK).all()
    assert not ((batch.sources[:, 1:] == MASK) & (batch.sources[:, :-1] == MASK)).any()
    for source, label, hidden in zip(batch.sources, batch.labels, batch.hidden, strict=True):
        assert (
            source[(source != 1) & (source != MASK)].tolist()
            == label[~hidden & (label != IGNORED)].tolist()
        )


def test_blips_captions_leave_the_prompt_out_and_its_texts_go_without_image() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "blip")
    ids, labels = make_caption_batch(tokenizer, "test", [draw_scene(0, i) for i in range(30)])
    for row, label in zip(ids, labels, strict=True):
        text = tokenizer.decode(row[row != tokenizer.pad_token_id])
        assert text.startswith(f"[DEC] {PROMPT} ")
        assert text.endswith("[SEP]")
        assert tokenizer.decode(label[label != IGNORED]) == text.removeprefix(f"[DEC] {PROMPT}")
        assert "?" not in text
    ids, labels = make_blind_batch(tokenizer, "test", 100)
    texts = tokenizer.batch_decode(ids)
    assert 0.1 < sum("?" in text.split(". ")[0] for text in texts) / len(texts) < 0.5


@pytest.mark.parametrize("tower", ["roberta", "gpt2", "blip", "bart"])
def test_tokenizers_agree_on_words_at_any_position(tower: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / tower)
    for text in ("is there a red circle?", "two shapes with a small teal triangle"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids).strip() == text
    assert (
        tokenizer.decode(tokenizer("naïve ☃ Žluť", add_special_tokens=False)["input_ids"]).strip()
        == "naïve ☃ Žluť"
    )


def test_every_word_of_both_datasets_is_one_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "roberta")
    words = {
        word
        for i in range(300)
        for word in sample_dialogue(Random(i)).replace("?", " ").replace(".", " ").split()
    }
    assert {word for word in words if len(tokenizer.tokenize(word)) > 1} == set()


def test_roberta_frames_a_text_and_has_its_special_ids() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "roberta")
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [
        0,
        1,
        2,
        3,
        4,
    ]
    ids = tokenizer("a circle")["input_ids"]
    assert (ids[0], ids[-1], len(ids)) == (0, 2, 4)


def test_blip_has_its_special_ids_and_frames_nothing() -> None:
    tokenizer, config = (
        AutoTokenizer.from_pretrained(SHIPPED / "blip"),
        AutoConfig.from_pretrained(SHIPPED / "blip").text_config,
    )
    assert len(tokenizer("a circle")["input_ids"]) == 2
    assert (tokenizer.bos_token, tokenizer.sep_token, tokenizer.pad_token) == (
        "[DEC]",
        "[SEP]",
        "[PAD]",
    )
    theirs = (config.bos_token_id, config.sep_token_id, config.eos_token_id, config.pad_token_id)
    assert (
        theirs
        == tuple(tokenizer.convert_tokens_to_ids(["[DEC]", "[SEP]", "[SEP]", "[PAD]"]))
        == (0, 2, 2, 1)
    )
    assert config.vocab_size == len(tokenizer)


def test_gpt2_ends_begins_and_pads_with_one_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "gpt2")
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert len(tokenizer("a circle")["input_ids"]) == 2


def test_the_text_covers_the_wording_of_easy_vqa() -> None:
    folder = Path(importlib.import_module("easy_vqa").__file__ or "").parent / "data" / "train"
    theirs = {
        question
        for question, _, _ in json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    }
    ours = {text for i in range(500) for text, _ in easy_questions(sample_single(Random(i)))}
    assert theirs == ours


def test_easy_questions_are_answered_from_the_scene() -> None:
    scene = Scene((255, 255, 255), None, (Thing("blue", "triangle", "", 5, 5, 9, 8),))
    truth = dict(easy_questions(scene))
    assert truth["is no blue shape present?"] == "no"
    assert truth["is there not a circle in the image?"] == "yes"
    assert truth["what is the blue shape?"] == "triangle"
    assert truth["what is the color of the triangle?"] == "blue"


@given(st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_labels_describe_the_drawing(seed: int) -> None:
    scene = draw_scene(0, seed)
    truth = scene_labels([scene])
    assert int((truth.kind > 0).sum()) == len(scene.things)
    assert truth.patches.shape == (1, (64 // PATCH) ** 2)
    assert len(set(truth.patches.flatten().tolist()) - {0}) == len(scene.things)


@given(st.integers(-2, 60), st.integers(1, 32))
def test_a_thing_owns_the_patches_whose_centre_it_covers(start: int, extent: int) -> None:
    covered = [p for p in range(64 // PATCH) if start <= p * PATCH + PATCH // 2 < start + extent]
    found = list(range(64 // PATCH))[patches_on(start, extent)]
    assert found == covered or (not covered and len(found) <= 1)


def test_dialogues_answer_in_the_datasets_words() -> None:
    texts = [sample_dialogue(Random(i)) for i in range(500)]
    known = {q.text for i in range(500) for q in questions(draw_scene(0, i))} | {
        q for i in range(99) for q, _ in easy_questions(draw_scene(0, i))
    }
    asked = {
        f"{part}?"
        for text in texts
        for sentence in text.split(". ")
        if "?" in sentence
        for part in [sentence.split("?")[0]]
    }
    assert len(asked & known) > 0.8 * len(asked)
    assert any(f"{shape}s are there?" in text for text in texts for shape in SHAPES)


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"[" * 10**5, b"\xff\xfe", b"{", b'{"seed": "a"}']
)
def test_a_damaged_manifest_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json") as error:
        pretrain_tiny(tmp_path, 0, SHORT, only=["vit"])
    assert "\n" not in str(error.value)


def test_a_file_in_place_of_the_folder_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="choose a folder"):
        pretrain_tiny(tmp_path / "out", 0, SHORT, only=["vit"])
