"""What inputs are made from: one finished sweep, its exported adapter, and data of all formats."""

from __future__ import annotations

import contextlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.samples import SAMPLES, write_sample
from vlpeft.benchmark.backbones import weights
from vlpeft.benchmark.cli.main import main

SHAPES = 'format: shapes\nroot: ""\ntrain_scenes: 24\nval_scenes: 4\ntest_scenes: 12\n'
SWEEP = """title: fuzz
seeds: [0]
protocol: {lr: 1e-3, steps: 2, batch_size: 4, train_limit: 8, eval_limit: 4}
tasks: [{task: vqa, dataset: small.yaml}]
backbones: [{name: vit_roberta, text: TEXT, vision: tiny}]
methods: [{name: lora, rank: 4}]
"""
PROFILE = "partition: gpu\ntime: 60\nmem_gb: 4\ncpus: 1\ngpus: 0\nsbatch: {account: me}\n"
RUN = ("--on", "inline", "--device", "cpu", "--threads", "1", "--unverified")
TINY = Path(weights.__file__).parent / "tiny"


@dataclass(frozen=True)
class Prepared:
    """Folders that every input copies from; none of them is changed."""

    root: Path  # a finished result folder
    adapter: Path  # an exported adapter
    samples: Path  # a folder for each shipped dataset
    evidence: Path  # what `vlpeft keep` wrote
    picture: Path

    @property
    def cell(self) -> str:
        """The id of the one finished cell."""
        return next((self.root / "cells").iterdir()).name


def write_sweep(folder: Path, text: str = "tiny", sweep: str = SWEEP) -> Path:
    """Write a sweep of one cell and its dataset."""
    (folder / "small.yaml").write_text(SHAPES)
    path = folder / "s.yaml"
    path.write_text(sweep.replace("TEXT", text))
    return path


def prepare(folder: Path) -> Prepared:
    """Run a sweep of one cell, export it, and write the samples of all datasets."""
    path = write_sweep(folder)
    root, adapter, kept = folder / "root", folder / "adapter", folder / "kept"
    call("sweep", path, "--root", root, *RUN)
    cell = next((root / "cells").iterdir()).name
    call("export-adapter", path, cell, "--root", root, "-o", adapter)
    call("keep", path, "--root", root, "--out", kept, "--mixed-environments")
    for name in SAMPLES:
        write_sample(name, folder / "samples" / name)
    picture = next((folder / "samples").rglob("*.jpg"))
    shutil.copy(picture, folder / "picture.jpg")
    return Prepared(root, adapter, folder / "samples", next(kept.iterdir()), folder / "picture.jpg")


def call(*arguments: object) -> None:
    """Run a command that must succeed."""
    said = io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        pytest.raises(SystemExit) as exit_,
    ):
        main([str(each) for each in arguments])
    assert exit_.value.code == 0, f"{arguments}: {said.getvalue()}"
