"""The snippets of CONTRIBUTING.md and README.md work as printed, for entries of another package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlpeft.benchmark.core.config import load_yaml, parse
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.plan import recipes
from vlpeft.benchmark.tasks import TASKS
from vlpeft.results.papers.published import PublishedTable, recompute_numbers

REPOSITORY = Path(__file__).resolve().parents[2]
CONTRIBUTING = REPOSITORY / "CONTRIBUTING.md"
README = REPOSITORY / "README.md"


def snippets(page: Path, language: str = r"\w+") -> dict[str, str]:
    """Return title -> text of the fenced blocks with a title."""
    fenced = rf'```{language} title="([^"]+)"\n(.*?)```'
    return dict(re.findall(fenced, page.read_text(encoding="utf-8"), re.DOTALL))


def write_package(folder: Path, page: Path, entry_points: str) -> None:
    """Install the snippets of a page as a distribution in this folder."""
    for title, text in snippets(page).items():
        (folder / title).write_text(text, encoding="utf-8")
    about = folder / "snippets-0.1.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: snippets\nVersion: 0.1\n")
    groups = tomllib.loads(entry_points)["project"]["entry-points"]
    lines = [line for group, names in groups.items() for line in _section(group, names)]
    about.joinpath("entry_points.txt").write_text("\n".join(lines))


def _section(group: str, names: dict[str, str]) -> list[str]:
    return [f"[{group}]", *(f"{name} = {target}" for name, target in names.items())]


def write_data(folder: Path) -> None:
    """Write twelve images with a question each, in the VQAv2 format and as CSV."""
    (folder / "images").mkdir(parents=True)
    for split, numbers in {"train": range(6), "test": range(6, 12)}.items():
        said = {i: "no" if i % 2 else "yes" for i in numbers}
        for i in numbers:
            pixels = np.full((64, 64, 3), 20 * i, np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        questions = [{"question_id": i, "image_id": i, "question": "is it dark?"} for i in said]
        answers = [
            {"question_id": i, "image_id": i, "answers": [{"answer": a}] * 10}
            for i, a in said.items()
        ]
        (folder / f"{split}_questions.json").write_text(json.dumps({"questions": questions}))
        (folder / f"{split}_answers.json").write_text(json.dumps({"annotations": answers}))
        rows = [f"images/{i}.png,is it dark?,{answer}\n" for i, answer in said.items()]
        (folder / f"{split}.csv").write_text("".join(rows))


def vlpeft(folder: Path, *arguments: str) -> str:
    """Run the command with this folder's package installed; return its output."""
    environment = os.environ | {
        "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "vlpeft", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_snippets_plan_and_run(tmp_path: Path) -> None:
    page = CONTRIBUTING.read_text(encoding="utf-8")
    found = re.search(r"```toml\n(\[project\.entry-points.*?)```", page, re.DOTALL)
    assert found is not None
    write_package(tmp_path, CONTRIBUTING, found[1])
    write_data(tmp_path / "data")
    vlpeft(tmp_path, "sweep", "scales.yaml", "--on", "inline", "--root", "out")
    cells = json.loads((tmp_path / "out/sweeps/scales.json").read_text())["cells"]
    done = [cell for cell in cells if not cell["skipped"]]
    trained = {(cell["row"], cell["backbone"]): cell["trainable"] - cell["head"] for cell in done}
    assert trained["sublayer_scale", "vit_roberta"] == 3 * 2 * 128  # layers x sub-layers x width
    assert trained["sublayer_scale (one=true)", "vit_roberta"] == 3 * 2
    assert trained["sublayer_scale", "late_fusion"] == 3 * 128
    skipped = [cell for cell in cells if cell["skipped"] and cell["task"].startswith("yes_no")]
    assert {cell["row"] for cell in skipped} == {"lora"}, "late_fusion has no linear maps"
    new_task = {cell["backbone"] for cell in done if cell["task"].startswith("yes_no")}
    assert new_task == {"late_fusion", "vit_roberta"}, "the task is new to a shipped backbone, too"
    records = [
        json.loads(path.read_text()) for path in (tmp_path / "out").glob("cells/*/record.json")
    ]
    assert len(records) == len(done)
    assert any("balanced_accuracy" in record["metrics"] for record in records)


def test_the_readmes_method_and_sweep_are_planned(tmp_path: Path) -> None:
    for title, text in snippets(README).items():
        (tmp_path / title).write_text(text, encoding="utf-8")
    cells = json.loads(vlpeft(tmp_path, "plan", "shift_or_lora.yaml", "--json"))
    planned = [cell for cell in cells if cell["row"] == "channel_shift" and not cell["skipped"]]
    trained = {(cell["backbone"], cell["trainable"] - cell["head"]) for cell in planned}
    assert trained == {("vit_roberta", 3 * 2 * 128), ("blip", 2 * 3 * 128)}
    assert len(planned) == 3 * 3, "seeds x (vit_roberta: vqa, blip: vqa and captioning)"


def test_the_protocol_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in recipes.FOLDER.glob("*.yaml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "my_protocol.yaml").write_text(snippets(CONTRIBUTING)["my_protocol.yaml"])
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    facts = {
        "backbone": "clip_bart",
        "task": "vqa",
        "dataset": "vqav2",
        "method": "adapter",
        "method.per_task": "all",
    }
    resolved = recipes.resolve(list(recipes.protocol_layers("my_protocol", facts)), "here")
    assert (resolved.epochs, resolved.lr, resolved.prompt) == (10, 3e-4, "{text}")
    assert resolved.batch_size == 500, "the base's"


def test_the_published_table_is_one(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(snippets(CONTRIBUTING)["table.yaml"])
    table = parse(PublishedTable, load_yaml(path), str(path))
    found = list(recompute_numbers(table))
    assert len(found) == 4
    assert all(each.agrees for each in found)
    for column in table.columns:
        task = column.task.partition("/")[0]
        assert not task or column.measured in _reported(task)


def _reported(task: str) -> set[str]:
    metrics = TASKS.load(task).metrics
    return {value for metric in metrics for value in METRICS.load(metric).values}


@pytest.mark.parametrize("page", [CONTRIBUTING, README], ids=lambda page: page.stem)
def test_snippets_of_code_have_short_lines(page: Path) -> None:
    lines = [line for text in snippets(page, "python").values() for line in text.splitlines()]
    assert lines
    assert max(map(len, lines)) <= 100


def test_the_readme_is_short() -> None:
    assert len(README.read_bytes()) <= 9000
    assert re.search(r"^python3.*tox run$", README.read_text(encoding="utf-8"), re.MULTILINE), (
        "what .ci/run looks for"
    )
