"""`vlpeft plan --cost`: seconds of a step, times steps, times seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlpeft.benchmark.backbones.vision import HuggingFaceTower
from vlpeft.benchmark.cli import main as cli
from vlpeft.benchmark.plan import forecast
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.forecast import step_seconds, total_steps
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.run.batches import Feed
from vlpeft.benchmark.run.runtime import Runtime
from vlpeft.results.tables.render import render
from vlpeft.results.tables.steps import forecast_table

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
    steps = {
        (cell.backbone, cell.task): total_steps(cell.cell)
        for cell in plan(SweepHandle(sweep), need_data=True).cells
    }
    assert steps["vit_roberta", "vqa"] == 2 * 4
    assert steps["blip", "vqa+captioning"] > steps["blip", "vqa"] == 8


def test_a_step_is_measured_in_part_of_its_batch(
    sweep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a joint cell is the mean over its tasks.

    A batch that is cut costs in proportion.
    """
    sizes = []

    def one(_state: object, feed: Feed, _seed: int, _runtime: Runtime) -> float:
        sizes.append((feed.task, len(feed.items)))
        return float(feed.task + 1)

    monkeypatch.setattr(forecast, "_one", one)
    cell = plan(SweepHandle(sweep), need_data=True).cells[-1].cell
    assert step_seconds(cell, 2, Runtime(device="cpu", threads=1)) == 4 * (1.0 + 2.0) / 2
    assert set(sizes) == {(0, 2), (1, 2)}


@pytest.mark.parametrize(
    ("more", "computed"),
    [
        ("images: real", 1),
        ("augment: blip", 4),
        ("augment: blip, views: 3", 1),
        ("images: zeroed, augment: blip", 1),
    ],
)
def test_features_are_available_if_a_run_caches_them(
    tmp_path: Path, more: str, computed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tower runs once to make them, or also in each step (`augment` without `views`)."""
    text = SWEEP.replace("eval_limit: 4}", f"eval_limit: 4, {more}}}")
    (tmp_path / "small.yaml").write_text(text)
    cell = plan(SweepHandle(str(tmp_path / "small.yaml")), need_data=True).cells[0].cell
    ran = []
    forward = HuggingFaceTower.forward
    monkeypatch.setattr(
        HuggingFaceTower, "forward", lambda *given: ran.append(1) or forward(*given)
    )
    step_seconds(cell, 2, Runtime(device="cpu", threads=1))
    assert len(ran) == computed


def test_missing_data_is_reported_before_any_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other cells are still measured."""
    files = "{questions: a, annotations: b, images: c, pattern: '{image_id}.png'}"
    (tmp_path / "mine.yaml").write_text(
        f"{{format: vqav2, root: nowhere, files: {{train: {files}, test: {files}}}}}"
    )
    text = SWEEP.replace(
        "tasks: [vqa/shapes, ", "tasks: [{task: vqa, dataset: mine.yaml}, vqa/shapes, "
    )
    (tmp_path / "small.yaml").write_text(text)
    measured = []
    monkeypatch.setattr(
        forecast, "step_seconds", lambda cell, *_: measured.append(cell.dataset.name) or 1.0
    )
    monkeypatch.setattr(forecast, "ProcessPoolExecutor", Here)
    found = list(
        forecast.forecasts(
            plan(SweepHandle(str(tmp_path / "small.yaml")), need_data=False),
            2,
            Runtime(device="cpu", threads=1),
        )
    )
    assert [bool(each.failed) for each in found] == [each.dataset == "mine" for each in found]
    assert "mine" in {each.dataset for each in found}
    assert measured.count("mine") == 0
    assert measured


class Here:
    """An executor that works in this process."""

    def __init__(self, *_args: object, **_options: object) -> None: ...
    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_error: object) -> None: ...

    def submit(self, work, *arguments):
        self.result = lambda: work(*arguments)
        return self


def test_the_command(
    sweep: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "ProcessPoolExecutor", Here)
    with pytest.raises(SystemExit) as done:
        cli.main(
            ["plan", sweep, "--cost", "--batch", "2", "--device", "cpu", "--threads", "1", "--json"]
        )
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "2"], "add --cost"),
        (["--compile"], "add --cost"),
        (["--cost", "--explain", "0"], "--explain, --cost: choose one of them"),
        (["--widen", "--commands"], "--widen, --commands: choose one of them"),
        (["--commands", "--json"], "leave out --json"),
        (["--cost", "--batch", "some"], "must be a whole number"),
        (["--cost", "--device", "gpu"], "device"),
    ],
)
def test_typos(
    sweep: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["plan", sweep, *arguments])
    assert done.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_sweep_without_any_data_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLPEFT_DATA", "/nonexistent")
    with pytest.raises(SystemExit) as done:
        cli.main(["plan", "p_adapter/table1", "--cost", "--device", "cpu"])
    assert done.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "put the file there" in line
