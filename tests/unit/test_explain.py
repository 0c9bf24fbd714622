"""`vlpeft plan --explain`: every setting of a cell with its origin."""

import json
from dataclasses import fields

import pytest

from vlpeft.benchmark.cli import main as cli
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.plan.grid import cross_layers
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results.tables.explain import explain_rows, explain_table, find

SWEEP = """
protocol: {base: vl_adapter, epochs: 1}
tasks: [{joint: [{task: vqa, dataset: mine.yaml}, captioning/shapes]}]
backbones: [{name: clip_bart, label: small, text: tiny, vision: tiny}]
methods:
  - {name: lora, label: ours, rank: 4, protocol: {beams: 2}}
  - p_adapter
"""


@pytest.fixture
def sweep(tmp_path) -> str:
    (tmp_path / "mine.yaml").write_text(
        "{format: shapes, root: '', train_scenes: 20, protocol: {eval_split: val}}"
    )
    (tmp_path / "a.yaml").write_text(SWEEP)
    return str(tmp_path / "a.yaml")


@pytest.fixture
def explained(sweep) -> dict[str, dict]:
    handle = SweepHandle(sweep)
    cell = find(handle, cross_layers(handle)[0].planned.id[:8])
    return {section["title"]: section["settings"] for section in explain_rows(cell)["sections"]}


def test_one_block_for_each_thing_and_task(explained) -> None:
    assert list(explained) == [
        "method lora",
        "backbone clip_bart",
        "vqa/mine: dataset mine",
        "vqa/mine: protocol vl_adapter",
        "captioning/shapes: dataset shapes",
        "captioning/shapes: protocol vl_adapter",
    ]


def test_each_value_has_its_origin(explained) -> None:
    assert explained["method lora"]["rank"] == {"value": 4, "from": "method 'ours'"}
    assert explained["method lora"]["alpha"] == {"value": 16.0, "from": "default of lora"}
    assert explained["backbone clip_bart"]["text"] == {"value": "tiny", "from": "backbone 'small'"}
    assert explained["backbone clip_bart"]["grid"] == {"value": 6, "from": "default of clip_bart"}
    assert explained["vqa/mine: dataset mine"]["train_scenes"] == {
        "value": 20,
        "from": "dataset mine",
    }
    assert explained["vqa/mine: dataset mine"]["seed"] == {
        "value": 0,
        "from": "default of format shapes",
    }
    vqa, captioning = (
        explained["vqa/mine: protocol vl_adapter"],
        explained["captioning/shapes: protocol vl_adapter"],
    )
    assert vqa["eval_split"] == {"value": "val", "from": "dataset mine"}
    assert captioning["eval_split"] == {"value": "test", "from": "default of Protocol"}
    assert vqa["epochs"] == {"value": 1, "from": "sweep"}
    assert vqa["beams"] == captioning["beams"] == {"value": 2, "from": "method 'ours'"}
    assert vqa["clip_norm"] == {"value": 5.0, "from": "protocol vl_adapter"}
    assert captioning["prompt"]["value"] == "caption: "
    assert captioning["prompt"]["from"].startswith("protocol vl_adapter, rule ")
    assert captioning["prompt"]["from"].endswith("(task: captioning)")


def test_every_setting_is_listed(sweep, explained) -> None:
    cell = cross_layers(SweepHandle(sweep))[0].planned.cell
    assert {
        key: each["value"] for key, each in explained["vqa/mine: protocol vl_adapter"].items()
    } == dump(cell.protocol)
    assert set(explained["vqa/mine: protocol vl_adapter"]) == {f.name for f in fields(Protocol)}
    assert {
        key: each["value"] for key, each in explained["method lora"].items()
    }.items() >= cell.method.settings.items()
    assert all(each["from"] for settings in explained.values() for each in settings.values())


def test_the_command_prints_text_and_json(sweep, capsys) -> None:
    cell = cross_layers(SweepHandle(sweep))[0]
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as done:
            cli.main(["plan", sweep, "--explain", cell.planned.id, *more])
        assert done.value.code == 0
        out = capsys.readouterr().out
        if more:
            assert json.loads(out) == json.loads(json.dumps(explain_rows(cell)))
        else:
            assert f"{cell.planned.id}: ours on small, vqa+captioning/mine+shapes, seed 0" in out
            assert any(
                line.split() == ["rank", "4", "method", "'ours'"] for line in out.splitlines()
            )


def test_machine_readable_output_has_one_row_a_setting(sweep) -> None:
    cell = cross_layers(SweepHandle(sweep))[0]
    rows = explain_table(cell).data
    assert len(rows) == sum(len(section["settings"]) for section in explain_rows(cell)["sections"])


def test_replaced_data_at_another_scale_has_its_own_origins() -> None:
    cell = next(
        each
        for each in cross_layers(SweepHandle("p_adapter/table2", "tiny"))
        if each.planned.task == "vqa"
    )
    (data,) = (
        each
        for each in explain_rows(cell)["sections"]
        if each["title"] == "dataset vqav2_karpathy (shapes)"
    )
    origin = {key: each["from"] for key, each in data["settings"].items()}
    assert origin == dict.fromkeys(
        ("train_scenes", "val_scenes", "test_scenes", "seed"), "scale tiny"
    ) | {"root": "dataset shapes"}


def test_drawn_data_stays_the_same_at_another_scale(sweep) -> None:
    titles = {
        each["title"]: each["settings"]
        for each in explain_rows(cross_layers(SweepHandle(sweep, "tiny"))[0])["sections"]
    }
    assert titles["captioning/shapes: dataset shapes"]["train_scenes"] == {
        "value": 4000,
        "from": "dataset shapes",
    }


def test_a_cell_shared_by_two_towers_at_a_smaller_scale() -> None:
    cells = [each.planned for each in cross_layers(SweepHandle("parameters_routing", "tiny"))]
    twice = next(cell for cell in cells if sum(other.id == cell.id for other in cells) > 1)
    assert find(SweepHandle("parameters_routing", "tiny"), twice.id).planned == twice


@pytest.mark.parametrize("beginning", ["", "zzz"])
def test_no_such_cell(sweep, beginning) -> None:
    with pytest.raises(
        UserError,
        match=(
            rf"^--explain {beginning}: (\d+|no) cells have an id that starts "
            r"with this; see `vlpeft plan .*a\.yaml`$"
        ),
    ):
        find(SweepHandle(sweep), beginning)
