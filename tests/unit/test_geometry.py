"""The geometry files of known weights: complete, sourced, and equal to what is published."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from transformers import (
    BartForConditionalGeneration,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    GPT2LMHeadModel,
    PreTrainedConfig,
    RobertaForMaskedLM,
    ViTModel,
)
from transformers.models.blip.configuration_blip import BlipTextConfig, BlipVisionConfig

from vlpeft.benchmark.backbones import BACKBONES, geometries
from vlpeft.benchmark.backbones.blip_original import geometry as geometry_of_tensors
from vlpeft.benchmark.backbones.geometries import (
    FOLDER,
    Geometry,
    build_config,
    find_geometry,
    known_models,
    read_geometry,
)
from vlpeft.benchmark.backbones.vision import vision_tower
from vlpeft.benchmark.backbones.weights import WeightSource
from vlpeft.benchmark.contract.sites import count
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError, WeightsError
from vlpeft.benchmark.core.protocol import Protocol

FILES = sorted(FOLDER.rglob("*.json"))
TRANSFORMERS = [path for path in FILES if path.parent.name != "open_clip"]
CAPFILT = "model_base_capfilt_large.pth"
DEFAULT = "the default of transformers"
PARTS = {"text_config": BlipTextConfig, "vision_config": BlipVisionConfig}

# Parameters of each model, and in millions what its authors or its library publish: fairseq's
# README (RoBERTa, BART), names of the files of openai/gpt-2, table 1 of the ViT paper.
COUNTS = [
    ("roberta-base", RobertaForMaskedLM, 124_697_433, 125),
    ("roberta-large", RobertaForMaskedLM, 355_412_057, 355),
    ("facebook/bart-base", BartForConditionalGeneration, 139_420_416, 140),
    ("gpt2", GPT2LMHeadModel, 124_439_808, 124),
    ("gpt2-medium", GPT2LMHeadModel, 354_823_168, 355),
    ("google/vit-base-patch16-224-in21k", ViTModel, 86_389_248, 86),
    ("google/vit-large-patch16-224-in21k", ViTModel, 304_351_232, 307),
    ("Salesforce/blip-image-captioning-base", BlipForConditionalGeneration, 223_971_644, None),
    ("Salesforce/blip-vqa-base", BlipForQuestionAnswering, 361_230_140, None),
    ("Salesforce/blip-vqa-capfilt-large", BlipForQuestionAnswering, 361_230_140, None),
    (CAPFILT, BlipForConditionalGeneration, 223_679_804, None),
    (CAPFILT, BlipForQuestionAnswering, 360_938_300, None),
]


def find(name: str) -> Geometry:
    found = find_geometry("hub", name) or find_geometry("blip", name)
    assert found is not None
    return found


def build(name: str, cls: Any) -> Any:
    with torch.device("meta"):
        return cls(build_config(find(name)))


@pytest.mark.parametrize(("name", "cls", "parameters", "millions"), COUNTS)
def test_each_file_builds_its_model(
    name: str, cls: Any, parameters: int, millions: int | None
) -> None:
    found = count(build(name, cls).parameters())
    assert found == parameters
    if millions is not None:
        assert found / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(("towers", "side"), [(1, 14), (1, 24), (2, 14), (2, 24)])
def test_the_counts_of_blip_follow_from_its_widths(towers: int, side: int) -> None:
    """BLIP's authors publish no counts: ViT-B/16, and one or two BERT with cross-attention."""
    width, inner, words = 768, 3072, 30_524
    square, norm = width * width + width, 2 * width
    mlp = width * inner + inner + inner * width + width
    patches = 3 * 16 * 16 * width + width + (side * side + 2) * width
    vision = patches + 12 * (4 * square + mlp + 2 * norm) + norm
    text = (words + 512) * width + norm + 12 * (8 * square + mlp + 3 * norm)
    head = square + norm + words
    expected = {row[2] for row in COUNTS if row[3] is None}
    assert vision + towers * text + head in expected


def test_every_file_is_counted() -> None:
    assert {name for name, *_ in COUNTS} == {read_geometry(path).model for path in TRANSFORMERS}


def test_rn101_has_the_published_size() -> None:
    """Millions of parameters: docs/model_profile.csv of open_clip."""
    geometry = find_geometry("open_clip", "RN101")
    assert geometry is not None
    with torch.device("meta"):
        model = open_clip.CLIP(**geometry.values())
    assert count(model.parameters()) / 1e6 == pytest.approx(119.69, abs=5e-3)
    assert count(model.visual.parameters()) / 1e6 == pytest.approx(56.26, abs=5e-3)
    assert geometry.values() == open_clip.get_model_config("RN101")


def declared(cls: type[PreTrainedConfig]) -> dict[str, Any]:
    """Return the fields that a class of configurations declares itself, and their defaults."""
    return {name: getattr(cls, name) for name in cls.__annotations__}


def classes(geometry: Geometry) -> dict[str, dict[str, Any]]:
    """Return the declared fields of a configuration, "", and of its parts, by name."""
    own = declared(type(build_config(geometry)))
    found = {part: declared(cls) for part, cls in PARTS.items() if part in own}
    return {"": {name: own[name] for name in own.keys() - found.keys()}, **found}


def by_part(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    whole = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    return {"": whole, **{key: value for key, value in values.items() if key not in whole}}


@pytest.mark.parametrize("path", TRANSFORMERS, ids=lambda path: path.stem)
def test_nothing_is_left_to_a_default(path: Path) -> None:
    geometry = read_geometry(path)
    values = by_part(geometry.values())
    for part, names in classes(geometry).items():
        assert values[part].keys() - {"architectures"} == names.keys(), part


@pytest.mark.parametrize("path", TRANSFORMERS, ids=lambda path: path.stem)
def test_the_configuration_has_the_values(path: Path) -> None:
    geometry = read_geometry(path)
    config = build_config(geometry)
    for part, values in by_part(geometry.values()).items():
        found = getattr(config, part) if part else config
        for name, value in values.items():
            if name != "pooler_output_size":  # None means the width
                assert getattr(found, name) == value, name


@pytest.mark.parametrize("path", TRANSFORMERS, ids=lambda path: path.stem)
def test_values_of_the_library_equal_its_defaults(path: Path) -> None:
    geometry = read_geometry(path)
    defaults = classes(geometry)
    for group in geometry.settings:
        if not group.source.startswith(DEFAULT):
            continue
        for part, values in by_part(group.values).items():
            for name, value in values.items():
                assert defaults[part][name] == value, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_source_names_a_place(path: Path) -> None:
    """A repository with its commit, or a library with its version."""
    for group in read_geometry(path).settings:
        commit = group.source.partition("@")[2].split(" ")[0]
        if not group.source.startswith(DEFAULT):
            assert len(commit) == 40
            assert int(commit, 16)


def test_the_file_of_blip_equals_its_tensors() -> None:
    """`geometry_of_tensors` reads the architecture from a checkpoint; only eps has no shape."""
    state = build(CAPFILT, BlipForConditionalGeneration).state_dict()
    found, expected = geometry_of_tensors(state).to_dict(), build_config(find(CAPFILT)).to_dict()
    # How new weights are drawn is not read: a checkpoint has them.
    del found["vision_config"]["initializer_range"], expected["vision_config"]["initializer_range"]
    assert found == expected


def test_the_papers_towers_are_built_from_the_files(monkeypatch, tmp_path) -> None:
    """A changed value changes what a plan builds."""
    for path in FILES:
        copy = tmp_path / path.relative_to(FOLDER)
        copy.parent.mkdir(exist_ok=True)
        text = path.read_text().replace('"vocab_size": 5', '"vocab_size": 6')
        copy.write_text(text.replace('"image_size": 224', '"image_size": 448').replace("23", "24"))
    monkeypatch.setattr(geometries, "FOLDER", tmp_path)
    with torch.device("meta"):
        source = WeightSource.parse("facebook/bart-base", tiny="bart")
        assert source.model(BartForConditionalGeneration).model.shared.num_embeddings == 60265
        assert vision_tower("google/vit-base-patch16-224-in21k", "cls", tokens=True).size == 448
        tower: Any = vision_tower("open_clip:RN101/openai", "mean", tokens=True)
        assert (tower.size, len(tower.model.layer3)) == (448, 24)
        config = parse(BACKBONES.load("blip"), {"weights": CAPFILT, "image_size": 448}, "blip")
        blip = config.build((), Protocol(lr=1e-3, steps=1))
        assert blip.vision.size == 448


def write(folder: Path, content: Mapping[str, Any] | str) -> Path:
    """Write a file in the place of gpt2's."""
    path = folder / "gpt2.json"
    if not isinstance(content, str):
        content = json.dumps(content)
    path.write_text(content)
    return path


def changed(**values: Any) -> dict[str, Any]:
    return {**json.loads((FOLDER / "hub" / "gpt2.json").read_text()), **values}


def added(values: Mapping[str, Any], source: str = "here") -> dict[str, Any]:
    content = changed()
    content["settings"].append({"source": source, "values": values})
    return content


DAMAGED = {
    "unknown key": (changed(modle="gpt2"), "unknown key 'modle'; did you mean 'model'?"),
    "missing key": ({"model": "gpt2"}, "'library' is required"),
    "unknown library": (changed(library="fairseq"), "library"),
    "no source": (added({}, source=""), "settings[3].source"),
    "unknown value": (added({"n_embed": 768}), "has no argument `n_embed`"),
    "part of nothing": (added({"text_config": {"n_embd": 768}}), "`text_config`"),
    "wrong type": (added({"sep_token_id": "two"}), "sep_token_id"),
    "two sources": (added({"n_embd": 768}), "n_embd has two sources"),
    "another model": (changed(model="gpt2-medium"), "gpt2-medium is not gpt2"),
    "unknown kind": (changed(type="gpt22"), "gpt22"),
    "not JSON": ("{", "damaged"),
    "a list": ("[1]", "expected a mapping"),
    "not UTF-8": ("\ud800", "damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(name: str, tmp_path) -> None:
    content, words = DAMAGED[name]
    if name == "not UTF-8":
        (path := tmp_path / "gpt2.json").write_bytes(b"\xff{}")
    else:
        path = write(tmp_path, content)
    with pytest.raises((UserError, WeightsError)) as refused:
        read_geometry(path)
    message = str(refused.value)
    assert str(path) in message
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"embed_dims": 512}, "`embed_dims`"),
        ({"vision_cfg": {"layer": [1]}}, "`vision_cfg.layer`"),
        ({"text_cfg": {"depth": 1}}, "`text_cfg.depth`"),
    ],
)
def test_an_unknown_value_of_open_clip_is_refused(values, words: str, tmp_path) -> None:
    content = {"model": "gpt2", "library": "open_clip", "type": "clip"}
    path = write(tmp_path, {**content, "settings": [{"source": "here", "values": values}]})
    with pytest.raises(UserError, match=words) as refused:
        read_geometry(path)
    assert str(path) in str(refused.value)


def test_other_names_have_no_geometry() -> None:
    for name in ("gpt3", "facebook--bart-base", "../hub/gpt2", "x" * 5000, "\0", ""):
        assert find_geometry("hub", name) is None
    assert "facebook/bart-base" in known_models("hub")


def test_a_copy_is_given_out() -> None:
    find("gpt2").values()["n_embd"] = 1
    blip = find(CAPFILT)
    blip.values()["text_config"]["hidden_size"] = 1
    assert (find("gpt2").values()["n_embd"], blip.values()["text_config"]["hidden_size"]) == (
        768,
        768,
    )


def test_the_files_are_in_the_wheel() -> None:
    """A wheel holds the files of benchmark/ that git does not ignore."""
    root = Path(__file__).parents[2]
    assert len(FILES) == 12
    names = [str(root / "benchmark" / path.relative_to(FOLDER.parents[1])) for path in FILES]
    command = ["git", "-C", root, "check-ignore", *names]
    ignored = subprocess.run(command, capture_output=True, check=False)
    assert (ignored.returncode, ignored.stdout) == (1, b"")
