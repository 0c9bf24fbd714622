"""A full or read-only disk: the cause is clear, nothing is lost, and a rerun finishes."""

import json
import os
from pathlib import Path

import pytest

from tests.disk import disk
from tests.end_to_end.conftest import RUN, leftovers, records, write_one
from vlpeft.benchmark.run import result, runner

__all__ = ["disk"]
SWEEP = ("--on", "inline", *RUN)


def test_disk_full_before_the_launch(disk, main, tmp_path) -> None:
    sweep, root = write_one(tmp_path), disk.path / "root"
    disk.fill()
    said = main("sweep", sweep, "--root", root, *SWEEP)
    assert said.code == 2
    assert len(said.lines) == 1
    assert "No space left on device; choose a writable --root with free space" in said.lines[0]
    disk.free()
    assert main("sweep", sweep, "--root", root, *SWEEP).code == 0
    assert len(records(root)) == 1


@pytest.mark.parametrize(
    ("module", "moment"),
    [
        (runner, "save_checkpoint"),
        (result, "save_trained"),
        (result, "provenance"),
        (runner, "visual_inputs"),
    ],
    ids=["save_checkpoint", "save_trained", "provenance", "visual_inputs"],
)
def test_disk_full_while_a_cell_runs(disk, main, tmp_path, monkeypatch, module, moment) -> None:
    """Each cell fails with that cause, and half-written files are removed."""
    sweep, root = write_one(tmp_path, seeds="[0, 1]"), disk.path / "root"
    real = getattr(module, moment)

    def fill_and_go_on(*arguments: object) -> object:
        disk.fill()
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(module, moment, fill_and_go_on)
        said = main("sweep", sweep, "--root", root, *SWEEP, "--checkpoint-seconds", 0)
    assert said.code == 1
    assert said.lines[-1] == "vlpeft: 2 of 2 cells failed; fix the cause and rerun the same command"
    assert "disk full: cannot write" in said.err
    rows = json.loads(main("status", sweep, "--root", root, "--json").out)
    assert [(row["state"], row["reason"].split(":")[0]) for row in rows] == [
        ("failed", "disk full")
    ] * 2
    assert not [
        path for path in leftovers(root) if Path(path).name not in ("failure.json", "checkpoint.pt")
    ]
    assert (
        main("retry", sweep, "--root", root, "--cause", "disk", *SWEEP).code == 1
    )  # the disk is still full
    disk.free()
    assert main("sweep", sweep, "--root", root, *SWEEP).code == 0
    assert len(records(root)) == 2
    assert leftovers(root) == []


def test_read_only_disk(disk, main, tmp_path) -> None:
    sweep, root = write_one(tmp_path, seeds="[0, 1]"), disk.path / "root"
    assert main("sweep", sweep, "--root", root, *SWEEP).code == 0
    cell = sorted(records(root))[1]
    (root / "cells" / cell / "record.json").unlink()
    where = {
        "phase": "train",
        "step": 1,
        "total": 2,
        "updated": 1.0,
        "pid": os.getpid(),
        "left": None,
    }
    (root / "cells" / cell / "progress.json").write_text(json.dumps(where))
    disk.remount("ro")
    said = main("sweep", sweep, "--root", root, *SWEEP)
    assert said.code == 2
    assert len(said.lines) == 1
    assert "Read-only file system; choose a writable --root" in said.lines[0]
    shown = main("status", sweep, "--root", root)  # reading commands do not need to write
    assert shown.code == 0, shown.err
    assert "2 cells: 1 done, 1 missing" in shown.out
    assert main("table", sweep, "--root", root).code == 0
    disk.remount("rw")
    assert main("sweep", sweep, "--root", root, *SWEEP).code == 0
    assert len(records(root)) == 2
