"""`vlpeft measure`: a step of the real size from random weights, each in its own process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vlpeft.benchmark.backbones.vit_roberta import ViTRoberta
from vlpeft.benchmark.backbones.weights import random_weights
from vlpeft.benchmark.cli import main as cli
from vlpeft.benchmark.core.protocol import Protocol

SWEEP = """
protocol: {lr: 1e-3, epochs: 2, select: best}
tasks: [vqa/shapes, captioning/shapes]
backbones:
  - {name: blip, weights: tiny, image_size: 64}
  - {name: vit_gpt2, text: tiny, vision: tiny}
methods:
  - {name: lora, rank: 4}
  - {name: p_adapter, size: 6, on: [blip]}
"""


def test_steps_are_measured_and_failures_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.yaml").write_text(SWEEP)
    with pytest.raises(SystemExit) as done:
        cli.main(
            [
                "measure",
                str(tmp_path / "small.yaml"),
                "--batch",
                "2",
                "--device",
                "cpu",
                "--threads",
                "1",
                "--json",
            ]
        )
    assert done.value.code == 1, "one of them cannot run"
    steps = {
        (step["backbone"], step["method"]): step for step in json.loads(capsys.readouterr().out)
    }
    assert list(steps) == [("blip", "lora"), ("blip", "p_adapter"), ("vit_gpt2", "lora")]
    assert steps["vit_gpt2", "lora"]["task"] == "captioning"
    assert (
        "size: 6 is cut into one slice per head; choose a multiple of 4"
        in steps["blip", "p_adapter"]["failed"]
    )
    for key in (("blip", "lora"), ("vit_gpt2", "lora")):
        assert steps[key]["failed"] == ""
        assert 0 < steps[key]["trainable"] < steps[key]["total"]
        assert steps[key]["step_seconds"] > 0
        assert steps[key]["peak_memory_mb"] > 100


def test_random_weights_have_the_real_size_and_read_no_file() -> None:
    config = ViTRoberta(text="tiny", vision="tiny")
    shipped = config.build(("no", "yes"), Protocol(lr=1e-3, steps=1))
    with random_weights():
        drawn = config.build(("no", "yes"), Protocol(lr=1e-3, steps=1))
    assert [p.shape for p in drawn.parameters()] == [p.shape for p in shipped.parameters()]
    assert not torch.equal(drawn.token_embeddings.weight, shipped.token_embeddings.weight)
    again = config.build(("no", "yes"), Protocol(lr=1e-3, steps=1))
    assert torch.equal(again.token_embeddings.weight, shipped.token_embeddings.weight), (
        "the context has ended"
    )
