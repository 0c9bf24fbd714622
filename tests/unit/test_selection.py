"""`select: best` and `augment: blip` in whole runs: tested weights, records, restarts."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vlpeft.benchmark.cells.records import Record, Selected, Store
from vlpeft.benchmark.core.errors import MetricUnavailable, UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.metrics.base import Metric
from vlpeft.benchmark.plan import checker as planning
from vlpeft.benchmark.plan.check import plan, save_plan
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.run import selection
from vlpeft.benchmark.run.runner import run_cell
from vlpeft.benchmark.run.runtime import Runtime
from vlpeft.benchmark.run.selection import selection_metrics
from vlpeft.benchmark.tasks import TASKS

SCENES = "{format: shapes, root: '', train_scenes: 60, val_scenes: 20, test_scenes: 20}\n"
SWEEP = """
protocol:
  {{epochs: 3, batch_size: 24, lr: 5e-3, schedule: constant, train_limit: 64, eval_limit: 16,
   max_input_tokens: 24, max_output_tokens: 12, metric_tokenizer: treebank}}
tasks: [{{task: {task}, dataset: ./scenes.yaml}}]
backbones: [{{name: {backbone}, text: tiny, vision: tiny}}]
methods: [{{name: lora, dropout: 0.2, protocol: {{{more}}}}}]
"""
BEST = "select: best, augment: blip"
# Every attempt is a process of its own, as in test_training.py; each but the last kills itself.
# Nine steps, three an epoch.
WORKER = """
import os, signal, sys
from pathlib import Path
from vlpeft.benchmark.run.runtime import Runtime
from vlpeft.benchmark.run.runner import run_cell

root, cell = sys.argv[1:]
runtime = Runtime(device="cpu", threads=1, checkpoint_seconds=0)
kills = [("train", 2), ("select", 16), ("train", 5), ("train", 9), ("evaluate", 16), ("never", 0)]
for phase, step in kills:
    def progress(where, done, total):
        if (where, done) == (phase, step):
            os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if child == 0:
        outcome = run_cell(cell, Path(root), runtime, progress)
        os._exit(0 if outcome == "done" else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
Run = Callable[..., tuple[Record, Path]]


def planned(folder: Path, more: str, task: str = "vqa", backbone: str = "vit_roberta") -> str:
    """Return the id of the only cell of a sweep, planned in this folder."""
    (folder / "scenes.yaml").write_text(SCENES)
    (folder / "a.yaml").write_text(SWEEP.format(more=more, task=task, backbone=backbone))
    made = plan(SweepHandle(str(folder / "a.yaml")), need_data=True)
    save_plan(made, folder)
    return made.runnable()[0].id


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return the record and the folder of a cell."""

    def call(
        more: str, root: str = "runs", micro_batch: int | None = None, **chosen: str
    ) -> tuple[Record, Path]:
        folder = tmp_path / root
        folder.mkdir(exist_ok=True)
        cell = planned(folder, more, **chosen)
        run_cell(cell, folder, Runtime(device="cpu", threads=1, micro_batch=micro_batch))
        return Store(folder).record(cell), Store(folder).folder(cell)

    return call


def test_deaths_change_nothing(run: Run, tmp_path: Path) -> None:
    """The process is killed in training, in and after a comparison, and in evaluation."""
    whole, folder = run(BEST)
    (tmp_path / "broken").mkdir()
    cell = planned(tmp_path / "broken", BEST)
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path / "broken"), cell],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["-9"] * 5 + ["0"]
    broken = Store(tmp_path / "broken").record(cell)
    for name in ("trained.safetensors", "predictions.jsonl"):
        assert (Store(tmp_path / "broken").folder(cell) / name).read_bytes() == (
            folder / name
        ).read_bytes()
    assert (broken.metrics, broken.curve, broken.selection) == (
        whole.metrics,
        whole.curve,
        whole.selection,
    )
    assert whole.selection is not None
    assert len(whole.selection.scores) == 3


def test_the_best_epoch_is_tested_and_recorded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = iter(
        [0.0, 1.0, 3.0, 3.0]
    )  # the check before training, then three epochs; the earlier of equal epochs stays
    monkeypatch.setattr(selection.Selection, "_score", lambda *_: next(scripted))
    best, chosen = run("select: best, select_metric: [vqa_accuracy]")
    assert best.selection == Selected(2, "val", ("vqa_accuracy",), (1.0, 3.0, 3.0))
    two, folder = run("epochs: 2")
    assert two.selection is None
    assert (chosen / "trained.safetensors").read_bytes() == (
        folder / "trained.safetensors"
    ).read_bytes()
    assert (chosen / "predictions.jsonl").read_bytes() == (
        folder / "predictions.jsonl"
    ).read_bytes(), "of the test split alone"
    three, _ = run("select: last")
    assert best.curve == three.curve, "comparing epochs moves no draw of training"
    assert best.cost["steps"] == three.cost["steps"] == 9
    assert best.cost["gpu_hours"] == 0, "on a CPU"


def test_captions_are_compared_by_a_sum(run: Run) -> None:
    record, _ = run(
        "select: best, select_metric: [CIDEr, BLEU-4], metrics: [rouge_l]",
        task="captioning",
        backbone="vit_gpt2",
    )
    assert record.selection is not None
    assert record.selection.metric == ("CIDEr", "BLEU-4")
    assert max(record.selection.scores) == record.selection.scores[record.selection.epoch - 1]
    assert "CIDEr (treebank)" not in record.metrics, "the test reports what it is asked for"


def test_a_score_is_the_sum_of_the_named_values(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "check_names", lambda _: None)  # it refuses one split for both
    one, _ = run("select: best, select_split: test, select_metric: [vqa_accuracy]")
    assert one.selection is not None
    assert max(one.selection.scores) == one.metrics["vqa_accuracy"], (
        "the split that is tested, scored by the same metric"
    )
    twice, _ = run("select: best, select_split: test, select_metric: [vqa_accuracy, exact_match]")
    assert twice.selection is not None
    assert twice.selection.scores == tuple(2 * score for score in one.selection.scores), (
        "one of a single answer's two names"
    )
    assert max(one.selection.scores) > 0


def test_augmentation_changes_training_only(run: Run) -> None:
    plain, _ = run("eval_limit: 4")
    seen, _ = run("augment: blip, eval_limit: 4")
    assert plain.curve[0] != seen.curve[0]
    parts, _ = run("augment: blip, eval_limit: 4", root="parts", micro_batch=5)
    assert parts.curve[0][1] == pytest.approx(seen.curve[0][1], rel=1e-5), (
        "micro-batches see the same views"
    )
    blind, _ = run("images: zeroed, eval_limit: 4")
    same, _ = run("images: zeroed, augment: blip, eval_limit: 4")
    assert blind.curve == same.curve, "black stays black"


def test_a_metric_that_cannot_run_is_found_before_training(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from vlpeft.benchmark.metrics.captions import Cider

    def refuse(self: Metric) -> None:
        raise MetricUnavailable("no Java here")

    monkeypatch.setattr(Cider, "require", refuse)
    with pytest.raises(
        UserError, match=r"^select_metric: CIDEr cannot compare epochs here: no Java here$"
    ):
        run("select: best, select_metric: [CIDEr]", task="captioning", backbone="vit_gpt2")
    assert not list(tmp_path.glob("runs/cells/*/checkpoint.pt"))


REFUSED = {
    "select: best, epochs: null, steps: 3": (
        "`select: best` compares epochs: set `epochs` instead of `steps`, or `select: last`"
    ),
    "select: best, select_split: vla": (
        "select_split: dataset 'scenes' has no split 'vla'; did you mean 'val'?"
    ),
    "select: best, select_split: test": (
        "select_split: 'test' is what is tested, and epochs chosen on it flatter the result"
    ),
    "select: best, select_split: zzzzzz": "set `protocol: {select_split: val}`",
    "select: best, select_metric: [vqa_acuracy]": (
        "select_metric: vqa has no value 'vqa_acuracy'; did you mean 'vqa_accuracy'?"
    ),
    "select: best, select_metric: [CIDEr]": "select_metric: vqa has no value 'CIDEr'",
}


@pytest.mark.parametrize("more", REFUSED)
def test_typos_are_found_at_plan_time(more: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(REFUSED[more])):
        planned(tmp_path, more)


def test_joint_cells_keep_their_last_weights(tmp_path: Path) -> None:
    (tmp_path / "scenes.yaml").write_text(SCENES)
    text = SWEEP.format(more="select: best", task="vqa", backbone="clip_bart")
    joint = text.replace(
        "[{task: vqa, dataset: ./scenes.yaml}]",
        "[{joint: [{task: vqa, dataset: scenes.yaml}, {task: captioning, dataset: scenes.yaml}]}]",
    )
    (tmp_path / "a.yaml").write_text(joint)
    with pytest.raises(
        UserError, match="a joint cell is tested with its last weights; set `select: last`"
    ):
        plan(SweepHandle(str(tmp_path / "a.yaml")), need_data=True)


def test_the_default_metric_that_compares_epochs() -> None:
    def chosen(task: str, **settings: object) -> dict[str, str]:
        return selection_metrics(
            TASKS.load(task), Protocol(lr=1.0, epochs=1, select="best", **settings)
        )

    assert chosen("vqa") == {"vqa_accuracy": "vqa_accuracy"}
    assert chosen("captioning") == {"CIDEr": "cider"}
    assert chosen("captioning", metrics=("rouge_l", "bleu")) == {"ROUGE-L": "rouge_l"}, (
        "the first that the cell reports"
    )
    assert chosen("captioning", select_metric=("CIDEr", "BLEU-4")) == {
        "CIDEr": "cider",
        "BLEU-4": "bleu",
    }
