"""Predictions do not depend on how many examples are predicted at once."""

from __future__ import annotations

import json

import pytest
import torch

from tests.end_to_end.conftest import RUN, records, write_one
from tests.end_to_end.finished import Ran
from vlpeft.benchmark.export.folder import rebuild_model
from vlpeft.benchmark.export.predict import make_feed
from vlpeft.benchmark.run.evaluation import predict_split

CELLS = (
    ("vit_roberta", "vqa"),
    ("vit_gpt2", "captioning"),
    ("blip", "vqa"),
    ("blip_vqa", "vqa"),
    ("blip", "captioning"),
    ("clip_bart", "vqa"),
    ("clip_bart", "captioning"),
    ("clip_bart", "nlvr2"),
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Ran:
    return Ran(tmp_path_factory.mktemp("cells"))


@pytest.mark.parametrize(("backbone", "task"), CELLS)
def test_predictions_are_the_same(ran, tmp_path, capsys, backbone: str, task: str) -> None:
    """With 128, 3 and 1 examples at once, and with a device that holds two."""
    cell = ran.cell("lora", backbone, task)
    finished = ran.read(cell)
    (inputs,) = finished.inputs
    model = rebuild_model(finished.cell, inputs.answers, finished.tensors)
    feed = make_feed(model, inputs, 0, tmp_path)

    def small(visual: torch.Tensor, prompts: list[str]) -> list[str]:
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model.predict(visual, prompts)

    wanted = ran.predictions(cell)
    assert len(wanted) > 3
    for batch in (128, 3, 1):
        assert predict_split(model, model.predict, inputs, feed, inputs.test, batch) == wanted
    assert "ran out of memory" not in capsys.readouterr().err
    assert predict_split(model, small, inputs, feed, inputs.test, 128) == wanted
    assert "ran out of memory" in capsys.readouterr().err


def test_the_flag_is_not_part_of_a_cell(tmp_path, main) -> None:
    path = write_one(tmp_path)
    for root, more in (("a", ()), ("b", ("--eval-batch", 1))):
        where = ("--root", tmp_path / root, "--on", "inline")
        assert main("sweep", path, *where, *RUN, *more).code == 0
    one, other = (records(tmp_path / root) for root in "ab")
    assert one.keys() == other.keys()
    assert [r["metrics"] for r in one.values()] == [r["metrics"] for r in other.values()]
    lines = [next((tmp_path / root).glob("cells/*/predictions.jsonl")) for root in "ab"]
    texts = [
        [json.loads(line)["prediction"] for line in file.read_text().splitlines()] for file in lines
    ]
    assert texts[0] == texts[1]
    said = main("sweep", path, "--root", tmp_path / "c", *RUN, "--eval-batch", 0)
    assert (said.code, said.err) == (
        2,
        "vlpeft: error: --eval-batch: input should be greater than 0, got 0\n",
    )
