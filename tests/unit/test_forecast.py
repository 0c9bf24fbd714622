"""`vlpeft plan --cost`: seconds of a step, times steps, times seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark import cli, forecast
from benchmark.forecast import step_seconds, total_steps
from benchmark.planning import plan
from benchmark.runner import Runtime
from benchmark.training import Feed
from results.render import render
from results.steps import forecast_table

SWEEP = """
protocol: {lr: 1e-3, epochs: 2, batch_size: 8, train_limit: 30, eval_limit: 4}
seeds: [0, 1, 2]
tasks: [vqa/shapes, {joint: [vqa/shapes, captioning/shapes], on: [blip]}]
backbones:
  - {name: vit_roberta, text: tiny, vision: tiny}
  - {name: blip, weights: tiny, image_size: 64}
methods: [{name: lora, rank: 4}]
"""


@pytest.fixture
def sweep(tmp_path: Path) -> str:
    (tmp_path / "small.yaml").write_text(SWEEP)
    return str(tmp_path / "small.yaml")


def test_steps_are_those_of_the_run(sweep: str) -> None:
    """30 questions in batches of 8, two epochs; captions train one by one, five an image."""
    steps = {(cell.backbone, cell.task): total_steps(cell.cell) for cell in plan(sweep, need_data=True).cells}
    assert steps["vit_roberta", "vqa"] == 2 * 4
    assert steps["blip", "vqa+captioning"] > steps["blip", "vqa"] == 8


def test_a_step_is_measured_in_part_of_its_batch(sweep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a joint cell the mean over its tasks; a batch that is cut costs in proportion."""
    sizes = []

    def one(_state: object, feed: Feed, _seed: int, _runtime: Runtime) -> float:
        sizes.append((feed.task, len(feed.items)))
        return float(feed.task + 1)

    monkeypatch.setattr(forecast, "_one", one)
    cell = plan(sweep, need_data=True).cells[-1].cell
    assert step_seconds(cell, 2, Runtime(device="cpu", threads=1)) == 4 * (1.0 + 2.0) / 2
    assert set(sizes) == {(0, 2), (1, 2)}


def test_the_command(sweep: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        def __init__(self, *_args: object, **_options: object) -> None: ...
        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_error: object) -> None: ...

        def submit(self, work, *arguments):
            self.result = lambda: work(*arguments)
            return self

    monkeypatch.setattr(forecast, "ProcessPoolExecutor", Here)
    with pytest.raises(SystemExit) as done:
        cli.main(["plan", sweep, "--cost", "--batch", "2", "--device", "cpu", "--threads", "1", "--json"])
    assert done.value.code == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [(row["backbone"], row["task"], row["cells"], row["failed"]) for row in rows] == [
        ("vit_roberta", "vqa", 3, ""),
        ("blip", "vqa", 3, ""),
        ("blip", "vqa+captioning", 3, ""),
    ]
    for row in rows:
        assert row["step_seconds"] > 0
        assert row["hours"] == pytest.approx(row["step_seconds"] * row["steps"] * 3 / 3600)
    assert len(printed.err.splitlines()) == 3
    text = render(forecast_table("s", "cuda", [forecast.Forecast(**row) for row in rows]), "text")
    assert "GPU-hours" in text.splitlines()[0]
