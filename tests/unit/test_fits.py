"""`vlpeft list --fits BACKBONE` says what a plan would run."""

import json
from dataclasses import replace

import pytest

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Cell, Choice
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets import DatasetSpec
from vlpeft.benchmark.plan.compatibility import reason_to_skip
from vlpeft.benchmark.tasks import TASKS
from vlpeft.results.tables.fits import FITS, select_fitting
from vlpeft.results.tables.listing import listing

SCENES = DatasetSpec("shapes", "shapes", {"train_scenes": 6, "test_scenes": 5}, "")


def names(what: str, backbone: str) -> set[str]:
    return {row["name"] for row in select_fitting(what, listing(what), backbone)}


@pytest.mark.parametrize("backbone", BACKBONES.entries)
def test_methods_and_tasks_are_those_that_a_plan_runs(backbone: str) -> None:
    tasks = names("tasks", backbone)
    task = sorted(tasks)[0]
    recipe = Protocol(lr=1e-3, steps=1)
    cell = Cell(Choice("lora", {}), Choice(backbone, {}), task, SCENES, recipe, 0)
    runs = {
        method
        for method in METHODS.entries
        if not reason_to_skip(replace(cell, method=Choice(method, {})))
    }
    assert names("methods", backbone) == runs
    able = {each for each in TASKS.entries if not reason_to_skip(replace(cell, task=each))}
    assert tasks == able


@pytest.mark.parametrize("backbone", BACKBONES.entries)
@pytest.mark.parametrize("what", FITS)
def test_every_backbone_fits_something(what: str, backbone: str) -> None:
    assert names(what, backbone)


def test_what_does_not_depend_on_a_backbone() -> None:
    with pytest.raises(UserError, match="--fits: sweeps do not depend on a backbone"):
        select_fitting("sweeps", listing("sweeps"), "blip")
    with pytest.raises(UserError, match=r"unknown backbone 'blib'; did you mean 'blip'\?"):
        select_fitting("methods", listing("methods"), "blib")


def test_the_command(vlpeft) -> None:
    code, out, _ = vlpeft("list", "methods", "--fits", "vit_gpt2", "--json")
    assert code == 0
    assert "head_only" not in {row["name"] for row in json.loads(out)}
