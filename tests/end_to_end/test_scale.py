"""Scales: the same grid on tiny towers and drawn data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.datasets import load_spec
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.grid import cross_layers, expand
from vlpeft.benchmark.plan.scale import load_scale
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.sweep_files import sweep_names
from vlpeft.results.scale import EMBEDDED, TINY, scale_notes

OF_PAPERS = [name for name in sweep_names() if "/" in name]


@pytest.mark.parametrize("name", OF_PAPERS)
def test_every_table_s_grid_is_the_same_at_the_tiny_scale_and_nothing_in_it_is_large(
    name: str,
) -> None:
    full, tiny = expand(SweepHandle(name)), expand(SweepHandle(name, "tiny"))
    assert [(p.row, p.backbone, p.seed) for p in tiny] == [
        (p.row, p.backbone, p.seed) for p in full
    ]
    assert not {p.id for p in full} & {p.id for p in tiny}
    for large, cell in zip(full, tiny, strict=True):
        assert scale_notes(cell.cell) == (TINY, EMBEDDED)
        assert cell.cell.method == large.cell.method
        assert [part.task for part in cell.cell.parts] == [part.task for part in large.cell.parts]
        assert [part.dataset.name for part in cell.cell.parts] == [
            f"{part.dataset.name} (shapes)" for part in large.cell.parts
        ]
        assert cell.cell.protocol.prompt == large.cell.protocol.prompt, (
            "what the scale does not name stays the paper's"
        )
        assert (cell.cell.protocol.epochs, cell.cell.protocol.warmup_steps) == (2, 0)


def test_each_dataset_has_scenes_of_its_own_and_the_same_ones_in_every_table() -> None:
    scale = load_scale("tiny")
    one, other = (scale.drawn_dataset(load_spec(name)) for name in ("vqav2_karpathy", "vizwiz_vqa"))
    assert one.settings["seed"] != other.settings["seed"]
    assert one.open().fingerprint() != other.open().fingerprint()
    assert one.root == ""
    assert scale.drawn_dataset(load_spec("shapes")) == load_spec("shapes"), (
        "drawn data stays as it is"
    )
    shared = {p.id for p in expand(SweepHandle("p_adapter/table1", "tiny"))} & {
        p.id for p in expand(SweepHandle("p_adapter/table2", "tiny"))
    }
    assert shared, "the adapter's cells are in both tables"


def test_explain_says_what_the_scale_sets() -> None:
    cell = next(
        c
        for c in cross_layers(SweepHandle("p_adapter/table1", "tiny"))
        if c.planned.cell.method.name == "full_finetuning"
    )
    assert [layer.origin for layer in cell.protocols[0]][-2:] == [
        "scale tiny",
        "scale tiny, rule 2 (method: full_finetuning)",
    ]
    assert cell.backbone[-1].origin == "scale tiny"
    assert cell.planned.cell.backbone.settings["dropout"] == 0.1, (
        "what it does not set stays the sweep's"
    )


def test_towers_that_become_one_run_once(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "protocol: {lr: 1e-3, steps: 2}\ntasks: [vqa/vqav2]\nmethods: [bitfit]\n"
        "backbones:\n  - {name: vit_roberta, label: base}\n"
        "  - {name: vit_roberta, label: large, text: roberta-large}\n"
    )
    made = plan(SweepHandle(str(path), "tiny"), need_data=True)
    assert [c.skipped for c in made.cells] == [
        "",
        "at this scale it is the cell of bitfit on base, vqa/vqav2 (shapes)",
    ]
    assert made.sweep == "two@tiny"


def test_unknown_scales_and_backbones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--scale: unknown scale 'tini'; did you mean 'tiny'"):
        expand(SweepHandle("quickstart", "tini"))
    with pytest.raises(
        UserError, match="--scale: it does not cover the backbone 'flava'; it covers: blip, "
    ):
        load_scale("tiny").scaled_settings("flava")


def test_the_commands_take_it(tmp_path: Path, main: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "protocol: {base: p_adapter, metrics: null}\ntasks: [entailment/snli_ve]\n"
        "methods: [{name: lora, rank: 4}]\n"
        "backbones: [{name: blip, weights: model_base_capfilt_large.pth}]\n"
    )
    root = ("--root", tmp_path / "runs")
    ran = main("sweep", path, "--scale", "tiny", *root, "--on", "inline", "--threads", "1")
    assert ran.code == 0, ran.err
    (row,) = json.loads(main("status", path, "--scale", "tiny", *root, "--json").out)
    assert (row["state"], row["dataset"]) == ("done", "snli_ve (shapes)")
    shown = main("table", path, "--scale", "tiny", *root)
    assert "(tiny towers, embedded data)" in shown.out
    without = main("table", path, *root)
    assert without.code == 2
    assert (
        f"holds no results of the sweep 'mine'; run `vlpeft sweep {path} "
        f"--root {tmp_path / 'runs'}`"
    ) in without.err
    settings = main("plan", path, "--scale", "tiny", "--explain", row["id"][:6])
    assert "scale tiny" in settings.out
