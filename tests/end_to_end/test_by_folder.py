"""A result folder says all that tables, reports, states and exports need."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.end_to_end.conftest import RUN, vlpeft, write_one, write_vqav2

PROTOCOL = "{lr: 1e-3, steps: 2, batch_size: 2, metrics: [vqa_accuracy], eval_split: val}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's data, a sweep, and its results in runs/."""
    folder = tmp_path_factory.mktemp("work")
    dataset = write_vqav2(folder)
    sweep = write_one(
        folder, dataset=dataset.name, name="mine.yaml", seeds="[0, 1]", protocol=PROTOCOL
    )
    done = vlpeft("sweep", sweep, "--root", folder / "runs" / "mine", "--on", "inline", *RUN)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def alone(trained: Path, tmp_path: Path) -> SimpleNamespace:
    """The results alone, in another place: neither sweep nor data are there."""
    root = tmp_path / "moved"
    shutil.copytree(trained / "runs" / "mine", root)
    plan = json.loads((root / "sweeps" / "mine.json").read_text())
    for cell in plan["cells"]:
        cell["cell"]["dataset"]["root"] = str(tmp_path / "gone" / trained.name)
    (root / "sweeps" / "mine.json").write_text(json.dumps(plan))
    return SimpleNamespace(root=root, plan=root / "sweeps" / "mine.json", cell=plan["cells"][0])


def test_results_need_neither_sweep_nor_data(alone, trained, tmp_path, main) -> None:
    sweep, root = trained / "mine.yaml", trained / "runs" / "mine"
    expected = main("table", sweep, "--root", root)
    for place in (alone.root, alone.plan):
        found = main("table", place)
        assert (found.code, found.out, found.err) == (0, expected.out, "")
    assert main("status", alone.root).out.count("done") == 3  # the summary and two cells
    for command in (["seeds"], ["table", "--tidy"], ["logs", alone.cell["id"]]):
        name, *rest = command
        found = main(name, alone.root, *rest)
        assert found.code == (2 if name == "logs" else 0), found.err  # it ran in the launcher
    page = main("report", alone.root, "-o", tmp_path / "page")
    assert page.code == 0, page.err
    kept = main("keep", alone.root, "--out", tmp_path / "kept")
    assert kept.code == 0, kept.err
    (file,) = (tmp_path / "kept").iterdir()
    assert main("table", file).out.startswith(expected.out)  # where it was measured follows
    assert main("seeds", file).code == 0
    assert main("diff", file, root).code == 0


def test_an_adapter_is_exported_without_its_data(alone, trained, tmp_path, main) -> None:
    cell = alone.cell["id"]
    found = main("export-adapter", alone.root, cell, "-o", tmp_path / "adapter")
    assert found.code == 0, found.err
    assert "the data was not there, so nothing was compared with the run" in found.out
    whole = main("export-adapter", trained / "mine.yaml", cell, "--root",
                 trained / "runs" / "mine", "-o", tmp_path / "whole")  # fmt: skip
    assert "were answered as in the run" in whole.out, whole.err
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in
               ("adapter", "whole")]  # fmt: skip
    for config in configs:
        del config["reproduced"], config["checksum"]
    assert configs[0] == configs[1]
    image = next((trained / "val2014").glob("*.jpg"))
    answers = [
        main("predict", "--adapter", tmp_path / name, "--image", image, "--question", "what?").out
        for name in ("adapter", "whole")
    ]
    assert answers[0] == answers[1] != ""


def test_a_changed_sweep_is_said(trained, tmp_path, main) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    sweep, root = folder / "mine.yaml", folder / "runs" / "mine"
    before = main("table", root)
    assert before.err == ""
    sweep.write_text(sweep.read_text().replace("rank: 4", "rank: 2"))
    after = main("table", root)
    assert (after.code, after.out) == (0, before.out)
    assert f"{sweep}, its protocol" in after.err
    assert "has changed since the launch; this is what was launched" in after.err
    refused = main("table", sweep, "--root", root)
    assert refused.code == 2
    assert f"or name {root} in place of the sweep for what was launched" in refused.err


def test_a_folder_stands_for_its_sweep(trained, tmp_path, main) -> None:
    root = trained / "runs" / "mine"
    plan = main("plan", root, "--json")
    assert [row["state"] for row in json.loads(plan.out)] == ["done", "done"]
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    found = main("plan", moved)
    assert found.code == 2
    assert "this command needs the file of the sweep" in found.err


def test_done_cells_are_done_where_the_data_has_gone(trained, tmp_path, main) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    for name in ("train2014", "val2014"):
        shutil.rmtree(folder / name)
    root = folder / "runs" / "mine"
    found = main("plan", folder / "mine.yaml", "--root", root)
    assert found.code == 0, found.err
    assert "2 runnable, 0 skipped" in found.out
    assert found.out.count("done") == 2


def test_a_hint_says_where_results_lie(trained, main, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = main("table", trained / "mine.yaml")
    assert found.code == 2
    assert f"there are some next to its file: add --root {trained}/runs/mine" in found.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["table", "{empty}"], "holds no launched sweep; give a folder that"),
        (["table", "{empty}/one.json"], "is not a plan; plans are in the folder sweeps/"),
        (["table", "{root}", "--root", "{root}"], "leave out --root"),
        (["table", "{root}", "--measured"], "leave out --measured"),
        (["table", "{root}", "--scale", "tiny"], "holds no sweep at the scale 'tiny'"),
        (["status", "{kept}"], "`vlpeft status` needs a result folder"),
    ],
)  # fmt: skip
def test_bad_places(words, says, trained, tmp_path, main) -> None:
    (tmp_path / "one.json").write_text("{}")
    (tmp_path / "kept.jsonl").write_text("{}")
    places = {"empty": tmp_path, "root": trained / "runs" / "mine", "kept": tmp_path / "kept.jsonl"}
    found = main(*(word.format(**places) for word in words))
    assert found.code == 2
    assert says in found.err
    assert found.err.count("\n") == 1


def test_two_sweeps_in_a_folder(trained, tmp_path, main) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    root = folder / "runs" / "mine"
    other = write_one(folder, name="other.yaml")
    assert main("sweep", other, "--root", root, "--on", "inline", *RUN).code == 0
    found = main("table", root)
    assert found.code == 2
    assert f"holds 2 sweeps; name the plan of one of them: {root}/sweeps/mine.json" in found.err
    assert main("table", root / "sweeps" / "other.json").code == 0
    page = main("report", root, "-o", tmp_path / "page")
    assert page.code == 0, page.err
