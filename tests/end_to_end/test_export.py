"""Finished cells taken out and asked: every method, every task, the three formats, and what goes wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from benchmark.adapters import CONFIG, TENSORS, pinned, read_adapter, rebuild, revive
from benchmark.backbones import BACKBONES
from benchmark.backbones.base import TINY, Backbone
from benchmark.cell import Plan, Planned
from benchmark.config import parse
from benchmark.errors import UserError
from benchmark.export import export, finished
from benchmark.grid import METHODS
from benchmark.planning import plan, save_plan
from benchmark.predict import Asked, predict, read_rows
from benchmark.records import Store
from benchmark.runner import Runtime, run_cell
from tests.end_to_end.conftest import leftovers

# peft reads a property that the installed transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SHAPES = "format: shapes\nroot: ''\ntrain_scenes: 12\nval_scenes: 2\ntest_scenes: 6\n"
SWEEP = """
protocol: {lr: 1e-2, steps: 4, batch_size: 4, train_limit: 12, eval_limit: 5, max_input_tokens: 32, max_output_tokens: 8,
           metric_tokenizer: treebank}
tasks:
  - {task: vqa, dataset: shapes.yaml}
  - {task: captioning, dataset: shapes.yaml}
  - {task: entailment, dataset: shapes.yaml}
  - {task: nlvr2, dataset: shapes.yaml}
backbones:
  - {name: vit_roberta, text: tiny, vision: tiny, pooler: random}
  - {name: vit_gpt2, text: tiny, vision: tiny, prefix: projected, protocol: {metrics: [rouge_l]}}
  - {name: blip, weights: tiny, image_size: 64, protocol: {answering: generate}}
  - {name: clip_bart, text: tiny, vision: tiny, grid: 4}
methods:
"""
LORA = {
    "all": "{name: lora, label: all, rank: 2, alpha: 3, targets: [query, value, output, up, down], also_train: [norms]}",
    "biased": "{name: lora, label: biased, rank: 2, also_train: [target_biases]}",
    "vision": "{name: full_finetuning, label: vision, vision: true}",
}


class Ran:
    """Cells of one sweep, each run when it is first asked for."""

    def __init__(self, root: Path, made: Plan) -> None:
        self.root, self.made, self.store = root, made, Store(root)
        save_plan(made, root)

    def cell(self, row: str, backbone: str, task: str) -> Planned:
        wanted = next(c for c in self.made.runnable() if (c.row, c.backbone, c.task) == (row, backbone, task))
        if not self.store.has_record(wanted.id):
            run_cell(wanted.id, self.root, Runtime(device="cpu", threads=1))
        return wanted

    def predictions(self, cell: Planned) -> list[str]:
        lines = (self.store.folder(cell.id) / "predictions.jsonl").read_text().splitlines()
        return [json.loads(line)["prediction"] for line in lines]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("export")
    (folder / "shapes.yaml").write_text(SHAPES)
    methods = [*METHODS.entries, *LORA.values()]
    (folder / "sweep.yaml").write_text(
        SWEEP + "".join(f"  - {m}\n" for m in methods)
    )
    return Ran(folder / "root", plan(str(folder / "sweep.yaml"), need_data=True))


def asked(ran: Ran, cell: Planned, folder: Path) -> list[Asked]:
    """The test examples of a cell as a user would give them: image files and texts."""
    (inputs,) = finished(cell, ran.store).inputs
    found = []
    for example in inputs.test:
        paths = [folder / f"{image.replace('/', '_')}.png" for image in example.images]
        for path, image in zip(paths, example.images, strict=True):
            Image.fromarray(inputs.data.image(image)).save(path)
        found.append(Asked(tuple(map(str, paths)), example.question))
    return found


def spread() -> Iterator[tuple[str, str, str]]:
    """LoRA on every backbone and task, every other method on one of them, in turn."""
    places = [(backbone, task) for backbone in BACKBONES.entries for task in BACKBONES.load(backbone).tasks]
    yield from (("lora", *place) for place in places)
    only = {"vl_pet": ("clip_bart", "nlvr2"), "hyperformer": ("vit_roberta", "entailment"), "head_only": ("vit_roberta", "nlvr2")}
    for i, method in enumerate(sorted(METHODS.entries.keys() - {"lora"})):
        yield method, *only.get(method, places[i % len(places)])


@pytest.mark.parametrize(("method", "backbone", "task"), list(spread()))
def test_an_exported_adapter_says_what_the_run_said(ran: Ran, tmp_path: Path, method: str, backbone: str, task: str) -> None:
    cell = ran.cell(method, backbone, task)
    export(cell, ran.store, tmp_path / "out", "vlpeft")
    adapter = read_adapter(tmp_path / "out")
    torch.manual_seed(99)  # nothing may depend on where the random state stands
    made = rebuild(adapter, tmp_path / "out")
    wanted = asked(ran, cell, tmp_path)
    answers = predict(adapter, made, 0, wanted, 3, top=3)
    assert [answer.text for answer in answers] == ran.predictions(cell)
    chosen = bool(adapter.answers[0]) and backbone != "blip"
    assert all(bool(answer.top) == chosen for answer in answers)
    if chosen:
        assert all(answer.top[0][0] == answer.text and len(answer.top) == min(3, len(adapter.answers[0])) for answer in answers)
        assert all(list(answer.top) == sorted(answer.top, key=lambda pair: -pair[1]) for answer in answers)
    assert "/" not in json.dumps(json.loads((tmp_path / "out" / CONFIG).read_text())["cell"]), "a path of this machine"
    metadata = ModelCard.load(tmp_path / "out" / "README.md").data
    assert metadata.library_name == "vlpeft"
    assert {method, backbone, task} <= set(metadata.tags or ())


def test_ranked_answers_come_with_their_likelihood(ran: Ran, tmp_path: Path) -> None:
    """BLIP ranks, too, where the protocol says so; the scores are those of the ranking."""
    cell = ran.cell("lora", "blip", "vqa")
    data = finished(cell, ran.store)
    recipe = replace(cell.cell.protocol, answering="rank", rank_candidates=4)
    made = revive(replace(cell.cell, protocol=recipe), data.inputs[0].answers, data.tensors)
    visual = torch.zeros(2, 1, 1 + 17, made.vision.width)
    rows = made.ranked(visual, ["what is it?", "is it red?"])
    assert [row[0][0] for row in rows] == made.predict(visual, ["what is it?", "is it red?"])
    assert all(len(row) == 4 and max(score for _, score in row) < 0 for row in rows)


# The formats.

PEFT = [("all", "vit_roberta", "vqa"), ("all", "vit_gpt2", "captioning"), ("lora", "vit_gpt2", "captioning")]
PEFT += [("all", "blip", "vqa"), ("all", "clip_bart", "nlvr2")]
SMALL = pytest.mark.parametrize(("method", "backbone", "task"), PEFT)


@SMALL
def test_peft_loads_what_was_exported_and_computes_the_same(ran: Ran, tmp_path: Path, method: str, backbone: str, task: str) -> None:
    from peft import PeftModel

    cell = ran.cell(method, backbone, task)
    export(cell, ran.store, tmp_path / "out", "peft")
    data = finished(cell, ran.store)
    expected = losses(revive(cell.cell, data.inputs[0].answers, data.tensors), ran, cell)
    torch.manual_seed(cell.seed)
    base = fresh(cell, data.inputs[0].answers)
    head = tmp_path / "out" / "head.safetensors"
    if head.exists():
        base.load_state_dict(load_file(head), strict=False)
    before = losses(base, ran, cell)
    model = base.checkpoints()["weights"].model if backbone == "blip" else base.text
    PeftModel.from_pretrained(model, tmp_path / "out")  # puts its modules into the model
    torch.testing.assert_close(losses(base.eval(), ran, cell), expected, **CLOSE)
    assert not torch.allclose(before, expected, rtol=1e-3), "the updates do nothing"
    assert ModelCard.load(tmp_path / "out" / "README.md").data.library_name == "peft"


def test_peft_on_a_model_that_vlpeft_has_never_seen(ran: Ran, tmp_path: Path) -> None:
    from peft import PeftModel

    cell = ran.cell("all", "vit_gpt2", "captioning")
    export(cell, ran.store, tmp_path / "out", "peft")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] != 2 or config["rank_pattern"]  # the fused projection holds two updates, others one
    theirs = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(TINY / "gpt2", dtype=torch.float32), tmp_path / "out").eval()
    data = finished(cell, ran.store)
    ours = revive(cell.cell, (), data.tensors)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=ids).logits, ours.text(input_ids=ids).logits, **CLOSE)


@pytest.mark.parametrize(
    ("method", "backbone", "task"),
    [*PEFT, ("full_finetuning", "blip", "captioning"), ("bitfit", "clip_bart", "vqa"), ("vision", "vit_roberta", "vqa")],
)
def test_a_merged_model_computes_the_same(ran: Ran, tmp_path: Path, method: str, backbone: str, task: str) -> None:
    cell = ran.cell(method, backbone, task)
    export(cell, ran.store, tmp_path / "out", "merged")
    data = finished(cell, ran.store)
    expected = losses(revive(cell.cell, data.inputs[0].answers, data.tensors), ran, cell)
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    adapter = read_adapter(moved)
    merged = rebuild(adapter, moved)
    torch.testing.assert_close(losses(merged, ran, cell), expected, **CLOSE)
    assert all(name.startswith("head.") for name in load_file(moved / TENSORS))
    answers = predict(adapter, merged, 0, asked(ran, cell, tmp_path), 3, top=0)
    assert [answer.text for answer in answers] == ran.predictions(cell)
    folder = "weights" if backbone == "blip" else "text"
    assert set(adapter.weights) == {folder} | ({"vision"} if method == "vision" else set())
    towers = {**adapter.cell.backbone.settings, **{key: str(moved / key) for key in adapter.weights}}
    again = parse(BACKBONES.load(backbone), towers, backbone).build(data.inputs[0].answers, cell.cell.protocol)
    for name, tensor in again.text.state_dict().items():
        torch.testing.assert_close(tensor, merged.text.state_dict()[name])


@pytest.mark.parametrize(
    ("method", "backbone", "form", "message"),
    [
        ("routing_lora", "vit_roberta", "merged", "a routed update depends on the image"),
        ("routing_lora", "vit_roberta", "peft", "a routed update depends on the image"),
        ("adapter", "vit_roberta", "merged", "adapter cannot be merged: no weight of the model can hold what it adds (text."),
        ("prompt_tuning", "vit_roberta", "merged", "prompt_tuning cannot be merged: no weight of the model can hold what it adds (prompt."),
        ("bitfit", "vit_roberta", "peft", "peft's format is for LoRA, and bitfit adds no low-rank update"),
        ("biased", "vit_roberta", "peft", "peft's LoRA cannot hold text.encoder.layer.0.attention.self.query.base.bias"),
        ("full_finetuning", "clip_bart", "merged", "the rows appended to BART's token table have been trained"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(ran: Ran, tmp_path: Path, method: str, backbone: str, form: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        export(ran.cell(method, backbone, "vqa"), ran.store, tmp_path / "out", form)
    assert str(error.value).startswith(message)
    assert not list(tmp_path.iterdir()), "something is left behind"


# What goes wrong.


@pytest.fixture(scope="module")
def out(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    export(ran.cell("lora", "vit_roberta", "vqa"), ran.store, folder / "vqa", "vlpeft")
    export(ran.cell("lora", "vit_roberta", "vqa"), ran.store, folder / "peft", "peft")
    export(ran.cell("lora", "clip_bart", "nlvr2"), ran.store, folder / "nlvr2", "vlpeft")
    export(ran.cell("lora", "vit_gpt2", "captioning"), ran.store, folder / "captioning", "vlpeft")
    Image.new("RGB", (70, 50), "red").save(folder / "red.png")
    (folder / "text.png").write_text("no image")
    (folder / "rows.jsonl").write_text(
        '{"image": "red.png", "question": "what is it?"}\n\n{"image": "red.png", "question": "is it red?"}\n'
    )
    return folder


def test_the_commands(ran: Ran, out: Path, tmp_path: Path, main: Any) -> None:
    cell = ran.cell("lora", "vit_roberta", "vqa")
    sweep = ran.root.parent / "sweep.yaml"
    said = main("export-adapter", sweep, cell.id[:10], "--root", ran.root, "-o", tmp_path / "mine")
    assert (said.code, said.out) == (0, f"{tmp_path / 'mine'}: lora of cell {cell.id}; 5 of 5 test examples answered as in the run\n")
    assert not leftovers(ran.root)
    assert not leftovers(tmp_path)
    assert (tmp_path / "mine" / TENSORS).read_bytes() == (out / "vqa" / TENSORS).read_bytes()
    assert (tmp_path / "mine" / CONFIG).read_bytes() == (out / "vqa" / CONFIG).read_bytes()
    again = main("export-adapter", sweep, cell.id, "--root", ran.root, "-o", tmp_path / "mine")
    assert (again.code, again.err) == (2, f"vlpeft: error: {tmp_path / 'mine'} exists; choose another folder, or remove it\n")
    plain = main("predict", "--adapter", out / "vqa", "--image", out / "red.png", "--question", "what is it?", "--device", "cpu")
    listed = main("predict", "--adapter", out / "vqa", "--from", out / "rows.jsonl", "--json", "--device", "cpu")
    rows = [json.loads(line) for line in listed.out.splitlines()]
    assert [row["question"] for row in rows] == ["what is it?", "is it red?"]
    assert rows[0]["prediction"] == plain.out.strip() == rows[0]["top"][0]["answer"]
    assert 0 < rows[0]["top"][0]["probability"] < 1
    two = ("--image", out / "red.png", "--image", out / "red.png")
    assert main("predict", "--adapter", out / "nlvr2", *two, "--question", "both are red").out.strip() in ("true", "false")
    assert main("predict", "--adapter", out / "captioning", "--image", out / "red.png").code == 0


@pytest.mark.parametrize(
    ("adapter", "arguments", "message"),
    [
        ("vqa", ["--question", "why?"], "vqa reads 1 image, got 0; give `--image` once"),
        ("vqa", ["--image", "red.png"], "vqa needs a text beside the image; give `--question`"),
        ("vqa", ["--image", "none.png", "--question", "why?"], "none.png does not exist; check the path"),
        ("vqa", ["--image", "text.png", "--question", "why?"], "cannot decode image"),
        ("vqa", ["--image", "red.png", "--question", "why?", "--task", "nlvr2"], "--task nlvr2: this adapter does vqa/shapes; name one"),
        ("vqa", ["--image", "red.png", "--from", "rows.jsonl"], "--from gives images and questions; leave out --image and --question"),
        ("vqa", ["--from", "none.jsonl"], "cannot read"),
        ("nlvr2", ["--from", "rows.jsonl"], "request 1: nlvr2 reads 2 images, got 1"),
        ("nlvr2", ["--image", "red.png", "--question", "both"], "nlvr2 reads 2 images, got 1; give `--image LEFT --image RIGHT`"),
        ("captioning", ["--image", "red.png", "--question", "why?"], "captioning takes no question; leave it out"),
        ("peft", ["--image", "red.png", "--question", "why?"], "is in peft's format: load it with peft"),
        (".", ["--image", "red.png"], "is no exported adapter: it has no config.json"),
    ],
)
def test_slips_are_named(out: Path, main: Any, adapter: str, arguments: list[str], message: str) -> None:
    said = main("predict", "--adapter", out / adapter, *(str(out / a) if a.endswith((".png", ".jsonl")) else a for a in arguments))
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


def spoilt(out: Path, tmp_path: Path, name: str = "vqa") -> tuple[Path, dict[str, Any]]:
    folder = shutil.copytree(out / name, tmp_path / "copy")
    return folder, json.loads((folder / CONFIG).read_text())


def load(folder: Path, config: dict[str, Any]) -> str:
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        rebuild(read_adapter(folder), folder)
    return str(error.value)


def test_damage_and_what_is_missing_are_named(out: Path, tmp_path: Path) -> None:
    folder, config = spoilt(out, tmp_path)
    assert "adapter schema 2, this version reads 1" in load(folder, {**config, "schema": 2})
    assert "unknown key 'more'" in load(folder, {**config, "more": 1})
    unknown = {
        **config,
        "method": "other",
        "plugin": "some.package",
        "cell": {**config["cell"], "method": {"name": "other", "settings": {}}},
    }
    assert "method 'other' comes from another package; install the one that holds `some.package`" in load(folder, unknown)
    assert "cannot load weights from '/no/where'" in load(folder, {**config, "weights": {"text": "/no/where"}})
    assert "images would be prepared differently" in load(folder, {**config, "image": {**config["image"], "size": 32}})
    fewer = {**config, "answers": [config["answers"][0][:-1]]}
    assert "not trained, or of another shape" in load(folder, fewer)
    (folder / "base.json").write_text("{}")
    assert "base.json: damaged" in load(folder, config)
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-4] + b"1234")
    assert f"{TENSORS}: damaged, its content is not what was exported" in load(folder, config)
    (folder / TENSORS).unlink()
    assert f"{TENSORS}: No such file" in load(folder, config)
    (folder / CONFIG).write_text("{")
    with pytest.raises(UserError, match=r"config\.json: damaged"):
        read_adapter(folder)


def test_other_base_weights_are_refused(out: Path, tmp_path: Path) -> None:
    """A hub id whose main branch has moved on, say."""
    folder, config = spoilt(out, tmp_path)
    other = shutil.copytree(TINY / "roberta", tmp_path / "roberta")
    tensors = load_file(other / "model.safetensors")
    name = next(name for name in tensors if name.endswith("output.dense.weight"))
    save_file({**tensors, name: tensors[name] * 1.001}, other / "model.safetensors", metadata={"format": "pt"})
    assert "is not what the adapter was trained on (" in load(folder, {**config, "weights": {"text": str(other)}})
    drawn = {**config, "cell": {**config["cell"], "seed": 7}}
    assert "is not what the adapter was trained on (text.pooler" in load(folder, drawn), "a random frozen part comes from the seed"


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


def test_hub_ids_are_pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr("benchmark.adapters.try_to_load_from_cache", lambda name, *_, **__: f"/hub/{name}/{commit}/config.json")
    assert pinned("roberta-base") == f"roberta-base@{commit}"
    assert pinned(f"/home/me/.cache/models--facebook--bart-base/snapshots/{commit}") == f"facebook/bart-base@{commit}"
    assert pinned(str(tmp_path)) == ""


@pytest.mark.parametrize(
    "source", ["tiny", "random:gpt2", "open_clip:RN101/openai", "timm:vit_base_patch16_224", "/no/where", "features:2048"]
)
def test_other_weights_stay_as_they_are(source: str) -> None:
    assert pinned(source) == ""


# Helpers.


def fresh(cell: Planned, answers: tuple[str, ...]) -> Backbone:
    """The backbone without its method."""
    return parse(BACKBONES.load(cell.backbone), cell.cell.backbone.settings, cell.backbone).build(answers, cell.cell.protocol).eval()


def losses(backbone: Backbone, ran: Ran, cell: Planned) -> torch.Tensor:
    """The loss of each test example."""
    (inputs,) = finished(cell, ran.store).inputs
    items = inputs.task.items(inputs.test, inputs.answers, cell.cell.protocol)[:5]
    from benchmark.features import visual_inputs

    images = [image for item in items for image in item.images]
    live = visual_inputs(backbone, inputs.data, images, zeroed=False, cache=ran.root / "features")
    with torch.no_grad():
        return torch.stack([backbone.loss(live([item.images]), [item.prompt], [item.targets])[0] for item in items])
