"""A tiny sweep, a user's own data, and two ways to run the command.

`vlpeft` runs it in a process of its own, `main` in this one.
"""

import json
import os
import signal
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vlpeft.benchmark.cli import main as cli
from vlpeft.benchmark.plan.verify.parts import PARTS
from vlpeft.benchmark.plan.verify.runner import run
from vlpeft.benchmark.plan.verify.stamp import Environment, cache_folder, missing, remember

COMMAND = str(Path(sys.executable).with_name("vlpeft"))
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
RUN = (
    "--device",
    "cpu",
    "--threads",
    "1",
)  # the same number of threads everywhere, so that the same cell gives the same bits

SHAPES = """
format: shapes
root: ""
train_scenes: 24
val_scenes: 4
test_scenes: 12
"""
PROTOCOL = """
  lr: 1e-3
  steps: {steps}
  batch_size: 8
  train_limit: 32
  eval_limit: 16
  max_output_tokens: 12
  metric_tokenizer: treebank
"""
SWEEP = """
title: A tiny sweep
notes: It learns nothing; it only runs.
seeds: [0, 1]
protocol:{protocol}
tasks: [{{task: vqa, dataset: small_shapes.yaml}}, {{task: captioning, dataset: small_shapes.yaml}}]
backbones:
  - {{name: vit_roberta, text: tiny, vision: tiny, protocol: {{metrics: [vqa_accuracy]}}}}
  - name: vit_gpt2
    text: tiny
    vision: tiny
    loss: repaired
    protocol: {{metrics: [cider, bleu, rouge_l]}}
methods:
  - bitfit
  - head_only
  - {{name: lora, rank: 4}}
  - {{name: routing_lora, rank: 4, function: mul}}
{more}"""

MORE_TUNED = """
  - {name: adapter, size: 8}
  - layernorm_tuning
tune: {lr: [1e-4, 1e-3, 1e-2, 3e-2], on: val}
"""


def write_sweep(folder: Path, name: str = "tiny.yaml", steps: int = 4, more: str = "") -> Path:
    """Write the sweep's file next to the dataset that it names."""
    (folder / "small_shapes.yaml").write_text(SHAPES)
    path = folder / name
    path.write_text(SWEEP.format(protocol=PROTOCOL.format(steps=steps), more=more))
    return path


def write_tuned(folder: Path, steps: int = 4) -> Path:
    """Write a sweep of five methods that compares four rates on two tasks: 40 cells, then 20."""
    (folder / "small_shapes.yaml").write_text(SHAPES)
    path = folder / "tuned.yaml"
    tuned = SWEEP.format(protocol=PROTOCOL.format(steps=steps), more=MORE_TUNED)
    path.write_text(tuned.replace("  lr: 1e-3\n", "").replace("  - head_only\n", ""))
    return path


def write_one(
    folder: Path, *, dataset: str = "small_shapes.yaml", name: str = "one.yaml", **replaced: str
) -> Path:
    """Write a sweep of one VQA cell; keywords replace its lines, and "" removes one."""
    (folder / "small_shapes.yaml").write_text(SHAPES)
    lines = {
        "seeds": "[0]",
        "protocol": "{lr: 1e-3, steps: 2, batch_size: 4, train_limit: 8, eval_limit: 4}",
        "tasks": f"[{{task: vqa, dataset: {dataset}}}]",
        "backbones": "[{name: vit_roberta, text: tiny, vision: tiny}]",
        "methods": "[{name: lora, rank: 4}]",
    }
    path = folder / name
    path.write_text(
        "".join(f"{key}: {value}\n" for key, value in {**lines, **replaced}.items() if value)
    )
    return path


def write_vqav2(folder: Path) -> Path:
    """Write six images with a question each in the VQA v2 layout, and their YAML file."""
    for split in ("train", "val"):
        (folder / f"{split}2014").mkdir(parents=True)
        questions, annotations = [], []
        for number in range(1, 7):
            pixels = np.full((40, 50, 3), (number * 40, 255 - number * 40, 90), np.uint8)
            Image.fromarray(pixels).save(
                folder / f"{split}2014" / f"COCO_{split}2014_{number:012d}.jpg"
            )
            question = {
                "question_id": 10 * number,
                "image_id": number,
                "question": f"what number is in picture {number}?",
            }
            answers = [
                {"answer": str(number % 3), "answer_confidence": "yes", "answer_id": i + 1}
                for i in range(10)
            ]
            questions.append(question)
            annotations.append(
                {
                    "question_id": 10 * number,
                    "image_id": number,
                    "answer_type": "number",
                    "answers": answers,
                }
            )
        write_json(
            folder / f"v2_OpenEnded_mscoco_{split}2014_questions.json", {"questions": questions}
        )
        write_json(folder / f"v2_mscoco_{split}2014_annotations.json", {"annotations": annotations})
    files = "".join(
        f"  {split}:\n"
        f"    questions: v2_OpenEnded_mscoco_{split}2014_questions.json\n"
        f"    annotations: v2_mscoco_{split}2014_annotations.json\n"
        f"    images: {split}2014\n"
        f'    pattern: "COCO_{split}2014_{{image_id:012d}}.jpg"\n'
        for split in ("train", "val")
    )
    path = folder / "my_questions.yaml"
    path.write_text(f"format: vqav2\nfiles:\n{files}")
    return path


def write_karpathy(folder: Path) -> Path:
    """Write six captioned images in Karpathy's layout."""
    (folder / "pictures").mkdir(parents=True)
    images = []
    for number in range(6):
        Image.fromarray(np.full((30, 60, 3), number * 40, np.uint8)).save(
            folder / "pictures" / f"{number}.png"
        )
        sentences = [
            {"raw": f"A grey picture of level {number}."},
            {"raw": f"level {number}, grey"},
        ]
        images.append(
            {
                "filename": f"{number}.png",
                "imgid": number,
                "split": "train" if number < 4 else "test",
                "sentences": sentences,
            }
        )
    write_json(folder / "dataset.json", {"images": images})
    path = folder / "my_captions.yaml"
    path.write_text("format: karpathy\nfile: dataset.json\nimages: pictures\n")
    return path


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    write_json(path, content)


def verify_once() -> None:
    """Verify what the tests' cells use before the first command does.

    Otherwise the output would depend on which command runs first. A test may have a cache folder
    or an environment of its own.
    """
    _verify(cache_folder(), Environment.here("cpu").key)


@cache
def _verify(_folder: Path, _key: str) -> None:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    device, left = torch.device("cpu"), missing(Environment.here("cpu"), PARTS)
    if left:
        failed = [finding for finding in run(left, device) if finding.state == "FAILED"]
        assert not failed, failed[0]
        remember(Environment.here("cpu"), left)
    assert (threads, deterministic) == (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )


def environment() -> dict[str, str]:
    verify_once()
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("VLPEFT_DATA", "FORCE_COLOR", "COLUMNS", "PYTHONUNBUFFERED")
    }
    return {**kept, **OFFLINE}


def vlpeft(*arguments: object) -> SimpleNamespace:
    """Run the real command with pipes; fail on a traceback or an escape sequence."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        env=environment(),
        timeout=300,
        check=False,
    )
    return checked(done.returncode, done.stdout.decode(), done.stderr.decode())


def checked(code: int, out: str, err: str) -> SimpleNamespace:
    assert "Traceback" not in out + err, err
    assert "\x1b" not in out + err
    return SimpleNamespace(code=code, out=out, err=err, lines=err.splitlines())


def start_vlpeft(*arguments: object, log: Path) -> subprocess.Popen:
    """Start the real command in the background, as the leader of its own process group.

    It receives SIGINT even if the tests run with SIGINT ignored (nohup).
    """
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with log.open("wb") as file:
        options = {"stdout": file, "stderr": file, "env": environment(), "start_new_session": True}
        command = [COMMAND, *map(str, arguments)]
        # The child only resets a signal, so the function that runs before exec is safe.
        return subprocess.Popen(command, preexec_fn=hear, **options)  # noqa: PLW1509


@pytest.fixture
def main(capsys, monkeypatch):
    """Run the command in this process, which saves the seconds that importing torch takes."""
    for key, value in OFFLINE.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("VLPEFT_DATA", raising=False)
    verify_once()
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()

    def call(*arguments: object) -> SimpleNamespace:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main([*map(str, arguments)])
        out, err = capsys.readouterr()
        return checked(exit_.value.code, out, err)

    yield call
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def cells(root: Path) -> list[Path]:
    return sorted((root / "cells").iterdir())


def records(root: Path) -> dict[str, dict]:
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(root.glob("cells/*/record.json"))
    }


def science(root: Path) -> dict[str, tuple]:
    """Return the parts of a record that do not depend on the machine or the clock."""
    return {
        id_: (r["metrics"], r["curve"], r["files"], r["cost"]["trainable"])
        for id_, r in records(root).items()
    }


def leftovers(root: Path) -> list[str]:
    """Return temporary files, checkpoints and progress, which a finished command must not leave."""
    names = ("checkpoint.pt", "progress.json", "failure.json")
    return [
        str(p)
        for p in root.rglob("*")
        if p.is_file() and (p.name in names or p.name.startswith("."))
    ]
