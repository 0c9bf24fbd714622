"""Bad input is reported on one line, with the place and the fix, before anything is written."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.end_to_end.conftest import (
    RUN,
    edit_json,
    leftovers,
    records,
    vlpeft,
    write_json,
    write_one,
    write_vqav2,
)


@pytest.fixture
def refused(main, tmp_path):
    """Run a command that must fail with code 2 and one line that holds all of `words`.

    It must leave nothing behind.
    """

    def call(*arguments: object, words: tuple[str, ...], root: Path | None = None) -> str:
        root = tmp_path / "root" if root is None else root
        before = sorted(root.rglob("*")) if root.exists() else []
        said = main(*arguments)
        assert said.code == 2, said
        assert len(said.lines) == 1, said.err
        assert said.out == ""
        assert said.lines[0].startswith("vlpeft: error: ")
        for word in words:
            assert word in said.lines[0]
        assert (sorted(root.rglob("*")) if root.exists() else []) == before
        return said.lines[0]

    return call


def both(refused, path: Path, root: Path, *words: str) -> None:
    """Check that `plan` and `sweep` refuse the input alike."""
    assert refused("plan", path, words=words) == refused(
        "sweep", path, "--root", root, "--on", "inline", *RUN, words=words
    )


LIMITS = "train_limit: 8, eval_limit: 4, batch_size: 4"
SETTINGS = {
    "unknown key": ({"sedes": "[0]"}, ("one.yaml: unknown key 'sedes'; did you mean 'seeds'?",)),
    "misspelt method": (
        {"methods": "[loar]"},
        ("one.yaml: unknown method 'loar'; did you mean 'lora'?",),
    ),
    "misspelt method setting": (
        {"methods": "[{name: lora, rnak: 4}]"},
        ("one.yaml: method 'lora': unknown key 'rnak'; did you mean 'rank'?",),
    ),
    "method setting of a wrong type": (
        {"methods": '[{name: lora, rank: "4"}]'},
        ("method 'lora': rank:", 'got "4"'),
    ),
    "method setting not offered": (
        {"methods": "[{name: routing_lora, function: times}]"},
        ("method 'routing_lora': function:", "'mul'", 'got "times"'),
    ),
    "method without a name": (
        {"methods": "[{rank: 4}]"},
        ("one.yaml: methods[0]: write a name", '{"rank": 4}'),
    ),
    "label twice": (
        {"methods": "[lora, lora]"},
        ("one.yaml: methods: 'lora' appears 2 times", "label"),
    ),
    "equal cells": (
        {"methods": "[lora, {name: lora, label: other, rank: 8}]"},
        ("'lora' on vit_roberta and 'other' on vit_roberta", "are the same cell", "remove one"),
    ),
    "seed twice": (
        {"seeds": "[0, 0]"},
        ("seed 0 appears twice", "remove the task or seed"),
    ),
    "misspelt backbone": (
        {"backbones": "[vit_robreta]"},
        ("one.yaml: unknown backbone 'vit_robreta'", "did you mean 'vit_roberta'?"),
    ),
    "misspelt backbone setting": (
        {"backbones": "[{name: vit_roberta, txet: tiny}]"},
        ("one.yaml: backbone 'vit_roberta': unknown key 'txet'; did you mean 'text'?",),
    ),
    "unknown weight folder": (
        {"backbones": "[{name: vit_roberta, text: /nowhere/weights, vision: tiny}]"},
        ("one.yaml", "cannot load weights from '/nowhere/weights': no such folder", "fix the path"),
    ),
    "misspelt task": (
        {"tasks": "[vaq/shapes]"},
        ("one.yaml: tasks[0]", "unknown task 'vaq'; did you mean 'vqa'?"),
    ),
    "misspelt dataset": (
        {"tasks": "[vqa/shaeps]"},
        ("one.yaml: tasks[0]: unknown dataset 'shaeps'; did you mean 'shapes'?",),
    ),
    "no dataset": ({"tasks": "[vqa]"}, ("one.yaml: tasks[0]: write task/dataset",)),
    "dataset file missing": ({"tasks": "[vqa/nothing.yaml]"}, ("cannot read", "nothing.yaml")),
    "dataset without the task": (
        {"tasks": "[captioning/easy_vqa]"},
        ("dataset 'easy_vqa' has no task 'captioning'; it has: vqa",),
    ),
    "no methods": ({"methods": "[]"}, ("one.yaml: methods:", "write at least one value")),
    "no seeds": ({"seeds": "[]"}, ("one.yaml: seeds:", "write at least one value")),
    "methods left out": ({"methods": ""}, ("one.yaml: 'methods' is required",)),
    "everything skipped": (
        {"tasks": "[captioning/shapes]"},
        (
            "one.yaml: nothing to run: 1 cell, all skipped",
            "vit_roberta does vqa, entailment, nlvr2, not captioning",
        ),
    ),
    "rank larger than the width": (
        {"methods": "[{name: lora, rank: 4096}]"},
        ("one.yaml: 'lora' on 'vit_roberta'", "rank: 4096", "at most"),
    ),
    "no such projection": (
        {"methods": "[{name: lora, targets: [qeury]}]"},
        ("method 'lora': targets", "'query'"),
    ),
    "NaN learning rate": (
        {"protocol": "{lr: .nan, steps: 2}"},
        ("one.yaml: protocol: lr:", "finite number", "got NaN"),
    ),
    "infinite learning rate": (
        {"protocol": "{lr: .inf, steps: 2}"},
        ("one.yaml: protocol: lr:", "finite number"),
    ),
    "learning rate as text": (
        {"protocol": '{lr: "1e-3", steps: 2}'},
        ("one.yaml: protocol: lr:", "valid number", 'got "1e-3"'),
    ),
    "negative steps": (
        {"protocol": "{lr: 1e-3, steps: -2}"},
        ("one.yaml: protocol: steps:", "greater than 0", "got -2"),
    ),
    "steps and epochs": (
        {"protocol": "{lr: 1e-3, steps: 2, epochs: 1}"},
        ("one.yaml: protocol: set exactly one of epochs and steps",),
    ),
    "no beams": (
        {"protocol": "{lr: 1e-3, steps: 2, beams: 0}"},
        ("one.yaml: protocol: beams:", "greater than 0", "got 0"),
    ),
    "misspelt protocol key": (
        {"protocol": "{lr: 1e-3, steps: 2, batchsize: 8}"},
        ("one.yaml: protocol: unknown key 'batchsize'", "'batch_size'"),
    ),
    "misspelt protocol": (
        {"protocol": "quickstrat"},
        ("one.yaml: protocol: unknown protocol 'quickstrat'; did you mean 'quickstart'?",),
    ),
    "misspelt metric": (
        {"protocol": f"{{lr: 1e-3, steps: 2, metrics: [vqa_acuracy], {LIMITS}}}"},
        (
            "one.yaml: 'lora' on 'vit_roberta'",
            "unknown metric 'vqa_acuracy'; did you mean 'vqa_accuracy'?",
        ),
    ),
    "a metric of another task": (
        {"protocol": f"{{lr: 1e-3, steps: 2, metrics: [cider], {LIMITS}}}"},
        (
            "one.yaml: 'lora' on 'vit_roberta'",
            "metrics: 'cider' is not for vqa; choose from: vqa_accuracy, answer_match",
        ),
    ),
    "misspelt weights": (
        {"backbones": "[{name: vit_roberta, text: tinny, vision: tiny}]"},
        ("one.yaml: 'lora' on 'vit_roberta'", "unknown weights 'tinny'; did you mean 'tiny'?"),
    ),
    "misspelt split": (
        {"protocol": f"{{lr: 1e-3, steps: 2, eval_split: tset, {LIMITS}}}"},
        (
            "one.yaml: 'lora' on 'vit_roberta'",
            "eval_split: dataset 'small_shapes' has no split 'tset'; did you mean 'test'?",
        ),
    ),
    "negative seed": (
        {"seeds": "[-1]"},
        ("one.yaml: seeds[0]:", "greater than or equal to 0", "got -1"),
    ),
    "endless seed": ({"seeds": f"[{2**70}]"}, ("one.yaml:1:", "is too large a number")),
    "a date where text belongs": (
        {"title": "2024-01-01"},
        ("one.yaml:", "is read as a date; quote the value"),
    ),
    "broken YAML": ({"title": "[1, 2"}, ("one.yaml:", "not valid YAML")),
    "two documents": (
        {"title": "a\n---\ntitle: b"},
        ("not valid YAML: a second document begins here", "remove the `---`"),
    ),
    "a key twice": ({"title": "a\ntitle: b"}, ("one.yaml:", "not valid YAML", "duplicate key")),
    "a control character": ({"title": '"\x01"'}, ("one.yaml", "not valid YAML")),
    "a cycle": ({"title": "&a [*a]"}, ("one.yaml",)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name, tmp_path, refused) -> None:
    replaced, words = SETTINGS[name]
    both(refused, write_one(tmp_path, **replaced), tmp_path / "root", *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"- a\n- b\n", "found a list"), (b"", "found nothing"), (b"title: \xff\n", "not UTF-8 text")],
)
def test_a_file_that_is_not_a_sweep(content, words, tmp_path, refused) -> None:
    path = tmp_path / "one.yaml"
    path.write_bytes(content)
    both(refused, path, tmp_path / "root", str(path), words)


@pytest.mark.parametrize("command", ["plan", "sweep", "status", "table", "run"])
def test_a_missing_sweep(command, tmp_path, refused) -> None:
    options = {"plan": (), "run": ("--root", tmp_path, "--cell", "0")}.get(
        command, ("--root", tmp_path)
    )
    refused(
        command,
        "quickstrat",
        *options,
        words=("unknown sweep 'quickstrat'; did you mean 'quickstart'?", "path ending in .yaml"),
    )
    if command not in ("status", "table"):
        refused(
            command,
            tmp_path / "none.yaml",
            *options,
            words=(f"cannot read {tmp_path / 'none.yaml'}: No such file",),
        )
        refused(
            command,
            _folder(tmp_path / "folder.yaml"),
            *options,
            words=("cannot read", "folder.yaml: Is a directory"),
        )


def _folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


@pytest.mark.parametrize("command", ["status", "table"])
def test_before_any_launch(command, tmp_path, refused) -> None:
    path, root = write_one(tmp_path), tmp_path / "root"
    refused(
        command,
        path,
        "--root",
        root,
        words=(
            f"{root} holds no results of the sweep 'one'",
            f"run `vlpeft sweep {path} --root {root}`",
        ),
    )
    refused("plan", path, "--root", root, words=(f"--root {root}: no such folder",))
    file = tmp_path / "a_file"
    file.write_text("")
    refused(
        command,
        path,
        "--root",
        file / "below",
        words=(f"--root {file}/below: is a file, or inside one; give a result folder",),
    )


@pytest.mark.parametrize("command", ["sweep", "run"])
def test_a_root_that_cannot_be_written(command, tmp_path, refused, main) -> None:
    path = write_one(tmp_path)
    (row,) = json.loads(main("plan", path, "--json").out)
    cell = ("--cell", row["id"]) if command == "run" else ("--on", "inline")
    file = tmp_path / "a_file"
    file.write_text("")
    for root, words in (
        (file, (f"--root {file}: is a file", "or a new one")),
        (file / "below", (f"cannot write {file / 'below'}", "choose a writable --root")),
        (Path("/proc/vlpeft"), ("cannot write /proc/vlpeft", "choose a writable --root")),
    ):
        refused(command, path, "--root", root, *cell, *RUN, words=words)
    assert file.read_text() == ""


OPTIONS = {
    "no workers": (("--workers", "0"), ("--workers: 0 is not enough; use 1 or more",)),
    "workers elsewhere": (
        ("--on", "inline", "--workers", "2"),
        ("--workers is for --on local, not for --on inline",),
    ),
    "no workers elsewhere": (
        ("--on", "inline", "--workers", "0"),
        ("--workers is for --on local, not for --on inline",),
    ),
    "a profile elsewhere": (
        ("--profile", "one_gpu"),
        ("--profile is for --on slurm, not for --on",),
    ),
    "no profile": (
        ("--on", "slurm"),
        ("--on slurm needs --profile NAME or FILE.yaml; one_gpu is an example",),
    ),
    "misspelt profile": (
        ("--on", "slurm", "--profile", "one_gpus"),
        ("--profile one_gpus: no shipped profile; did you mean 'one_gpu'?",),
    ),
    "profile that is not there": (
        ("--on", "slurm", "--profile", "no.yaml"),
        ("cannot read no.yaml",),
    ),
    "no threads": (
        ("--threads", "0"),
        ("error: --threads: input should be greater than 0, got 0",),
    ),
    "no micro batch": (
        ("--micro-batch", "-1"),
        ("error: --micro-batch: input should be greater than 0, got -1",),
    ),
    "no time between checkpoints": (
        ("--checkpoint-seconds", "-1"),
        ("--checkpoint-seconds: input should be greater than or equal to 0",),
    ),
    "a device that is none": (
        ("--device", "toaster"),
        ("--device toaster", "use auto, cpu, cuda or cuda:N"),
    ),
    "a device without data": (
        ("--device", "meta"),
        ("--device meta", "use auto, cpu, cuda or cuda:N"),
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, tmp_path, refused) -> None:
    flags, words = OPTIONS[name]
    refused("sweep", write_one(tmp_path), "--root", tmp_path / "root", *flags, words=words)


def test_a_missing_gpu(tmp_path, refused, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ("--device cuda: no CUDA GPU is visible here; use --device cpu",)
    refused(
        "sweep", write_one(tmp_path), "--root", tmp_path / "root", "--device", "cuda", words=words
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("run quickstart", "vlpeft run: error: --cell must be given; see `vlpeft run --help`"),
        ("sweap", "vlpeft: error: unknown command 'sweap'; did you mean 'sweep'?"),
        ("data chek", "vlpeft data: error: unknown action 'chek'; did you mean 'check'?"),
        (
            "list",
            "vlpeft list: error: say what to list, such as `methods`; see `vlpeft list --help`",
        ),
        (
            "list method",
            "vlpeft list: error: argument what: unknown value 'method'; did you mean 'methods'?",
        ),
        (
            "retry quickstart",
            "vlpeft retry: error: add --failed or --cause; see `vlpeft retry --help`",
        ),
        ("table", "vlpeft table: error: SWEEP must be given; see `vlpeft table --help`"),
        (
            "status quickstart --wtch",
            "vlpeft status: error: unknown argument '--wtch'; did you mean '--watch'?",
        ),
        (
            "status quickstart again",
            "vlpeft status: error: unknown argument 'again'; see `vlpeft status --help`",
        ),
        (
            "table quickstart --format docx",
            "vlpeft table: error: argument --format: unknown value 'docx'; "
            "known: csv, html, json, latex, md, parquet, text; see `vlpeft table --help`",
        ),
        (
            "table quickstart --costs --details",
            (
                "vlpeft table: error: --details and --costs exclude each other: "
                "leave one out; see `vlpeft table --help`"
            ),
        ),
        (
            "table quickstart --json --format md",
            (
                "vlpeft table: error: --format and --json exclude each other: "
                "leave one out; see `vlpeft table --help`"
            ),
        ),
    ],
)
def test_arguments_that_do_not_exist(main, arguments, line) -> None:
    said = main(*arguments.split())
    assert (said.code, said.out, said.lines) == (2, "", [line])


def test_help_without_arguments(main) -> None:
    said = main()
    assert said.code == 2
    assert said.lines[0].startswith("usage: vlpeft")
    assert "exit codes:" in said.err


def test_cell_ids(tmp_path, refused) -> None:
    path, root = write_one(tmp_path, seeds="[0, 1, 2]"), tmp_path / "root"
    refused(
        "run",
        path,
        "--cell",
        "xyz",
        "--root",
        root,
        *RUN,
        words=("cell xyz: no cells of 'one'", "see `vlpeft plan`"),
    )
    refused(
        "run",
        path,
        "--cell",
        "",
        "--root",
        root,
        *RUN,
        words=("cell: give the beginning of a cell's id",),
    )


@pytest.mark.parametrize(
    ("name", "block", "words"),
    [
        ("record.json", lambda path: path.symlink_to("nowhere"), "a link to nothing; delete it"),
        ("predictions.jsonl", Path.mkdir, "a folder; delete it"),
        ("trained.safetensors", Path.mkdir, "a folder; delete it"),
    ],
)
def test_a_place_of_results_that_is_taken(name, block, words, tmp_path, main) -> None:
    """It is named before training, which would be lost afterwards."""
    path, root = write_one(tmp_path), tmp_path / "root"
    (cell,) = json.loads(main("plan", path, "--json").out)
    folder = root / "cells" / cell["id"]
    folder.mkdir(parents=True)
    block(folder / name)
    said = main("run", path, "--cell", cell["id"], "--root", root, *RUN)
    assert said.code == 2
    assert f"{folder / name}: " in said.lines[-1]
    assert words in said.lines[-1]
    assert "train 1/" not in said.err


def test_a_skipped_cell_is_not_run(tmp_path, refused, main) -> None:
    path = write_one(tmp_path, tasks="[vqa/small_shapes.yaml, captioning/small_shapes.yaml]")
    rows = {row["task"]: row for row in json.loads(main("plan", path, "--json").out)}
    arguments = ("run", path, "--cell", rows["captioning"]["id"], "--root", tmp_path / "root", *RUN)
    refused(*arguments, words=("skipped: vit_roberta does vqa, entailment, nlvr2, not captioning",))


@pytest.fixture
def own_data(tmp_path) -> Path:
    """A sweep over a user's VQA files, to be damaged."""
    write_vqav2(tmp_path / "data")
    protocol = "{lr: 1e-3, steps: 2, batch_size: 4, eval_split: val}"
    return write_one(tmp_path, dataset="data/my_questions.yaml", protocol=protocol)


def annotations(sweep: Path) -> Path:
    return sweep.parent / "data" / "v2_mscoco_train2014_annotations.json"


def test_a_missing_image(own_data, tmp_path, refused) -> None:
    image = tmp_path / "data" / "train2014" / "COCO_train2014_000000000003.jpg"
    image.unlink()
    arguments = ("sweep", own_data, "--root", tmp_path / "root", "--on", "inline", *RUN)
    refused(*arguments, words=("question_id 30", f"{image} is missing", "unpack the images"))


def test_a_question_without_answers(own_data, tmp_path, refused) -> None:
    edit_json(annotations(own_data), lambda content: content["annotations"][2].update(answers=[]))
    arguments = ("sweep", own_data, "--root", tmp_path / "root", *RUN)
    refused(
        *arguments,
        words=(str(annotations(own_data)), "question_id 30: has no answers", "add an answer"),
    )


def test_a_missing_split(own_data, tmp_path, refused) -> None:
    path = write_one(tmp_path, name="other.yaml", dataset="data/my_questions.yaml")
    words = (
        (
            "eval_split: dataset 'my_questions' has no split 'test'; known: "
            "train, val; set `protocol: {eval_split: val}`"
        ),
    )
    refused("plan", path, words=words)


def test_missing_and_truncated_annotations(own_data, tmp_path, refused) -> None:
    path = annotations(own_data)
    path.write_text(path.read_text()[:100])
    arguments = ("sweep", own_data, "--root", tmp_path / "root", *RUN)
    refused(*arguments, words=(f"{path} is not valid JSON", "cut short or damaged"))
    path.unlink()
    refused(*arguments, words=(f"{path} does not exist", "put the file there"))
    refused("plan", own_data, words=("nothing to run", f"{path} does not exist"))


def test_a_corrupt_image(own_data, tmp_path, main) -> None:
    """An image is decoded only when its cell runs.

    Only that cell fails, until the image is fixed.
    """
    root, image = (
        tmp_path / "root",
        tmp_path / "data" / "train2014" / "COCO_train2014_000000000003.jpg",
    )
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    (row,) = json.loads(main("plan", own_data, "--json").out)
    said = main("run", own_data, "--cell", row["id"], "--root", root, *RUN)
    assert said.code == 2
    errors = [line for line in said.lines if line.startswith("vlpeft: ")]
    assert len(errors) == 1
    assert errors[0] == said.lines[-1]
    assert re.search(rf"error: cannot decode image {image} \(.+\); replace the file$", errors[0])
    assert said.out == ""
    assert records(root) == {}
    assert [Path(path).name for path in leftovers(root)] == ["failure.json"]
    assert "cannot decode image" in main("status", own_data, "--root", root).out
    swept = main("sweep", own_data, "--root", root, "--on", "inline", *RUN)
    assert swept.code == 1
    assert swept.out == ""  # nothing ran, so there is no table
    assert (
        sum(
            line.startswith("vlpeft: failed: ") and "cannot decode image" in line
            for line in swept.lines
        )
        == 1
    )
    image.write_bytes(whole)
    assert main("sweep", own_data, "--root", root, "--on", "inline", *RUN).code == 0
    assert leftovers(root) == []


def test_after_the_launch(tmp_path, refused, main) -> None:
    """Change a sweep and damage records in a result folder that was whole."""
    path, root = write_one(tmp_path), tmp_path / "root"
    assert main("sweep", path, "--root", root, "--on", "inline", *RUN).code == 0
    (record,) = root.glob("cells/*/record.json")
    text, sweep, plan = record.read_text(), path.read_text(), root / "sweeps" / "one.json"

    path.write_text(sweep + "notes: changed\n")
    changed = (
        f"{path}, its protocol, its scale or one of its datasets has changed",
        "run `vlpeft sweep",
    )
    refused("table", path, "--root", root, words=changed)
    said = main(
        "status", path, "--root", root
    )  # reports what exists and that it belongs to the former sweep
    assert said.code == 0
    assert "1 cell: 1 done" in said.out
    assert all(words in said.err for words in changed)
    path.unlink()
    refused("table", path, "--root", root, words=(f"cannot read {path}: No such file",))
    path.write_text(sweep)

    for damaged in (text[: len(text) // 2], "", "[]", "{}", "\x00"):
        record.write_text(damaged)
        refused("table", path, "--root", root, words=(str(record),))
    record.write_text(text[: len(text) // 2])
    refused(
        "table",
        path,
        "--root",
        root,
        words=("not a readable record", "delete it to run the cell again"),
    )
    write_json(record, {**json.loads(text), "schema": 99})
    refused("table", path, "--root", root, words=("record schema 99", "use a matching version"))
    record.unlink()
    assert main("sweep", path, "--root", root, "--on", "inline", *RUN).code == 0

    refused(
        "status",
        path,
        "--root",
        record,
        words=(f"--root {record}: is a file; give a result folder",),
    )
    plan.write_text(plan.read_text()[:50])
    refused("status", path, "--root", root, words=(f"cannot read {plan}", "run `vlpeft sweep"))


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None,
    reason="root reads everything, and there is no setpriv",
)
def test_files_of_another_user(tmp_path, main) -> None:
    """The root user can read everything, so the command gives up that right here."""
    path, root = write_one(tmp_path), tmp_path / "root"
    assert main("sweep", path, "--root", root, "--on", "inline", *RUN).code == 0
    (record,) = root.glob("cells/*/record.json")
    record.parent.chmod(0)
    rights = "--bounding-set=-dac_override,-dac_read_search"
    mine = (
        ["setpriv", rights, rights.replace("bounding-set", "inh-caps")] if os.geteuid() == 0 else []
    )
    for words in (
        ("status", path, "--root", root),
        ("table", path, "--root", root),
        ("diff", root, root),
    ):
        command = [*mine, sys.executable, "-m", "vlpeft", *map(str, words)]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (said.returncode, said.stderr.count("\n")) == (2, 1), said.stderr
        assert f"vlpeft: error: {record.parent}" in said.stderr
        assert "Permission denied; restore it, ask its owner" in said.stderr
    record.parent.chmod(0o755)


def test_the_real_command_prints_the_same(tmp_path) -> None:
    """The real command, too, writes one line on stderr and ends with code 2."""
    root = tmp_path / "root"
    said = vlpeft("sweep", write_one(tmp_path, methods="[loar]"), "--root", root)
    assert said.code == 2
    assert said.out == ""
    assert len(said.lines) == 1
    assert said.lines[0].endswith("unknown method 'loar'; did you mean 'lora'?")
    assert not root.exists()
