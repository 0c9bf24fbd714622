"""A sweep with a method, a protocol and published numbers in the user's own folder."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import RUN, SHAPES, vlpeft
from vlpeft.benchmark.contract import METHODS

HELPER = "FACTOR = 0.5\n"
SWEEP = """
title: Mine
plugins: [own_method.py]
protocol: own_protocol.yaml
tasks: [{task: vqa, dataset: small_shapes.yaml}]
backbones: [{name: vit_roberta, text: tiny, vision: tiny}]
methods: [{name: own_scale, vary: {one: [true, false]}}, head_only]
"""
PROTOCOL = """
summary: A short recipe.
base: own_base.yaml
defaults: {lr: 1e-2}
"""
BASE = """
defaults: {lr: 1e-3, steps: 3, batch_size: 4, train_limit: 8, eval_limit: 6}
"""
PUBLISHED = """
paper: A paper
table: Table 1
sources: {paper: {url: "https://example.org", primary: true, read: by hand}}
tolerance: one point
columns:
  - {name: VQA, metric: VQA accuracy, task: vqa/small_shapes, measured: vqa_accuracy, tolerance: 1.0}
groups:
  - name: tiny
    backbone: vit_roberta
    rows:
      - {name: head, method: head_only, values: [40.0]}
"""  # noqa: E501


@pytest.fixture(scope="module")
def method() -> str:
    """The README's method, whose file needs another file of its folder."""
    page = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = page.partition('```python title="sublayer_scale.py"\n')[2].partition("```")[0]
    assert '@register("sublayer_scale"' in text
    text = text.replace("import torch\n", "import torch\nfrom own_helper import FACTOR\n", 1)
    return text.replace('"sublayer_scale"', '"own_scale"')


@pytest.fixture
def folder(tmp_path: Path, method: str) -> Iterator[Path]:
    (tmp_path / "own_helper.py").write_text(HELPER)
    (tmp_path / "own_method.py").write_text(method)
    (tmp_path / "own_protocol.yaml").write_text(PROTOCOL)
    (tmp_path / "own_base.yaml").write_text(BASE)
    (tmp_path / "small_shapes.yaml").write_text(SHAPES)
    (tmp_path / "paper.yaml").write_text(PUBLISHED)
    (tmp_path / "mine.yaml").write_text(SWEEP)
    yield tmp_path
    for name in ("own_method", "own_helper"):
        sys.modules.pop(name, None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))
    METHODS._added.clear()
    METHODS._loaded.pop("own_scale", None)
    vars(METHODS).pop("entries", None)


@pytest.mark.parametrize("way", ["inline", "local"])
def test_a_plugin_runs_everywhere(folder: Path, way: str) -> None:
    root = folder / "runs" / "mine"
    done = vlpeft("sweep", folder / "mine.yaml", "--root", root, "--on", way, *RUN)
    assert done.code == 0, done.err
    plan = json.loads((root / "sweeps" / "mine.json").read_text())
    trained = {row["row"]: row["trainable"] - row["head"] for row in plan["cells"]}
    assert trained == {
        "own_scale (one=true)": 6, "own_scale (one=false)": 3 * 2 * 128, "head_only": 0
    }  # fmt: skip
    cell = plan["cells"][0]
    assert cell["cell"]["plugins"] == [str(folder / "own_method.py")]
    assert cell["cell"]["protocol"]["name"] == "own_protocol"
    assert (cell["cell"]["protocol"]["lr"], cell["cell"]["protocol"]["steps"]) == (1e-2, 3)
    assert "own_scale" in vlpeft("table", root).out


def test_code_of_a_plugin_counts(folder: Path) -> None:
    """As for every method: a record knows the code of the file, and of what it imports."""
    root = folder / "runs" / "mine"
    sweep = ["sweep", folder / "mine.yaml", "--root", root, "--on", "inline", *RUN]
    assert vlpeft(*sweep).code == 0
    before = _method_hashes(root)
    (folder / "own_helper.py").write_text("FACTOR = 0.25\n")
    (folder / "mine.yaml").write_text((folder / "mine.yaml").read_text() + "seeds: [0, 1]\n")
    changed = vlpeft(*sweep)
    assert changed.code == 2
    assert "code" in changed.err
    assert _method_hashes(root) == before


def _method_hashes(root: Path) -> set[str]:
    records = [json.loads(path.read_text()) for path in root.glob("cells/*/record.json")]
    return {record["provenance"]["code"]["method"] for record in records}


def test_an_adapter_of_a_plugin(folder: Path, tmp_path: Path) -> None:
    root = folder / "runs" / "mine"
    assert vlpeft("sweep", folder / "mine.yaml", "--root", root, "--on", "inline", *RUN).code == 0
    cell = json.loads((root / "sweeps" / "mine.json").read_text())["cells"][0]["id"]
    exported = vlpeft("export-adapter", root, cell, "-o", tmp_path / "adapter")
    assert exported.code == 0, exported.err
    assert str(tmp_path) not in (tmp_path / "adapter" / "config.json").read_text()
    image = Path(__file__).resolve().parents[2] / "docs" / "images"
    asked = ["predict", "--adapter", tmp_path / "adapter", "--question", "what?"]
    asked += ["--image", next(image.glob("*.png"))]
    refused = vlpeft(*asked)
    assert refused.code == 2
    assert "comes from a plug-in (own_method.py); name that file with --plugin" in refused.err
    answered = vlpeft(*asked, "--plugin", folder / "own_method.py")
    assert answered.code == 0, answered.err


def test_a_plugin_is_listed(folder: Path, main) -> None:
    listed = main("list", "methods", "--plugin", folder / "own_method.py", "--json")
    rows = {row["name"]: row for row in json.loads(listed.out)}
    assert rows["own_scale"]["settings"] == {"one": False}
    assert "own_scale" in main("list", "methods", "--plugin", folder / "own_method.py").out


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("own_method.py", None, "no such file; check `plugins:`"),
        ("own_method.py", "x = 1\n", "registers nothing; write @register(NAME)"),
        ("own_method.py", "import (\n", "own_method.py:1"),
        ("own-method.py", "", "not the name of a Python file"),
        ("json.py", "", "Python has another module 'json'"),
        ("own_method.py", "lora", "method 'lora' of own_method.py is registered in vlpeft."),
        ("own_method.py", "class", "class SublayerScale: derive it from one of Method"),
    ],
)
def test_bad_plugins(folder: Path, main, name: str, content: str | None, says: str) -> None:
    text = (folder / "own_method.py").read_text()
    (folder / "own_method.py").unlink()
    replaced = {"lora": text.replace("own_scale", "lora"), "class": text.replace("(Method)", "")}
    if content is not None:
        (folder / name).write_text(replaced.get(content, content))
    sweep = folder / "mine.yaml"
    sweep.write_text(sweep.read_text().replace("own_method.py", name))
    found = main("plan", sweep)
    assert found.code == 2
    assert says in found.err
    assert found.err.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("own_protocol.yaml", "no.yaml", "no.yaml: no such file; check the path of the protocol"),
        ("own_protocol.yaml", "own_protocl", "or give the path of a YAML file"),
    ],
)
def test_bad_protocols(folder: Path, main, old: str, new: str, says: str) -> None:
    sweep = folder / "mine.yaml"
    sweep.write_text(sweep.read_text().replace(old, new))
    found = main("plan", sweep)
    assert found.code == 2
    assert says in found.err


def test_own_published_numbers(folder: Path, main) -> None:
    root = folder / "runs" / "mine"
    assert vlpeft("sweep", folder / "mine.yaml", "--root", root, "--on", "inline", *RUN).code == 0
    table = main(
        "table", folder / "mine.yaml", "--root", root, "--published", folder / "paper.yaml"
    )
    assert table.code == 0, table.err
    assert "A paper, Table 1" in table.out
    assert "not comparable" in table.out  # tiny towers
    again = main("table", root, "--published", folder / "paper.yaml", "--format", "json")
    assert json.loads(again.out)["rows"][0]["published"] == 40.0
    paper = folder / "paper.yaml"
    paper.write_text(PUBLISHED.replace("method: head_only", "method: haed_only"))
    wrong = main("table", root, "--published", paper)
    assert wrong.code == 2
    assert (
        "no cell haed_only / vit_roberta / vqa/small_shapes; did you mean 'head_only'?" in wrong.err
    )
    both = main("table", root, "--published", paper, "--costs")
    assert both.code == 2
    assert "--published is a table of its own" in both.err


def test_keep_writes_into_the_users_folder(folder: Path) -> None:
    root = folder / "runs" / "mine"
    assert vlpeft("sweep", folder / "mine.yaml", "--root", root, "--on", "inline", *RUN).code == 0
    command = [sys.executable, "-m", "vlpeft", "keep", str(root)]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True, check=True)
    (file,) = (folder / "measured").iterdir()
    assert done.stdout.startswith(f"measured/{file.name} (")
    assert done.stdout.endswith(f"read it with `vlpeft table measured/{file.name}`\n")
    assert str(folder) not in file.read_text()
