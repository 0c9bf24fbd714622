"""Export of finished cells: every method, every task, three formats."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from tests.end_to_end.finished import Ran, fresh
from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.backbone import TINY
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.export.base_code import base_lines
from vlpeft.benchmark.export.folder import (
    CONFIG,
    TENSORS,
    read_adapter,
    rebuild,
    rebuild_model,
)
from vlpeft.benchmark.export.predict import predict, select_part
from vlpeft.benchmark.export.weights import pin_revision
from vlpeft.benchmark.export.write import export
from vlpeft.benchmark.tasks import tasks_for

# peft reads a property that the installed transformers has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(tmp_path_factory.mktemp("finished"))


def spread() -> Iterator[tuple[str, str, str]]:
    """Yield LoRA on every backbone and task, and every other method on one of them in turn."""
    places = [
        (backbone, task)
        for backbone in BACKBONES.entries
        for task in tasks_for(BACKBONES.load(backbone).abilities)
    ]
    yield from (("lora", *place) for place in places)
    only = {
        "vl_pet": ("clip_bart", "nlvr2"),
        "hyperformer": ("vit_roberta", "entailment"),
        "head_only": ("vit_roberta", "nlvr2"),
    }
    for i, method in enumerate(sorted(METHODS.entries.keys() - {"lora"})):
        yield method, *only.get(method, places[i % len(places)])


@pytest.mark.parametrize(("method", "backbone", "task"), list(spread()))
def test_an_exported_adapter_repeats_the_predictions_of_the_run(
    ran: Ran, tmp_path: Path, method: str, backbone: str, task: str
) -> None:
    cell = ran.cell(method, backbone, task)
    export(cell, ran.store, tmp_path / "out", "vlpeft")
    adapter = read_adapter(tmp_path / "out")
    torch.manual_seed(99)  # nothing may depend on the random state
    made = rebuild(adapter, tmp_path / "out")
    wanted = ran.asked(cell, tmp_path)
    answers = predict(adapter, made, 0, wanted, 3, top=3)
    assert [answer.text for answer in answers] == ran.predictions(cell)
    chosen = bool(adapter.answers[0]) and backbone != "blip"
    assert all(bool(answer.top) == chosen for answer in answers)
    if chosen:
        assert all(
            answer.top[0][0] == answer.text and len(answer.top) == min(3, len(adapter.answers[0]))
            for answer in answers
        )
        assert all(
            list(answer.top) == sorted(answer.top, key=lambda pair: -pair[1]) for answer in answers
        )
    assert "/" not in json.dumps(json.loads((tmp_path / "out" / CONFIG).read_text())["cell"]), (
        "a path of this machine"
    )
    metadata = ModelCard.load(tmp_path / "out" / "README.md").data
    assert metadata.library_name == "vlpeft"
    assert {method, backbone, task} <= set(metadata.tags or ())


def test_ranked_answers_come_with_their_likelihood(ran: Ran, tmp_path: Path) -> None:
    """BLIP also ranks if the protocol says so; the scores are those of the ranking."""
    cell = ran.cell("lora", "blip", "vqa")
    data = ran.read(cell)
    recipe = replace(cell.cell.protocol, answering="rank", rank_candidates=4)
    made = rebuild_model(replace(cell.cell, protocol=recipe), data.inputs[0].answers, data.tensors)
    visual = torch.zeros(2, 1, 1 + 17, made.vision.width)
    rows = made.ranked(visual, ["what is it?", "is it red?"])
    assert [row[0][0] for row in rows] == made.predict(visual, ["what is it?", "is it red?"])
    assert all(len(row) == 4 and max(score for _, score in row) < 0 for row in rows)


def test_a_joint_adapter_does_each_of_its_tasks(ran: Ran, tmp_path: Path) -> None:
    cell = ran.cell("per task", "clip_bart", "joint")
    export(cell, ran.store, tmp_path / "out", "vlpeft")
    adapter = read_adapter(tmp_path / "out")
    made, said = rebuild(adapter, tmp_path / "out"), []
    for part in (select_part(adapter, "vqa"), select_part(adapter, "captioning/captions")):
        said += [
            answer.text
            for answer in predict(adapter, made, part, ran.asked(cell, tmp_path, part), 3, top=0)
        ]
    assert said == ran.predictions(cell)
    with pytest.raises(
        UserError, match=r"does vqa/shapes, captioning/captions; name one of them with --task"
    ):
        select_part(adapter, "")
    for form in ("peft", "merged"):
        with pytest.raises(UserError, match="per_task: every task has its own weights"):
            export(cell, ran.store, tmp_path / form, form)


# The formats.

PEFT = [
    ("all", "vit_roberta", "vqa"),
    ("all", "vit_gpt2", "captioning"),
    ("lora", "vit_gpt2", "captioning"),
]
PEFT += [("all", "blip", "vqa"), ("all", "blip_vqa", "vqa"), ("all", "clip_bart", "nlvr2")]
SMALL = pytest.mark.parametrize(("method", "backbone", "task"), PEFT)


@SMALL
def test_peft_loads_the_export_and_computes_the_same(
    ran: Ran, tmp_path: Path, method: str, backbone: str, task: str
) -> None:
    cell = ran.cell(method, backbone, task)
    export(cell, ran.store, tmp_path / "out", "peft")
    data = ran.read(cell)
    expected = ran.losses(rebuild_model(cell.cell, data.inputs[0].answers, data.tensors), cell)
    torch.manual_seed(cell.seed)
    base = fresh(cell, data.inputs[0].answers)
    head = tmp_path / "out" / "head.safetensors"
    if head.exists():
        base.load_state_dict(load_file(head), strict=False)
    before = ran.losses(base, cell)
    model = base.checkpoints()["weights"].model if backbone.startswith("blip") else base.text
    PeftModel.from_pretrained(model, tmp_path / "out")  # this call puts its modules into the model
    torch.testing.assert_close(ran.losses(base.eval(), cell), expected, **CLOSE)
    assert not torch.allclose(before, expected, rtol=1e-3), "the updates do nothing"
    assert ModelCard.load(tmp_path / "out" / "README.md").data.library_name == "peft"


CLASS = {
    "blip": "BlipForConditionalGeneration",
    "blip_vqa": "BlipForQuestionAnswering",
    "vit_roberta": "RobertaModel",
}


@pytest.mark.parametrize(
    ("backbone", "task"),
    [("vit_roberta", "vqa"), ("blip", "vqa"), ("blip_vqa", "vqa"), ("clip_bart", "nlvr2")],
)
def test_the_cards_code_runs_in_its_folder(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, backbone: str, task: str
) -> None:
    export(ran.cell("all", backbone, task), ran.store, tmp_path / "out", "peft")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path / "out")
    found: dict[str, Any] = {}
    exec(code, found)
    assert type(found["model"]) is PeftModel
    assert type(found["base"]).__name__ == CLASS.get(backbone, "BartForConditionalGeneration")
    state = found["model"].state_dict()
    for name, tensor in load_file("adapter_model.safetensors").items():
        (there,) = (
            state[key]
            for key in (name.replace(".weight", ".default.weight"), name, _saved(name))
            if key in state
        )
        torch.testing.assert_close(there, tensor)
    assert "4 steps, up to 4 examples each, learning rate 0.01" in text
    assert "CIDEr" not in text


def _saved(name: str) -> str:
    """Return peft's own name of a module that is saved whole."""
    module, _, parameter = name.rpartition(".")
    return f"{module}.modules_to_save.default.{parameter}"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (
            "gpt2@0123abc",
            'base = GPT2LMHeadModel.from_pretrained("gpt2", revision="0123abc", dtype="float32")',
        ),
        ("gpt2", 'base = GPT2LMHeadModel.from_pretrained("gpt2", dtype="float32")'),
        (
            "/home/me/mine",
            (
                'base = GPT2LMHeadModel.from_pretrained("mine", '
                'dtype="float32")  # the path of that folder'
            ),
        ),
        (
            "/home/me/large.pth",
            'base = load_original(Path("large.pth"), "decoder")  # the path of that file',
        ),
        (
            "random:gpt2",
            (
                "# The base had random weights (random:gpt2), which vlpeft "
                "draws and no checkpoint holds"
            ),
        ),
    ],
)
def test_the_card_names_where_the_base_comes_from(source: str, line: str) -> None:
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9))
    assert base_lines(model, source)[-1].startswith(line)


def test_peft_on_a_model_that_vlpeft_did_not_build(ran: Ran, tmp_path: Path) -> None:
    cell = ran.cell("all", "vit_gpt2", "captioning")
    export(cell, ran.store, tmp_path / "out", "peft")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (
        config["r"] != 2 or config["rank_pattern"]
    )  # the fused projection holds two updates, the others one
    theirs = PeftModel.from_pretrained(
        GPT2LMHeadModel.from_pretrained(TINY / "gpt2", dtype=torch.float32), tmp_path / "out"
    ).eval()
    data = ran.read(cell)
    ours = rebuild_model(cell.cell, (), data.tensors)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(input_ids=ids).logits, ours.text(input_ids=ids).logits, **CLOSE
        )


@pytest.mark.parametrize(
    ("method", "backbone", "task"),
    [
        *PEFT,
        ("full_finetuning", "blip", "captioning"),
        ("bitfit", "clip_bart", "vqa"),
        ("vision", "vit_roberta", "vqa"),
    ],
)
def test_a_merged_model_computes_the_same(
    ran: Ran, tmp_path: Path, method: str, backbone: str, task: str
) -> None:
    cell = ran.cell(method, backbone, task)
    export(cell, ran.store, tmp_path / "out", "merged")
    data = ran.read(cell)
    expected = ran.losses(rebuild_model(cell.cell, data.inputs[0].answers, data.tensors), cell)
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    adapter = read_adapter(moved)
    merged = rebuild(adapter, moved)
    torch.testing.assert_close(ran.losses(merged, cell), expected, **CLOSE)
    assert all(name.startswith("head.") for name in load_file(moved / TENSORS))
    answers = predict(adapter, merged, 0, ran.asked(cell, tmp_path), 3, top=0)
    assert [answer.text for answer in answers] == ran.predictions(cell)
    folder = "weights" if backbone.startswith("blip") else "text"
    assert set(adapter.weights) == {folder} | ({"vision"} if method == "vision" else set())
    again = fresh(
        cell,
        data.inputs[0].answers,
        **{**adapter.cell.backbone.settings, **{key: str(moved / key) for key in adapter.weights}},
    )
    for name, tensor in again.text.state_dict().items():
        torch.testing.assert_close(tensor, merged.text.state_dict()[name])


@pytest.mark.parametrize(
    ("method", "backbone", "form", "message"),
    [
        ("routing_lora", "vit_roberta", "merged", "a routed update depends on the image"),
        ("routing_lora", "vit_roberta", "peft", "a routed update depends on the image"),
        (
            "adapter",
            "vit_roberta",
            "merged",
            "adapter cannot be merged: no weight of the model can hold what it adds (text.",
        ),
        (
            "prompt_tuning",
            "vit_roberta",
            "merged",
            "prompt_tuning cannot be merged: no weight of the model can hold what it adds (prompt.",
        ),
        (
            "bitfit",
            "vit_roberta",
            "peft",
            "peft's format is for LoRA, and bitfit adds no low-rank update",
        ),
        (
            "biased",
            "vit_roberta",
            "peft",
            "peft's LoRA cannot hold text.encoder.layer.0.attention.self.query.base.bias",
        ),
        (
            "full_finetuning",
            "clip_bart",
            "merged",
            "the rows appended to BART's token table have been trained",
        ),
    ],
)
def test_a_format_refuses_what_it_cannot_hold(
    ran: Ran, tmp_path: Path, method: str, backbone: str, form: Any, message: str
) -> None:
    with pytest.raises(UserError) as error:
        export(ran.cell(method, backbone, "vqa"), ran.store, tmp_path / "out", form)
    assert str(error.value).startswith(message)
    assert not list(tmp_path.iterdir()), "something is left behind"


def test_hub_ids_are_pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr(
        "vlpeft.benchmark.export.weights.cached_path",
        lambda name, *_: f"/hub/{name}/{commit}/config.json",
    )
    assert pin_revision("roberta-base") == f"roberta-base@{commit}"
    assert (
        pin_revision(f"/home/me/.cache/models--facebook--bart-base/snapshots/{commit}")
        == f"facebook/bart-base@{commit}"
    )
    assert pin_revision(str(tmp_path)) == ""


@pytest.mark.parametrize(
    "source",
    [
        "tiny",
        "random:gpt2",
        "open_clip:RN101/openai",
        "timm:vit_base_patch16_224",
        "/no/where",
        "features:2048",
    ],
)
def test_other_weights_stay_as_they_are(source: str) -> None:
    assert pin_revision(source) == ""
