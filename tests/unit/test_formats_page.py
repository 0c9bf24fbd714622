"""The examples of docs/formats.md are complete datasets, and the page names every key."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from PIL import Image

from vlpeft.benchmark.core.config import load_yaml
from vlpeft.benchmark.datasets import ABOUT, FORMATS, load_spec
from vlpeft.benchmark.datasets.base import read_examples

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.DOTALL))
COMMON = "Keys of every format"


def write_examples(folder: Path, section: str) -> list[Path]:
    """Write the files of a section, draw its images, and return its YAML files."""
    for title, text in re.findall(
        r'```\w+ title="([^"]+)"\n(.*?)```', SECTIONS[section], re.DOTALL
    ):
        if title != "images":
            (folder / title).write_text(text)
            continue
        for name in text.split():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(folder / name)
    return sorted(folder.glob("*.yaml"))


def test_every_format_has_a_section() -> None:
    assert set(SECTIONS) == {COMMON, *FORMATS.entries}


@pytest.mark.parametrize("name", FORMATS.entries)
def test_the_examples_pass_the_check(name: str, tmp_path: Path, vlpeft) -> None:
    made = write_examples(tmp_path, name)
    assert made
    for path in made:
        assert load_yaml(path)["format"] == name
        code, _, messages = vlpeft("data", "check", path, "--images")
        assert code == 0, messages
        assert "error" not in messages
        spec = load_spec(str(path))
        data = spec.open()
        for split in data.splits():
            for task in data.tasks:
                assert read_examples(data, task, split)


def layouts(name: str) -> set[str]:
    hint = get_type_hints(FORMATS.load(name)).get("layout")
    return set(get_args(hint))


@pytest.mark.parametrize("name", FORMATS.entries)
def test_every_key_is_named(name: str) -> None:
    cls = FORMATS.load(name)
    keys = {each.name for each in fields(cls)} - {"root"}
    hints = get_type_hints(cls)
    for inner in get_args(hints.get("files")):
        if is_dataclass(inner):
            keys |= {each.name for each in fields(inner)}
    named = set(re.findall(r"`([a-z_0-9]+)(?:: [^`]*)?`", SECTIONS[name]))
    assert keys - named == set()
    assert layouts(name) - named == set()


def test_every_common_key_is_named() -> None:
    named = set(re.findall(r"`([a-z_0-9]+)`", SECTIONS[COMMON]))
    assert {*ABOUT, "root"} - named == set()
