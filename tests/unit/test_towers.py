"""Towers and tokenizers that do not fit, and damaged weights: found when a sweep is planned."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.conftest import ANSWERS, Case
from vlpeft.baselines.head_only import HeadOnly
from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.backbones.blip_original import load_original
from vlpeft.benchmark.backbones.files import check_folder, read_shapes
from vlpeft.benchmark.backbones.weights import WeightSource
from vlpeft.benchmark.contract.backbone import TINY, Backbone
from vlpeft.benchmark.contract.fit import check_fit
from vlpeft.benchmark.contract.method import apply
from vlpeft.benchmark.contract.texts import Room, count_cut
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError, WeightsError
from vlpeft.benchmark.core.protocol import Protocol

TEXT = {"vit_roberta": "roberta", "vit_gpt2": "gpt2", "clip_bart": "bart"}
Change = Callable[[Path], object]


def plan(name: str, folder: Path, setting: str = "text", **recipe: Any) -> Backbone:
    """Build on the meta device and check, as a plan does."""
    values: dict[str, Any] = {"text": "tiny", "vision": "tiny"}
    if name == "blip":
        values = {"image_size": 64}
    values[setting] = str(folder)
    config = parse(BACKBONES.load(name), values, "test")
    with torch.device("meta"):
        backbone = config.build(("yes", "no"), Protocol(lr=1e-3, steps=1, **recipe))
        apply(HeadOnly(), backbone)
    check_fit(backbone)
    return backbone


def copy(tower: str, folder: Path) -> Path:
    return Path(shutil.copytree(TINY / tower, folder / tower))


def edit(folder: Path, name: str = "config.json", **values: Any) -> None:
    content = json.loads((folder / name).read_text())
    content.update(values)
    (folder / name).write_text(json.dumps(content))


def drop(folder: Path, key: str) -> None:
    content = json.loads((folder / "config.json").read_text())
    del content[key]
    (folder / "config.json").write_text(json.dumps(content))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", [*TEXT, "blip"])
def test_a_tokenizer_larger_than_the_table_is_refused(name: str, tmp_path: Path) -> None:
    folder = copy(TEXT.get(name, "blip"), tmp_path)
    setting = "weights" if name == "blip" else "text"
    rows = plan(name, folder, setting).vocabulary
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"word{i}" for i in range(rows)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(WeightsError, match=rf"tokens, and the embedding of the model has {rows} r"):
        plan(name, folder, setting)


@pytest.mark.parametrize("eos", ["absent", None, [0, 1], 50256])
def test_the_end_token_of_gpt2_is_that_of_the_tokenizer(eos: Any, tmp_path: Path) -> None:
    folder = copy("gpt2", tmp_path)
    if eos == "absent":
        drop(folder, "eos_token_id")
    else:
        edit(folder, eos_token_id=eos)
    assert plan("vit_gpt2", folder).end == AutoTokenizer.from_pretrained(folder).eos_token_id


def test_a_tokenizer_without_end_token_is_refused(tmp_path: Path) -> None:
    folder = copy("gpt2", tmp_path)
    edit(folder, "tokenizer_config.json", eos_token=None)
    with pytest.raises(WeightsError, match="its tokenizer has no eos_token; set it in"):
        plan("vit_gpt2", folder)


@pytest.mark.parametrize(
    ("name", "tower", "values", "message"),
    [
        ("clip_bart", "bart", {"decoder_start_token_id": 7}, "neither the begin token"),
        ("clip_bart", "bart", {"decoder_start_token_id": None}, "neither the begin token"),
        ("vit_roberta", "roberta", {"pad_token_id": 3}, "pads with token 1, and config.json has"),
        ("vit_roberta", "roberta", {"pad_token_id": None}, "pads with token 1, and config.json"),
    ],
)
def test_ids_that_contradict_the_tokenizer_are_refused(
    name: str, tower: str, values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = copy(tower, tmp_path)
    edit(folder, **values)
    with pytest.raises(WeightsError, match=message):
        plan(name, folder)


@pytest.mark.parametrize("start", [None, [1], 10_000, 20])
def test_blip_refuses_a_start_that_is_an_ordinary_word(start: Any, tmp_path: Path) -> None:
    folder = copy("blip", tmp_path)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder, text_config={**text, "bos_token_id": start})
    with pytest.raises(WeightsError, match=r"\[DEC\]|bos_token_id"):
        plan("blip", folder, "weights")


def test_blip_reads_its_end_from_the_tokenizer(tmp_path: Path) -> None:
    folder = copy("blip", tmp_path)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder, text_config={**text, "sep_token_id": 102, "pad_token_id": 0})
    backbone = plan("blip", folder, "weights")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (backbone.end, backbone.pad) == (tokenizer.sep_token_id, tokenizer.pad_token_id)


@pytest.mark.parametrize(
    ("name", "fits", "more"),
    [
        ("vit_roberta", {"max_input_tokens": 128}, {"max_input_tokens": 129}),
        ("vit_gpt2", {"max_output_tokens": 127}, {"max_output_tokens": 128}),
        ("vit_gpt2", {"max_generated_tokens": 127}, {"max_generated_tokens": 128}),
        ("clip_bart", {"max_input_tokens": 128}, {"max_input_tokens": 129}),
        ("clip_bart", {"max_generated_tokens": 127}, {"max_generated_tokens": 128}),
    ],
)
def test_texts_longer_than_the_positions_are_refused(
    name: str, fits: dict[str, int], more: dict[str, int]
) -> None:
    plan(name, Path("tiny"), **fits)
    with pytest.raises(WeightsError, match=r"may need 129 positions, tiny has 128; lower them"):
        plan(name, Path("tiny"), **more)


def pop_pooler(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["pooler.dense.weight"]


def wrong_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["encoder.layer.0.output.dense.weight"] = torch.zeros(3, 4)


def whole_numbers(tensors: dict[str, torch.Tensor]) -> None:
    key = "encoder.layer.0.output.dense.weight"
    tensors[key] = tensors[key].to(torch.int8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pop_pooler, "lacks pretrained weights for pooler.dense.weight"),
        (wrong_shape, r"has shape \(3, 4\), and config.json says"),
        (whole_numbers, "has the type I8; weights are F64"),
    ],
)
def test_tensors_are_checked_by_the_header(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, tmp_path: Path
) -> None:
    folder = copy("vit", tmp_path)
    plan("vit_roberta", folder, "vision")
    rewrite(folder, change)
    with pytest.raises(WeightsError, match=message):
        plan("vit_roberta", folder, "vision")


def test_shards_are_checked_by_their_headers(tmp_path: Path) -> None:
    folder = copy("vit", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in halves.items():
        save_file({name: tensors[name] for name in some}, folder / file)
    places = {name: file for file, some in halves.items() for name in some}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    plan("vit_roberta", folder, "vision")
    assert read_shapes(folder).keys() == tensors.keys()
    (folder / "b.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"cannot read .*b.safetensors: No such file"):
        plan("vit_roberta", folder, "vision")
    for broken in ({"weight_map": []}, {}, {"weight_map": {"x": "../a.safetensors"}}):
        index.write_text(json.dumps(broken))
        with pytest.raises(WeightsError, match=r"index.json: "):
            plan("vit_roberta", folder, "vision")


def write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, size: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def replaced(name: str, make: Change) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


DAMAGES: dict[str, Change] = {
    "config null": write("config.json", b"null"),
    "config list": write("config.json", b"[1]"),
    "config cut": cut("config.json", 40),
    "config not UTF-8": write("config.json", b"\xff\xfe"),
    "config deep": write("config.json", b"[" * 100_000),
    "config absent": lambda folder: (folder / "config.json").unlink(),
    "config of other types": lambda folder: edit(folder, hidden_size="wide"),
    "config negative": lambda folder: edit(folder, num_attention_heads=0),
    "config of a billion layers": lambda folder: edit(folder, num_hidden_layers=10**9),
    "quantized": lambda folder: edit(folder, quantization_config={"load_in_8bit": True}),
    "kernel": lambda folder: edit(folder, attn_implementation="org/kernel"),
    "config a folder": replaced("config.json", Path.mkdir),
    "config a FIFO": replaced("config.json", os.mkfifo),
    "config a link to itself": replaced("config.json", lambda path: path.symlink_to(path)),
    "weights empty": write("model.safetensors", b""),
    "weights cut": cut("model.safetensors", 5000),
    "weights with a huge header": write("model.safetensors", b"\xff" * 100),
    "weights with a bad header": write("model.safetensors", bytes([8, *[0] * 7]) + b"{'x': 1}"),
    "weights a folder": replaced("model.safetensors", Path.mkdir),
    "weights a FIFO": replaced("model.safetensors", os.mkfifo),
    "weights absent": lambda folder: (folder / "model.safetensors").unlink(),
    "tokenizer cut": cut("tokenizer.json", 500),
    "tokenizer null": write("tokenizer.json", b"null"),
    "tokenizer of wrong types": write("tokenizer.json", b'{"model": 3}'),
    "tokenizer a FIFO": replaced("tokenizer.json", os.mkfifo),
    "tokenizer config list": write("tokenizer_config.json", b"[]"),
    "an adapter of peft": write("adapter_config.json", b"{}"),
    "preprocessor list": write("preprocessor_config.json", b"[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_one_line_that_names_them(damage: str, tmp_path: Path) -> None:
    folder = copy("roberta", tmp_path)
    DAMAGES[damage](folder)
    with pytest.raises(WeightsError) as caught:
        plan("vit_roberta", folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hf download" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_mean": [0.5, 0.5]}, "image_mean must be three numbers"),
        ({"image_std": [0.5, 0, 0.5]}, r"image_std: .* must be above 0"),
        ({"image_mean": None}, "image_mean must be three numbers"),
        ({"image_mean": ["a", 1, 2]}, "image_mean must be three numbers"),
    ],
)
def test_a_damaged_preprocessor_is_refused(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = copy("vit", tmp_path)
    edit(folder, "preprocessor_config.json", **values)
    with pytest.raises(WeightsError, match=message):
        plan("vit_roberta", folder, "vision")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_a_checkpoint_is_refused_and_never_run(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy("roberta", tmp_path)
    edit(folder, name, auto_map={"AutoConfig": "evil.C", "AutoTokenizer": ["evil.C", None]})
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(ran)!r}).touch()\nC = 1\n")
    for build in (plan, lambda _, folder: WeightSource.parse(str(folder), "roberta").config()):
        with pytest.raises(WeightsError, match="`auto_map` names Python code of the checkpoint"):
            build("vit_roberta", folder)
    assert not ran.exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names nothing; write a hub id, a folder"),
        ("random:", "names nothing"),
        ("@main", "names nothing"),
        ("/etc/passwd", "not a folder; give the folder that holds config.json"),
        ("/no/such/folder", "no such folder; fix the path"),
        ("roberta base", r"did you mean 'roberta-base'\?"),
        ("some words of mine", "neither a folder here nor a name that the hub allows"),
        ("a\0b", "neither a folder here nor a name that the hub allows"),
        ("x" * 5000, "neither a folder here nor a name that the hub allows"),
    ],
)
def test_values_that_name_no_weights(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        WeightSource.parse(text, tiny="roberta").config()
    assert "hf download some" not in str(caught.value)


def test_a_checked_folder_is_accepted() -> None:
    for tower in ("roberta", "gpt2", "bart", "blip", "vit"):
        check_folder(TINY / tower)
        assert read_shapes(TINY / tower)


def test_cut_texts_are_counted_with_repeats() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY / "gpt2")
    short, long = "a red circle", "a red circle " * 10
    assert count_cut(tokenizer, [short, long, long], Room(10, special=True)) == (2, 3)
    assert count_cut(tokenizer, [], Room(10, special=True)) == (0, 0)


@pytest.mark.parametrize(
    ("name", "settings", "one", "two", "target"),
    [
        ("vit_roberta", {}, (19, True), (18, True), None),
        ("vit_roberta", {"prefix": "none"}, (20, True), (20, True), None),
        ("clip_bart", {}, (20, True), (20, True), (10, True)),
        ("vit_gpt2", {}, (20, True), (20, True), (9, True)),
        ("blip", {}, (20, False), (20, False), (9, False)),
        ("blip", {"form": "vqa"}, (18, False), (18, False), (9, False)),
    ],
)
def test_the_room_for_texts_with_one_image_and_with_two(
    name: str,
    settings: dict[str, Any],
    one: tuple[int, bool],
    two: tuple[int, bool],
    target: tuple[int, bool] | None,
) -> None:
    """Of 20 input and 10 output tokens: a prefix and special tokens take places."""
    case = Case("head_only", name, {}, settings)
    recipe = replace(case.protocol, max_input_tokens=20, max_output_tokens=10)
    backbone = case.config.build(ANSWERS, recipe)
    assert (backbone.input_room(1), backbone.input_room(2)) == (one, two)
    assert backbone.target_room() == target


PICKLED: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello\n"),
    "a list": lambda path: torch.save([1], path),
    "an inner list": lambda path: torch.save({"model": [1]}, path),
    "numbers": lambda path: torch.save({"model": {1: 2}}, path),
    "other tensors": lambda path: torch.save({"weight": torch.zeros(1)}, path),
    "a view": lambda path: torch.save({"weight": torch.zeros(1).expand(10**9)}, path),
    "a folder": Path.mkdir,
    "a FIFO": os.mkfifo,
}


@pytest.mark.parametrize("kind", PICKLED)
def test_damaged_files_of_blip_are_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    PICKLED[kind](path)
    with torch.device("meta"), pytest.raises(WeightsError) as caught:
        load_original(path, "decoder")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_packed_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**7))
    with pytest.raises(WeightsError, match="its content is larger than the file"):
        load_original(path, "decoder")
