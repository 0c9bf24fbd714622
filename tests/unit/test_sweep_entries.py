"""Sweeps in folders, settings of a method by task, and BLIP's own checkpoint planned without it."""

from pathlib import Path

import pytest
import torch

from vlpeft.benchmark.backbones.blip import BLIP
from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.contract.sites import count
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.plan import sweep_files
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.grid import cross_layers, expand
from vlpeft.benchmark.plan.plan_files import plan_file
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.sweep_files import sweep_name, sweep_names, sweep_path

SWEEP = """
protocol: {lr: 1e-3, steps: 2}
tasks: [vqa/shapes, captioning/shapes]
backbones: [{name: blip, weights: tiny, image_size: 64}]
methods:
  - {name: p_adapter, label: ours, size: 16, p: 1.9, by_task: {captioning: {p: 1.75, mu: 3}}}
  - lora
"""


@pytest.fixture
def write(tmp_path):
    def call(text: str = SWEEP) -> str:
        path = tmp_path / "a.yaml"
        path.write_text(text)
        return str(path)

    return call


def refusal(path: str) -> str:
    with pytest.raises(UserError) as error:
        expand(SweepHandle(path))
    return str(error.value)


def test_a_folder_is_part_of_a_shipped_sweeps_name(tmp_path, monkeypatch):
    (tmp_path / "paper").mkdir()
    for name in ("paper/table1", "table1"):
        (tmp_path / f"{name}.yaml").write_text(SWEEP)
    monkeypatch.setattr(sweep_files, "SWEEPS", tmp_path)
    assert sweep_names() == ("paper/table1", "table1")
    for name in sweep_names():
        assert sweep_path(name) == tmp_path / f"{name}.yaml"
        assert sweep_name(sweep_path(name)) == name
    with pytest.raises(
        UserError, match="unknown sweep 'paper/tabel1'; did you mean 'paper/table1'"
    ):
        sweep_path("paper/tabel1")


def test_a_users_sweep_is_named_after_its_file(write):
    assert sweep_name(Path(write())) == "a"


def test_an_edit_while_the_sweep_is_planned_shows_as_a_change_later(write):
    handle = SweepHandle(write())
    assert len(handle.sweep.methods) == 2
    write(SWEEP.replace("  - lora\n", ""))
    made = plan(handle, need_data=False)
    assert {cell.row for cell in made.cells} == {"ours", "lora"}
    assert SweepHandle(handle.named).reason_outdated(made)
    assert not handle.reason_outdated(made)


def test_plans_of_equal_names_in_two_folders_are_separate(tmp_path):
    files = {
        plan_file(tmp_path, name, scale)
        for name in ("p/table1", "q/table1", "table1")
        for scale in ("", "tiny")
    }
    assert len(files) == 6
    assert plan_file(tmp_path, "p/table1", "tiny") == tmp_path / "sweeps" / "p" / "table1@tiny.json"


def test_settings_of_a_task_override_those_of_the_entry(write):
    settings = {
        (cell.row, cell.task): cell.cell.method.settings for cell in expand(SweepHandle(write()))
    }
    assert (settings["ours", "vqa"]["p"], settings["ours", "vqa"]["mu"]) == (1.9, 0.1)
    assert (settings["ours", "captioning"]["p"], settings["ours", "captioning"]["mu"]) == (1.75, 3)
    assert settings["ours", "captioning"]["size"] == 16
    assert settings["lora", "vqa"] == settings["lora", "captioning"]


def test_their_origin_is_reported(write):
    (cell,) = (
        each
        for each in cross_layers(SweepHandle(write()))
        if (each.planned.row, each.planned.task) == ("ours", "captioning")
    )
    assert [(layer.origin, sorted(layer.values)) for layer in cell.method] == [
        ("method 'ours'", ["p", "size"]),
        ("method 'ours', by_task: captioning", ["mu", "p"]),
    ]


def test_joint_cells_use_the_settings_of_the_entry(write):
    joint = SWEEP.replace(
        "captioning/shapes]", "captioning/shapes, {joint: [captioning/shapes, vqa/shapes]}]"
    )
    found = {
        each.planned.task: each
        for each in cross_layers(SweepHandle(write(joint)))
        if each.planned.row == "ours"
    }
    assert {task: each.planned.cell.method.settings["p"] for task, each in found.items()} == {
        "vqa": 1.9,
        "captioning": 1.75,
        "captioning+vqa": 1.9,
    }
    assert [layer.origin for layer in found["captioning+vqa"].method] == ["method 'ours'"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "by_task: {captioning:",
            "by_task: {captoining:",
            "method 'ours': by_task: no task 'captoining' alone here; did you mean 'captioning'?",
        ),
        (
            "[vqa/shapes, captioning/shapes]",
            "[{joint: [vqa/shapes, captioning/shapes]}]",
            "by_task: no task 'captioning' alone here",
        ),
        ("mu: 3", "nu: 3", "method 'ours': unknown key 'nu'"),
        (
            "image_size: 64",
            "image_size: 64, by_task: {vqa: {}}",
            "backbone 'blip': `by_task` belongs to a method",
        ),
    ],
)
def test_by_task_refusals(write, old, new, says):
    assert says in refusal(write(SWEEP.replace(old, new)))


def test_a_known_checkpoint_is_counted_without_its_file(tmp_path, monkeypatch):
    """The release has 223,679,804 parameters at 224 px; any other file must exist."""
    monkeypatch.chdir(tmp_path)
    recipe = Protocol(lr=1.0, steps=1)
    with torch.device("meta"):
        model = BLIP(weights="model_base_capfilt_large.pth").build([], recipe)
        assert count(model.parameters()) == 223_679_804
        with pytest.raises(UserError, match=r"cannot read model_large\.pth"):
            BLIP(weights="model_large.pth").build([], recipe)
    with pytest.raises(UserError, match=r"cannot read model_base_capfilt_large\.pth"):
        BLIP(weights="model_base_capfilt_large.pth").build([], recipe)


NEEDY = """
protocol: {{lr: 1e-3, steps: 5}}
seeds: [0]
tasks: [vqa/shapes]
backbones: [{{name: vit_roberta, text: tiny, vision: tiny{backbone}}}]
methods: [{{name: lora{method}}}, bitfit]
"""


def needs(write, method: str = "", backbone: str = "") -> list[Planned]:
    return expand(SweepHandle(write(NEEDY.format(method=method, backbone=backbone))))


def test_resources_are_joined_and_change_no_id(write):
    plain = needs(write)
    found = needs(
        write,
        method=", resources: {gpus: 4, time: '10:00:00', partition: big}",
        backbone=", resources: {gpus: 1, time: 900, mem_gb: 80, partition: small}",
    )
    assert [cell.id for cell in found] == [cell.id for cell in plain]
    assert found[0].resources == {"gpus": 4, "time": 900, "mem_gb": 80.0, "partition": "big"}
    assert found[1].resources == {"gpus": 1, "time": 900, "mem_gb": 80.0, "partition": "small"}
    assert all(cell.resources == {} for cell in plain)
    path = write(NEEDY.format(method=", resources: {gpus: 4}", backbone=""))
    assert all(cell.resources == {} for cell in expand(SweepHandle(path, "tiny")))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("[4]", r"methods\[0\]: resources: write a mapping, such as \{gpus: 4, time: 600"),
        ("{gpu: 4}", r"methods\[0\]: resources: unknown key 'gpu'; did you mean 'gpus'\?"),
        ("{time: '10:00'}", r"methods\[0\]: resources: time: '10:00' is not a time; write minutes"),
        ("{mem_gb: 0}", r"methods\[0\]: resources: mem_gb: input should be greater than 0, got 0"),
        ("{partition: 'a b'}", r"methods\[0\]: resources: partition: write one word"),
    ],
)
def test_bad_resources_are_refused(write, method, says):
    with pytest.raises(UserError, match=says):
        needs(write, method=f", resources: {method}")
