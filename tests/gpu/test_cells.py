"""Whole cells on the GPU, through the command: costs, caches, workers, memory."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Case
from tests.end_to_end.conftest import write_one, write_sweep
from tests.gpu.conftest import DEVICE
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.verify.parts import PARTS
from vlpeft.benchmark.plan.verify.runner import run as verify
from vlpeft.benchmark.run.cost import MIB, Meter
from vlpeft.benchmark.run.features import visual_inputs
from vlpeft.benchmark.run.inputs import Inputs

pytestmark = pytest.mark.gpu
ON = ("--device", DEVICE.type)


def test_the_meter_reads_the_memory_of_the_card(card: torch.device) -> None:
    kept = torch.empty(8 * MIB, dtype=torch.uint8, device=card)
    meter = Meter(card)
    base = meter.read()["peak_memory_mb"]
    more = torch.empty(32 * MIB, dtype=torch.uint8, device=card)
    del more
    assert meter.read()["peak_memory_mb"] == pytest.approx(base + 32, abs=1)
    assert Meter(card).read()["peak_memory_mb"] == pytest.approx(base, abs=1), "it was reset"
    assert kept.is_cuda


def test_features_are_those_of_the_cpu(tmp_path, card: torch.device) -> None:
    case = Case("lora", "vit_roberta")
    inputs = Inputs.open(case.cell().parts[0])
    found = []
    for device in (card, torch.device("cpu")):
        backbone = case.build().to(device)
        images = inputs.images[:6]
        seen = visual_inputs(backbone, inputs.data, images, False, tmp_path / device.type)
        found.append(seen([[image] for image in images]).float().cpu())
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_two_workers_share_the_card(tmp_path, main) -> None:
    """`--workers 2`, or `cells_at_once: 2` in a profile, ends with the numbers of one worker."""
    sweep = write_sweep(tmp_path)
    for workers in (1, 2):
        root = tmp_path / f"root{workers}"
        assert main("sweep", sweep, "--root", root, "--workers", workers, *ON).code == 0
    one, two = ({record.id: record for record in _records(tmp_path / f"root{n}")} for n in (1, 2))
    assert one.keys() == two.keys()
    for name, record in one.items():
        other = two[name]
        for (step, loss), (same, expected) in zip(record.curve, other.curve, strict=True):
            assert step == same
            assert loss == pytest.approx(expected, rel=1e-3), name
        assert record.cost["gpu_hours"] > 0 or DEVICE.type == "cpu"


def _records(root):
    return list(Store(root).records())


def test_a_full_card_is_reported_with_the_batch_that_fits(tmp_path, main, card) -> None:
    """The memory of the process is limited so that a part of the batch fits."""
    protocol = (
        "{lr: 1e-3, steps: 2, batch_size: 4096, train_limit: 4096, eval_limit: 4, augment: blip}"
    )
    path = write_one(
        tmp_path,
        dataset="shapes",
        protocol=protocol,
        methods="[{name: full_finetuning, vision: true}]",
    )
    cell = plan(SweepHandle(str(path)), need_data=False).cells[0].id
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(card).total_memory
    room = torch.cuda.memory_reserved(card) + 256 * MIB
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        done = main("run", path, "--cell", cell, "--root", tmp_path / "root", *ON)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert done.code == 2
    failure = json.loads((tmp_path / "root/cells" / cell / "failure.json").read_bytes())
    assert failure["cause"] == "out of memory"
    assert "4096 at once ran out of memory; `--micro-batch " in failure["message"]
    fits = failure["message"].partition("--micro-batch ")[2].partition("`")[0]
    assert (
        main(
            *("run", path, "--cell", cell, "--root", tmp_path / "root", *ON),
            *("--micro-batch", fits),
        ).code
        == 0
    )


@pytest.mark.parametrize("part", PARTS)
def test_the_environment_computes_the_committed_values(part: str) -> None:
    """Losses, gradients and texts of the tiny towers, in float32 and bfloat16."""
    found = list(verify([part], DEVICE))
    assert found
    assert not [each for each in found if each.state == "FAILED"]


def test_a_trained_adapter_is_saved_from_the_card(tmp_path, main) -> None:
    path = write_one(tmp_path)
    cell = plan(SweepHandle(str(path)), need_data=False).cells[0].id
    root = tmp_path / "root"
    assert main("run", path, "--cell", cell, "--root", root, *ON).code == 0
    tensors = load_file(root / "cells" / cell / "trained.safetensors")
    assert tensors
    assert all(each.isfinite().all() for each in tensors.values())
