"""Joint cells: one model trained on several tasks, one task a batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Case
from tests.end_to_end.conftest import RUN, SHAPES, cells, records
from vlpeft.benchmark.cells.cell import Part
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.checker import CellChecker
from vlpeft.benchmark.plan.compatibility import without_optimizer
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results.report.data import ReadOnce, gather
from vlpeft.results.report.examples import browsers

JOINT = """
protocol: {base: vl_adapter, epochs: null, steps: 6, batch_size: 8, train_limit: 24,
           eval_limit: 8, max_input_tokens: 32, metric_tokenizer: treebank}
tasks:
  - joint:
      - {task: vqa, dataset: small_shapes.yaml}
      - {task: captioning, dataset: small_shapes.yaml}
  - {task: vqa, dataset: small_shapes.yaml}
backbones:
  - {name: clip_bart, text: tiny, vision: tiny, protocol: {metrics: null}}
  - name: vit_roberta
    text: tiny
    vision: tiny
    prefix: projected
    protocol:
      {train_answers: all, loss_mean: tokens, answering: rank, max_generated_tokens: null,
       no_repeat_ngram: 0, early_stopping: false}
methods:
  - {name: lora, rank: 4, on: [clip_bart]}
  - bitfit
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    (folder / "small_shapes.yaml").write_text(SHAPES)
    (folder / "joint.yaml").write_text(JOINT)
    return folder / "joint.yaml"


def test_a_joint_cell_is_planned_run_and_shown_in_a_column_for_each_task(
    sweep, tmp_path, main
) -> None:
    planned = json.loads(main("plan", sweep, "--json").out)
    joint = [cell for cell in planned if cell["cell"]["also"]]
    assert {(c["row"], c["backbone"]) for c in joint} == {
        ("lora", "clip_bart"),
        ("bitfit", "clip_bart"),
        ("bitfit", "vit_roberta"),
    }
    assert [c["skipped"] for c in joint if c["backbone"] == "vit_roberta"] == [
        "vit_roberta does vqa, entailment, nlvr2, not captioning"
    ]
    for cell in (c for c in joint if c["backbone"] == "clip_bart"):
        first, other = cell["cell"]["protocol"], cell["cell"]["also"][0]["protocol"]
        assert (first["prompt"], first["loss_mean"], first["beams"]) == (
            "vqa: {text}",
            "sequences",
            1,
        )
        assert (other["prompt"], other["loss_mean"], other["beams"]) == ("caption: ", "tokens", 5)
    assert main("sweep", sweep, "--root", tmp_path, "--on", "inline", *RUN).code == 0
    record = next(r for r in records(tmp_path).values() if r["cell"]["also"])
    assert {name.partition(":")[0] for name in record["metrics"]} == {
        "vqa/small_shapes",
        "captioning/small_shapes",
    }
    folder = next(folder for folder in cells(tmp_path) if folder.name == record["id"])
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [line["task"] for line in lines] == ["vqa/small_shapes"] * 8 + [
        "captioning/small_shapes"
    ] * 8
    scores = {part.task: part for part in Store(tmp_path).scores(record["id"])}
    for task, metric in (
        ("vqa/small_shapes", "vqa_accuracy"),
        ("captioning/small_shapes", "CIDEr (treebank)"),
    ):
        assert scores[task].mean(metric) == pytest.approx(
            record["metrics"][f"{task}:{metric}"], abs=1e-3
        )
    shown = main("table", sweep, "--root", tmp_path, "--format", "csv").out
    joint = " (joint: vqa/small_shapes + captioning/small_shapes),"
    for column in (
        "vqa,small_shapes,",
        f"vqa,small_shapes{joint}",
        f"captioning,small_shapes{joint}",
    ):
        assert column in shown, column
    plan, store = SweepHandle(str(sweep), root=tmp_path).load_plan(), ReadOnce(Store(tmp_path))
    browsed = browsers(plan, store, gather(plan, store), 1)
    assert [(each.task, each.dataset, len(each.shown)) for each in browsed] == [
        ("captioning", f"small_shapes{joint[:-1]}", 1),
        ("vqa", "small_shapes", 1),
        ("vqa", f"small_shapes{joint[:-1]}", 1),
    ]
    again = main("sweep", sweep, "--root", tmp_path, "--on", "inline", *RUN)
    assert again.code == 0
    assert "0 to run" in again.err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "epochs: null",
            "base: p_adapter, beam_length: generated, select: last, epochs: null",
            "lr: 0.0005 and 0.0003; a joint cell has one optimizer",
        ),
        (
            "early_stopping: false",
            "early_stopping: true",
            "early_stopping: vit_roberta ignores this key; remove it",
        ),
        (
            "max_input_tokens: 32",
            "max_input_tokens: 32, max_output_tokens: 1000",
            "may need 1000 positions, tiny has 128; lower them",
        ),
    ],
)
def test_recipes_that_cannot_be_followed_are_refused(sweep, main, old, new, message) -> None:
    text = sweep.read_text().replace(old, new)
    sweep.with_name("refused.yaml").write_text(text.replace("base: vl_adapter, base", "base"))
    said = main("plan", sweep.with_name("refused.yaml"))
    assert said.code == 2
    assert message in said.err


def test_further_tasks_are_checked_if_two_cells_share_the_first() -> None:
    checker, cell = CellChecker(need_data=False, where="a sweep"), Case("lora", "blip").cell()
    short = Part("captioning", cell.dataset, cell.protocol)
    long = replace(short, protocol=replace(cell.protocol, max_output_tokens=1000))

    def count(also: Part) -> int:
        whole = replace(cell, also=(also,))
        keys = [json.dumps(without_optimizer(part), sort_keys=True) for part in whole.parts]
        return checker._count(whole, keys, 2)["trainable"]

    assert count(short) > 0
    with pytest.raises(UserError, match="lower them"):
        count(long)


def test_a_task_may_be_limited_to_some_backbones(sweep, main) -> None:
    sweep.with_name("some.yaml").write_text(
        sweep.read_text().replace("  - joint:", "  - on: [clip_bart]\n    joint:")
    )
    planned = json.loads(main("plan", sweep.with_name("some.yaml"), "--json").out)
    assert {c["backbone"] for c in planned if c["cell"]["also"]} == {"clip_bart"}
    assert {c["backbone"] for c in planned} == {"clip_bart", "vit_roberta"}


def test_on_names_backbones_of_the_sweep(sweep, main) -> None:
    sweep.with_name("wrong.yaml").write_text(
        sweep.read_text().replace("on: [clip_bart]", "on: [clip_bert]")
    )
    said = main("plan", sweep.with_name("wrong.yaml"))
    assert said.code == 2
    assert "on: no backbone 'clip_bert' here; did you mean 'clip_bart'?" in said.err


def test_copies_for_each_task_are_for_joint_cells_and_skipped_elsewhere(sweep, main) -> None:
    text = sweep.read_text().replace(
        "- {name: lora, rank: 4, on: [clip_bart]}",
        "- {name: lora, rank: 4, per_task: true, on: [clip_bart]}",
    )
    sweep.with_name("copies.yaml").write_text(text)
    cells = [
        c
        for c in json.loads(main("plan", sweep.with_name("copies.yaml"), "--json").out)
        if c["row"] == "lora"
    ]
    assert [(bool(c["cell"]["also"]), c["skipped"]) for c in cells] == [
        (True, ""),
        (False, "per_task is for a model trained on several tasks (`joint:`)"),
    ]
