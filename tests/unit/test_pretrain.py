"""The tiny pretrained towers: remade byte for byte, loadable offline, and those that are shipped are those described."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from benchmark.datasets.drawing import SHAPES, Scene, Thing, sample_single
from benchmark.datasets.shapes import questions
from benchmark.pretrain import Plan, pretrain_tiny
from benchmark.pretraining_images import PATCH, patches_on, scene_of, truth_of
from benchmark.pretraining_text import easy_questions, sample_dialogue

SHORT = Plan(vit_steps=2, roberta_steps=2, gpt2_steps=2, batch=4, tokenizer_texts=300, held_out=10)
SHIPPED = Path(__file__).resolve().parents[2] / "benchmark" / "backbones" / "tiny"
LIMIT = 6 * 2**20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    pretrain_tiny(out, seed=3, plan=SHORT)
    return out


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    torch.rand(7)  # the caller's random state plays no part
    before = torch.random.get_rng_state()
    pretrain_tiny(tmp_path, seed=3, plan=SHORT)
    assert contents(tmp_path) == contents(made)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_seed_gives_other_weights(made: Path, tmp_path: Path) -> None:
    pretrain_tiny(tmp_path, seed=4, plan=SHORT)
    ours, theirs = contents(tmp_path), contents(made)
    assert all(ours[f"{tower}/model.safetensors"] != theirs[f"{tower}/model.safetensors"] for tower in ("vit", "roberta", "gpt2"))


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


@pytest.mark.parametrize("tower", ["vit", "roberta", "gpt2"])
@pytest.mark.parametrize("shipped", [False, True])
def test_towers_load_whole_and_as_float32(made: Path, tower: str, shipped: bool) -> None:
    folder = (SHIPPED if shipped else made) / tower
    auto = AutoModelForCausalLM if tower == "gpt2" else AutoModel
    model, loading = auto.from_pretrained(folder, output_loading_info=True)
    assert model.dtype == torch.float32
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]


@pytest.mark.parametrize("tower", ["roberta", "gpt2"])
def test_tokenizers_agree_on_words_wherever_they_stand(tower: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / tower)
    for text in ("is there a red circle?", "two shapes with a small teal triangle"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids).strip() == text
    assert tokenizer.decode(tokenizer("naïve ☃ Žluť", add_special_tokens=False)["input_ids"]).strip() == "naïve ☃ Žluť"


def test_every_word_of_both_datasets_is_one_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "roberta")
    words = {word for i in range(300) for word in sample_dialogue(Random(i)).replace("?", " ").replace(".", " ").split()}
    assert {word for word in words if len(tokenizer.tokenize(word)) > 1} == set()


def test_roberta_frames_a_text_and_has_its_special_ids() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "roberta")
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [0, 1, 2, 3, 4]
    ids = tokenizer("a circle")["input_ids"]
    assert (ids[0], ids[-1], len(ids)) == (0, 2, 4)


def test_gpt2_ends_begins_and_pads_with_one_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "gpt2")
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert len(tokenizer("a circle")["input_ids"]) == 2


def test_the_text_covers_the_wording_of_easy_vqa() -> None:
    folder = Path(importlib.import_module("easy_vqa").__file__ or "").parent / "data" / "train"
    theirs = {question for question, _, _ in json.loads((folder / "questions.json").read_text(encoding="utf-8"))}
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
def test_labels_say_what_is_drawn(seed: int) -> None:
    scene = scene_of(0, seed)
    truth = truth_of([scene])
    assert int((truth.kind > 0).sum()) == len(scene.things)
    assert truth.patches.shape == (1, (64 // PATCH) ** 2)
    assert len(set(truth.patches.flatten().tolist()) - {0}) == len(scene.things)


@given(st.integers(-2, 60), st.integers(1, 32))
def test_patches_on_a_thing_are_those_whose_centre_it_covers(start: int, extent: int) -> None:
    covered = [p for p in range(64 // PATCH) if start <= p * PATCH + PATCH // 2 < start + extent]
    found = list(range(64 // PATCH))[patches_on(start, extent)]
    assert found == covered or (not covered and len(found) <= 1)


def test_dialogues_answer_in_the_datasets_words() -> None:
    texts = [sample_dialogue(Random(i)) for i in range(500)]
    known = {q.text for i in range(500) for q in questions(scene_of(0, i))} | {
        q for i in range(99) for q, _ in easy_questions(scene_of(0, i))
    }
    asked = {f"{part}?" for text in texts for sentence in text.split(". ") if "?" in sentence for part in [sentence.split("?")[0]]}
    assert len(asked & known) > 0.8 * len(asked)
    assert any(f"{shape}s are there?" in text for text in texts for shape in SHAPES)
