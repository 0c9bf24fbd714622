"""Predictions of an exported adapter through the command, and how it refuses bad input."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.end_to_end.conftest import leftovers
from tests.end_to_end.finished import Ran
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.contract.backbone import TINY
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.export.folder import CONFIG, TENSORS, checksum, read_adapter, rebuild
from vlpeft.benchmark.export.predict import AskedQuestion, predict, read_rows
from vlpeft.benchmark.export.write import export


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def out(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    export(ran.cell("lora", "vit_roberta", "vqa"), ran.store, folder / "vqa", "vlpeft")
    export(ran.cell("lora", "vit_roberta", "vqa"), ran.store, folder / "peft", "peft")
    export(ran.cell("lora", "clip_bart", "nlvr2"), ran.store, folder / "nlvr2", "vlpeft")
    export(ran.cell("lora", "vit_gpt2", "captioning"), ran.store, folder / "captioning", "vlpeft")
    Image.new("RGB", (70, 50), "red").save(folder / "red.png")
    (folder / "text.png").write_text("no image")
    (folder / "empty.jsonl").write_text("\n")
    (folder / "rows.jsonl").write_text(
        '{"image": "red.png", "question": "what is it?"}\n\n'
        '{"image": "red.png", "question": "is it red?"}\n'
    )
    return folder


def test_the_commands(ran: Ran, out: Path, tmp_path: Path, main: Any) -> None:
    cell = ran.cell("lora", "vit_roberta", "vqa")
    sweep = ran.sweep("lora", "vit_roberta", "vqa")
    said = main("export-adapter", sweep, cell.id[:10], "--root", ran.root, "-o", tmp_path / "mine")
    assert (said.code, said.out) == (
        0,
        (
            f"{tmp_path / 'mine'}: lora of cell {cell.id}; 5 of 5 test "
            "examples were answered as in the run\n"
        ),
    )
    assert not leftovers(ran.root)
    assert not leftovers(tmp_path)
    assert (tmp_path / "mine" / TENSORS).read_bytes() == (out / "vqa" / TENSORS).read_bytes()
    assert (tmp_path / "mine" / CONFIG).read_bytes() == (out / "vqa" / CONFIG).read_bytes()
    again = main("export-adapter", sweep, cell.id, "--root", ran.root, "-o", tmp_path / "mine")
    assert (again.code, again.err) == (
        2,
        f"vlpeft: error: {tmp_path / 'mine'} exists; choose another folder, or remove it\n",
    )
    plain = main(
        "predict",
        "--adapter",
        out / "vqa",
        "--image",
        out / "red.png",
        "--question",
        "what is it?",
        "--device",
        "cpu",
    )
    listed = main(
        "predict",
        "--adapter",
        out / "vqa",
        "--from",
        out / "rows.jsonl",
        "--json",
        "--device",
        "cpu",
    )
    rows = [json.loads(line) for line in listed.out.splitlines()]
    assert [row["question"] for row in rows] == ["what is it?", "is it red?"]
    assert rows[0]["prediction"] == plain.out.strip() == rows[0]["top"][0]["answer"]
    assert 0 < rows[0]["top"][0]["score"] < 1
    assert (
        rows[0]["score_is"]
        == "sigmoid of the answer's own logit; those of all answers do not sum to 1"
    )
    two = ("--image", out / "red.png", "--image", out / "red.png")
    compared = json.loads(
        main(
            "predict", "--adapter", out / "nlvr2", *two, "--question", "both are red", "--json"
        ).out
    )
    assert {each["answer"] for each in compared["top"]} == {"true", "false"}
    assert max(each["score"] for each in compared["top"]) < 0
    assert compared["score_is"].startswith("log-likelihood of the answer's tokens")
    assert main("predict", "--adapter", out / "captioning", "--image", out / "red.png").code == 0


def test_a_bad_image_does_not_stop_the_other_requests(out: Path, tmp_path: Path, main: Any) -> None:
    rows = tmp_path / "rows.jsonl"
    (tmp_path / "text.png").write_text("not an image")
    names = [out / "red.png", "none.png", "text.png", out / "red.png"]
    rows.write_text("".join(f'{{"image": "{name}", "question": "why?"}}\n' for name in names))
    asked = ["predict", "--adapter", out / "vqa", "--from", rows, "--device", "cpu"]
    plain = main(*asked)
    lines = plain.out.splitlines()
    assert (plain.code, len(lines)) == (1, 4)  # a line for each request, empty without an answer
    assert lines[0] == lines[3] != ""
    assert lines[1:3] == ["", ""]
    assert f"{rows}: request 2: image {tmp_path / 'none.png'} is not a file" in plain.err
    assert f"{rows}: request 3: cannot decode image" in plain.err
    listed = main(*asked, "--json")
    found = [json.loads(line) for line in listed.out.splitlines()]
    assert [("prediction" in row, "error" in row) for row in found] == [
        (True, False), (False, True), (False, True), (True, False)
    ]  # fmt: skip
    rows.write_text('{"image": "none.png", "question": "why?"}\n')
    assert main(*asked).code == 2


@pytest.mark.parametrize(
    ("adapter", "arguments", "message"),
    [
        ("vqa", ["--question", "why?"], "vqa reads 1 image, got 0; give `--image` once"),
        ("vqa", ["--image", "red.png"], "vqa needs a text for the image; give `--question`"),
        (
            "vqa",
            ["--image", "none.png", "--question", "why?"],
            "none.png is not a file; check the path",
        ),
        ("vqa", ["--image", "text.png", "--question", "why?"], "cannot decode image"),
        (
            "vqa",
            ["--image", "red.png", "--question", "why?", "--task", "nlvr2"],
            "--task nlvr2: this adapter does vqa/shapes; name one",
        ),
        (
            "vqa",
            ["--image", "red.png", "--from", "rows.jsonl"],
            "--from gives images and questions; leave out --image and --question",
        ),
        ("vqa", ["--from", "none.jsonl"], "none.jsonl is not a file; check the path of `--from`"),
        (
            "vqa",
            ["--from", "empty.jsonl"],
            'contains no requests; write {"image": PATH, "question": TEXT} on each line',
        ),
        ("nlvr2", ["--from", "rows.jsonl"], "request 1: nlvr2 reads 2 images, got 1"),
        (
            "nlvr2",
            ["--image", "red.png", "--question", "both"],
            "nlvr2 reads 2 images, got 1; give `--image LEFT --image RIGHT`",
        ),
        (
            "captioning",
            ["--image", "red.png", "--question", "why?"],
            "captioning takes no question; leave it out",
        ),
        (
            "peft",
            ["--image", "red.png", "--question", "why?"],
            "is in peft's format: load it with peft",
        ),
        (".", ["--image", "red.png"], "is not an exported adapter: it has no config.json"),
    ],
)
def test_typos_are_named(
    out: Path, main: Any, adapter: str, arguments: list[str], message: str
) -> None:
    said = main(
        "predict",
        "--adapter",
        out / adapter,
        *(str(out / a) if a.endswith((".png", ".jsonl")) else a for a in arguments),
    )
    assert said.code == 2
    assert message in said.err
    assert len(said.lines) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[1]", 'rows.jsonl:1: write {"image": PATH, "question": TEXT}'),
        ("{", "rows.jsonl:1: not JSON"),
        ('{"image": "a.png", "text": "x"}', "rows.jsonl:1: unknown key 'text'"),
        ('{"image": 3}', "rows.jsonl:1: images[0]:"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(row)
    with pytest.raises(UserError, match=r"rows\.jsonl:1") as error:
        read_rows(tmp_path / "rows.jsonl")
    assert message in str(error.value)


def damage_copy(out: Path, tmp_path: Path, name: str = "vqa") -> tuple[Path, dict[str, Any]]:
    folder = shutil.copytree(out / name, tmp_path / "copy")
    return folder, json.loads((folder / CONFIG).read_text())


def load(folder: Path, config: dict[str, Any], *, sealed: bool = True) -> str:
    """Return the error for a config.json with these values; `sealed`: as an export writes it."""
    if sealed:
        config = {**config, "checksum": checksum(config)}
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        rebuild(read_adapter(folder), folder)
    return str(error.value)


def test_a_row_ends_with_its_line(tmp_path: Path) -> None:
    # JSON does not escape these characters, and some readers split lines at them
    question = "red\u2028or\u0085blue?"
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"image": "a.png", "question": question}, ensure_ascii=False), encoding="utf-8"
    )
    assert read_rows(tmp_path / "rows.jsonl") == [
        AskedQuestion((str(tmp_path / "a.png"),), question)
    ]


def test_damaged_and_missing_files_are_named(out: Path, tmp_path: Path) -> None:
    folder, config = damage_copy(out, tmp_path)
    assert "adapter schema 2, this version reads 1" in load(folder, {**config, "schema": 2})
    assert "unknown key 'more'" in load(folder, {**config, "more": 1})
    unknown = {
        **config,
        "method": "other",
        "plugin": "some.package",
        "cell": {**config["cell"], "method": {"name": "other", "settings": {}}},
    }
    assert (
        "method 'other' comes from another package; install the one that holds `some.package`"
        in load(folder, unknown)
    )
    assert "cannot load weights from '/no/where'" in load(
        folder, {**config, "weights": {"text": "/no/where"}}
    )
    assert "images would be prepared differently" in load(
        folder, {**config, "image": {**config["image"], "size": 32}}
    )
    louder = {**config, "metrics": {**config["metrics"], "vqa_accuracy": 99.9}}
    assert "config.json: changed since the export; copy or export" in load(
        folder, louder, sealed=False
    )
    fewer = {**config, "answers": [config["answers"][0][:-1]]}
    assert "or differs in shape or type" in load(folder, fewer)
    (folder / "base.json").write_text("{}")
    assert "base.json: damaged" in load(folder, config)
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-4] + b"1234")
    assert f"{TENSORS}: damaged: its content differs from the export" in load(folder, config)
    (folder / TENSORS).unlink()
    assert f"{TENSORS}: missing or not a regular file" in load(folder, config)
    (folder / CONFIG).write_text("{")
    with pytest.raises(UserError, match=r"config\.json: damaged"):
        read_adapter(folder)


def test_other_base_weights_are_refused(out: Path, tmp_path: Path) -> None:
    """For example a hub id whose main branch has changed since."""
    folder, config = damage_copy(out, tmp_path)
    other = shutil.copytree(TINY / "roberta", tmp_path / "roberta")
    tensors = load_file(other / "model.safetensors")
    name = next(name for name in tensors if name.endswith("output.dense.weight"))
    save_file(
        {**tensors, name: tensors[name] * 1.001},
        other / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert "not the weights that the adapter was trained on (" in load(
        folder, {**config, "weights": {"text": str(other)}}
    )
    drawn = {**config, "cell": {**config["cell"], "seed": 7}}
    assert "not the weights that the adapter was trained on (text.pooler" in load(folder, drawn), (
        "a random frozen part comes from the seed"
    )


def test_features_are_not_images(out: Path) -> None:
    """A backbone that reads features can be exported, but it cannot read an image file."""
    adapter = read_adapter(out / "vqa")
    with pytest.raises(
        UserError, match="this adapter reads features that shapes holds, not images"
    ):
        predict(
            replace(adapter, image={}),
            rebuild(adapter, out / "vqa"),
            0,
            [AskedQuestion((str(out / "red.png"),), "why?")],
            1,
            top=0,
        )


def test_only_whole_and_finished_cells_are_exported(ran: Ran, tmp_path: Path) -> None:
    cell = ran.cell("lora", "vit_roberta", "vqa")
    root = tmp_path / "root"
    folder = shutil.copytree(ran.store.folder(cell.id), Store(root).folder(cell.id))

    def refusal() -> str:
        with pytest.raises(UserError) as error:
            export(cell, Store(root), tmp_path / "out", "vlpeft")
        return str(error.value)

    lines = (folder / "predictions.jsonl").read_text()
    (folder / "predictions.jsonl").write_text(lines + "\n")
    assert "predictions.jsonl is missing or damaged" in refusal()
    (folder / "predictions.jsonl").write_text(lines)
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, "provenance": {"data": "other"}}))
    assert "dataset 'shapes' has changed since cell" in refusal()
    said = "".join(json.dumps({"prediction": "unheard of"}) + "\n" for _ in lines.splitlines())
    (folder / "predictions.jsonl").write_text(said)
    (folder / "record.json").write_text(json.dumps({**record, "files": {}}))
    assert refusal().startswith("only 0 of 5 test examples are answered as in the run")
    (folder / "record.json").unlink()
    assert f"cell {cell.id} is not finished" in refusal()
    assert not (tmp_path / "out").exists()
