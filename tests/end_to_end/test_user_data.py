"""A user's own images, questions and captions, in the official layouts, from YAML to table."""

import json

from tests.end_to_end.conftest import (
    RUN,
    leftovers,
    records,
    vlpeft,
    write_karpathy,
    write_one,
    write_vqav2,
)

TWO_TASKS = """[
  {task: vqa, dataset: vqa/my_questions.yaml},
  {task: captioning, dataset: captions/my_captions.yaml}]"""
BACKBONES = """
  - {name: vit_roberta, text: tiny, vision: tiny, protocol: {eval_split: val}}
  - name: vit_gpt2
    text: tiny
    vision: tiny
    loss: repaired
    protocol: {metrics: [bleu], metric_tokenizer: treebank}"""


def test_own_questions_and_captions(tmp_path, main) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write_vqav2(home / "vqa")
    write_karpathy(home / "captions")
    path, root = write_one(home, tasks=TWO_TASKS, backbones=BACKBONES), tmp_path / "root"
    said = vlpeft("sweep", path, "--root", root, "--on", "inline", *RUN)
    assert said.code == 0, said.err
    assert leftovers(root) == []
    questions, captions = sorted(
        records(root).values(), key=lambda record: record["cell"]["task"], reverse=True
    )
    assert set(questions["metrics"]) == {"vqa_accuracy", "vqa_accuracy/number"}
    assert set(captions["metrics"]) == {f"BLEU-{n} (treebank)" for n in (1, 2, 3, 4)}
    lines = (root / "cells" / questions["id"] / "predictions.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    assert [p["id"] for p in predictions] == ["10", "20", "30", "40"]  # eval_limit: 4
    assert {p["prediction"] for p in predictions} <= {"0", "1", "2"}

    moved = tmp_path / "moved"
    home.rename(moved)  # data may move: the cells and their records do not change
    rows = json.loads(main("plan", moved / "one.yaml", "--root", root, "--json").out)
    assert sorted(row["id"] for row in rows if row["state"] == "done") == sorted(records(root))
