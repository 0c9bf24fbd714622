"""Two sweeps of one name do not replace each other's plan; one that moved is the same sweep."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.conftest import write_one
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.check import plan, save_plan, save_planned_cell
from vlpeft.benchmark.plan.plan_files import plan_file
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.sweep_files import SWEEPS


def write(folder: Path, seeds: str = "[0]", name: str = "s.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_one(folder, seeds=seeds, name=name)


def launch(path: Path, root: Path, scale: str = "") -> None:
    save_plan(plan(SweepHandle(str(path), scale, root), need_data=True), root)


def read(path: Path, root: Path):
    return SweepHandle(str(path), root=root).read_plan()


def test_another_sweep_of_the_same_name_is_refused_with_both_paths(tmp_path) -> None:
    one, two, root = write(tmp_path / "a"), write(tmp_path / "b", "[0, 1]"), tmp_path / "root"
    launch(one, root)
    before = plan_file(root, "s").read_bytes()
    made = plan(SweepHandle(str(two), root=root), need_data=True)
    for refused in (
        lambda: save_plan(made, root),
        lambda: save_planned_cell(made, made.cells[0], root),
        lambda: read(two, root),
    ):
        with pytest.raises(UserError) as found:
            refused()
        for word in (str(one), str(two), "--root", "rename"):
            assert word in str(found.value)
    assert plan_file(root, "s").read_bytes() == before
    assert len(list((root / "cells").iterdir())) == 1
    launch(two, tmp_path / "other")


def test_an_edited_file_is_the_same_sweep(tmp_path, monkeypatch) -> None:
    path, root = write(tmp_path / "a"), tmp_path / "root"
    launch(path, root)
    write(tmp_path / "a", "[0, 1]")
    launch(path, root)
    monkeypatch.chdir(path.parent)
    launch(Path("s.yaml"), root)
    (tmp_path / "link.yaml").symlink_to(path)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "s.yaml").symlink_to(path)
    assert len(read(path, root).cells) == 2


def test_a_moved_file_is_the_same_sweep(tmp_path) -> None:
    path, root = write(tmp_path / "a"), tmp_path / "root"
    launch(path, root)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = write(tmp_path / "b", "[0, 1]")
    launch(moved, root)
    assert len(read(moved, root).cells) == 2


def test_a_copy_with_equal_content_is_the_same_sweep(tmp_path) -> None:
    launch(write(tmp_path / "a"), tmp_path / "root")
    launch(write(tmp_path / "b"), tmp_path / "root")
    assert read(tmp_path / "b" / "s.yaml", tmp_path / "root").sweep == "s"


def test_a_copy_of_file_and_results_together_goes_its_own_way(tmp_path) -> None:
    launch(write(tmp_path / "a"), tmp_path / "a" / "runs" / "s")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    edited = write(tmp_path / "b", "[0, 1]")
    launch(edited, tmp_path / "b" / "runs" / "s")
    assert len(read(edited, tmp_path / "b" / "runs" / "s").cells) == 2


def test_each_scale_has_its_own_plan(tmp_path) -> None:
    one, two, root = write(tmp_path / "a"), write(tmp_path / "b", "[0, 1]"), tmp_path / "root"
    launch(one, root, "tiny")
    launch(two, root)
    with pytest.raises(UserError, match="another sweep of the same name"):
        launch(two, root, "tiny")


def test_a_file_named_like_a_shipped_sweep(tmp_path) -> None:
    own, root = write(tmp_path, name="quickstart.yaml"), tmp_path / "root"
    launch(own, root)
    with pytest.raises(UserError, match="another sweep of the same name") as found:
        SweepHandle("quickstart", root=root).read_plan()
    assert str(SWEEPS / "quickstart.yaml") in str(found.value)


def test_plans_of_earlier_versions_are_readable_and_replaced(tmp_path) -> None:
    path, root = write(tmp_path / "a"), tmp_path / "root"
    launch(path, root)
    values = json.loads(plan_file(root, "s").read_text())
    assert values.pop("file") == "../a/s.yaml"
    plan_file(root, "s").write_text(json.dumps(values))
    other = write(tmp_path / "b", "[0, 1]")
    assert read(other, root).file is None
    launch(other, root)
    assert read(other, root).file == "../b/s.yaml"
