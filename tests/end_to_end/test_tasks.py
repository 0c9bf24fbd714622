"""Every task on every backbone through the command: it runs, or is skipped with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import RUN, SHAPES, records
from vlpeft.benchmark.datasets.shapes import CHANCE

SWEEP = """
protocol: {lr: 1e-3, steps: 3, batch_size: 8, train_limit: 24, eval_limit: 12,
           max_input_tokens: 32, metric_tokenizer: treebank, metrics: null}
tasks:
  - {task: entailment, dataset: small_shapes.yaml}
  - {task: nlvr2, dataset: small_shapes.yaml}
backbones:
  - {name: blip, weights: tiny, image_size: 64}
  - {name: clip_bart, text: tiny, vision: tiny, grid: 4}
  - {name: vit_roberta, text: tiny, vision: tiny, prefix: projected}
  - {name: vit_gpt2, text: tiny, vision: tiny, prefix: projected}
methods: [{name: lora, rank: 4}]
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "small_shapes.yaml").write_text(SHAPES)
    (folder / "tasks.yaml").write_text(SWEEP)
    return folder / "tasks.yaml"


def test_each_task_runs_or_gives_a_reason(sweep: Path, tmp_path: Path, main: Any) -> None:
    planned = json.loads(main("plan", sweep, "--json").out)
    skipped = {(c["backbone"], c["task"]): c["skipped"] for c in planned if c["skipped"]}
    assert skipped == {
        ("blip", "nlvr2"): "blip does vqa, captioning, entailment, not nlvr2",
        ("vit_gpt2", "entailment"): "vit_gpt2 does captioning, not entailment",
        ("vit_gpt2", "nlvr2"): "vit_gpt2 does captioning, not nlvr2",
    }
    assert main("sweep", sweep, "--root", tmp_path, "--on", "inline", *RUN).code == 0
    done = list(records(tmp_path).values())
    assert len(done) == len(planned) - len(skipped)
    for record in done:
        kinds = {f"accuracy/{kind}" for kind in CHANCE[record["cell"]["task"]]}
        assert "accuracy" in record["metrics"]
        assert set(record["metrics"]) - {"accuracy"} <= kinds
        lines = (tmp_path / "cells" / record["id"] / "predictions.jsonl").read_text().splitlines()
        words = (
            {"entailment", "neutral", "contradiction"}
            if record["cell"]["task"] == "entailment"
            else {"true", "false"}
        )
        assert {json.loads(line)["prediction"] for line in lines} <= words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "{entails: yes}",
            "label_words: entailment has no label 'entails'; did you mean 'entailment'?",
        ),
        (
            "{entailment: sure, neutral: sure}",
            "label_words: two labels of entailment have the same word",
        ),
        ("{neutral: ' '}", "label_words: the word of 'neutral' is empty; give it one"),
    ],
)
def test_words_that_do_not_fit_the_labels_are_refused(
    sweep: Path, main: Any, words: str, message: str
) -> None:
    text = sweep.read_text().replace("metrics: null", f"metrics: null, label_words: {words}")
    sweep.with_name("words.yaml").write_text(text)
    said = main("plan", sweep.with_name("words.yaml"))
    assert said.code == 2
    assert f"words.yaml: 'lora' on 'blip', entailment/small_shapes: {message}" in said.err


def test_a_prompt_holds_the_text_it_is_for(sweep: Path, main: Any) -> None:
    sweep.with_name("mute.yaml").write_text(
        sweep.read_text().replace("metrics: null", "metrics: null, prompt: 'is it true?'")
    )
    said = main("plan", sweep.with_name("mute.yaml"))
    assert said.code == 2
    assert (
        "prompt: 'is it true?' leaves out the text of entailment; write {text} where it belongs"
        in said.err
    )


def test_label_words_are_for_tasks_with_labels(sweep: Path, main: Any) -> None:
    text = (
        sweep.read_text()
        .replace("metrics: null", "metrics: null, label_words: {neutral: maybe}")
        .replace("task: entailment", "task: vqa")
    )
    sweep.with_name("none.yaml").write_text(text)
    said = main("plan", sweep.with_name("none.yaml"))
    assert said.code == 2
    assert "label_words: vqa has no labels; remove it" in said.err


def test_the_model_learns_the_label_words(sweep: Path, tmp_path: Path, main: Any) -> None:
    words = "{entailment: sure, neutral: perhaps, contradiction: wrong}"
    text = sweep.read_text().replace("metrics: null", f"metrics: null, label_words: {words}")
    text = text.replace("  - {task: nlvr2, dataset: small_shapes.yaml}\n", "").replace(
        "[{name: lora, rank: 4}]", "[{name: lora, on: [blip]}]"
    )
    sweep.with_name("say.yaml").write_text(text)
    assert (
        main("sweep", sweep.with_name("say.yaml"), "--root", tmp_path, "--on", "inline", *RUN).code
        == 0
    )
    (record,) = records(tmp_path).values()
    lines = [
        json.loads(line)
        for line in (tmp_path / "cells" / record["id"] / "predictions.jsonl")
        .read_text()
        .splitlines()
    ]
    assert {line["prediction"] for line in lines} <= {"sure", "perhaps", "wrong"}
    references = {reference for line in lines for reference in line["references"]}
    assert references <= {"sure", "perhaps", "wrong"}
    assert len(references) > 1
