"""A copy for each task of a joint cell: only the copy of a batch's task is used and trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.conftest import ANSWERS, BACKBONES, Case, capable
from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.contract.method import PerTask
from vlpeft.benchmark.contract.sites import count
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.run.model import build

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("adapter", {"per_task": "down"}),
    ("adapter", {"per_task": "up"}),
    ("adapter", {"per_task": "all"}),
    ("routing_adapter", {"per_task": "all"}),
    ("compacter", {"per_task": "all"}),
    ("lora", {"per_task": True}),
    ("routing_lora", {"per_task": True}),
    ("prompt_tuning", {"per_task": True}),
    ("prompt_tuning", {"per_task": True, "mlp": 7}),
]
JOINT = [
    case
    for method, settings in SETTINGS
    for case in (
        Case(each.method, each.backbone, settings)
        for each in capable(Case(method, name) for name in BACKBONES.entries)
    )
    if BACKBONES.load(case.backbone).joint
]


def built(case: Case, tasks: int = 2) -> Backbone:
    torch.manual_seed(0)
    cell = case.cell()
    also = tuple(replace(cell.parts[0], task="captioning") for _ in range(tasks - 1))
    return build(replace(cell, also=also), ANSWERS).eval()


@pytest.mark.parametrize("case", JOINT, ids=str)
def test_a_task_trains_its_own_copy_only(case: Case) -> None:
    backbone = built(case)
    before = {
        name: p.detach().clone() for name, p in backbone.named_parameters() if p.requires_grad
    }
    case.train(backbone)  # the first task
    moved = {
        name
        for name, p in backbone.named_parameters()
        if name in before and not torch.equal(p, before[name])
    }
    first, second = ({name for name in before if f"copies.{i}." in name} for i in range(2))
    assert first
    assert len(first) == len(second)
    assert {name for name in first if "lora_a" not in name} <= moved | set(backbone.inert), (
        "lora_a moves from the second step on"
    )
    assert not second & moved


@pytest.mark.parametrize("case", JOINT, ids=str)
def test_the_task_of_a_batch_selects_the_copy(case: Case) -> None:
    backbone = built(case)
    case.train(backbone)
    kept = case.losses(backbone)
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, PerTask):
                for parameter in module.copies[1].parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.5)
    assert torch.equal(case.losses(backbone), kept)
    backbone.follow(backbone.protocol, ANSWERS, 1)
    assert not torch.allclose(case.losses(backbone), kept)


@pytest.mark.parametrize("case", JOINT, ids=str)
def test_the_formula_counts_the_copies(case: Case) -> None:
    for tasks in (2, 3):
        backbone, fresh = built(case, tasks), case.fresh()
        fresh.active_task.count = tasks
        trained = count(p for p in backbone.parameters() if p.requires_grad) - count(
            backbone.head_parameters()
        )
        assert case.adaptation.trainable(fresh) == trained


@pytest.mark.parametrize(("method", "settings"), SETTINGS)
def test_a_single_task_has_no_copies(method: str, settings: dict[str, Any]) -> None:
    with pytest.raises(
        UserError, match="per_task: this cell has one task; give the sweep a `joint:` entry"
    ):
        Case(method, "clip_bart", settings).build()
