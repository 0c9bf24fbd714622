"""The live display on a narrow terminal."""

import io
import json
import time
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from vlpeft.benchmark.cells.cell import Cell, Choice, Plan, Planned
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets import DatasetSpec
from vlpeft.benchmark.launch.screen import QUIET_SECONDS, CellProgress, SweepProgress, cell_title

ROW = (
    "a [red] method whose label is much too long for any narrow terminal, and then some more of it"
)


@pytest.fixture
def cells() -> list[Planned]:
    data = DatasetSpec("shapes", "shapes", {}, "")
    made = [
        Cell(Choice("lora", {}), Choice("blip", {}), "vqa", data, Protocol(lr=1.0, steps=1), seed)
        for seed in range(8)
    ]
    return [Planned(cell.id, ROW, "vit_roberta", "vqa", "shapes", cell.seed, cell) for cell in made]


def shown(bars, width: int = 80) -> list[str]:
    console = Console(
        width=width,
        file=io.StringIO(),
        color_system=None,
        force_terminal=True,
        legacy_windows=False,
    )
    console.print(bars.make_tasks_table(bars.tasks))
    return console.file.getvalue().splitlines()


def test_the_numbers_stay_next_to_long_labels(cells, tmp_path: Path) -> None:
    progress = SweepProgress(Plan("s" * 200, "", "", "", tuple(cells)), cells, tmp_path)
    progress.watch_cell(cells[0], "train", 120, 250)
    sweep, cell = shown(progress.bars)
    assert max(map(len, (sweep, cell))) <= 80
    assert " 0/8 " in sweep
    assert " 120/250 " in cell
    assert cell.startswith("  train: seed 0 | a [red] method")
    assert all(line.rstrip().endswith("0:00:00 -:--:--") for line in (sweep, cell))


def test_a_single_cell_shows_its_phase_first(cells) -> None:
    progress = CellProgress(cells[0])
    progress("evaluate", 3, 10)
    (line,) = shown(progress.bars)
    assert line.startswith("evaluate a [red] method")
    assert " 3/10 " in line


def test_time_left_is_computed_from_the_cells_of_this_launch(cells, tmp_path: Path) -> None:
    progress = SweepProgress(
        Plan("sweep", "", "", "", tuple(cells)), cells[4:], tmp_path
    )  # four were done before
    clock = [0.0]
    for task in progress.bars.tasks:
        task._get_time, task.start_time = lambda: clock[0], 0.0
    clock[0] = 100.0
    assert shown(progress.bars)[0].rstrip().endswith("0:01:40 -:--:--")
    progress.bars.update(progress.bar, completed=5)
    assert (
        shown(progress.bars)[0].rstrip().endswith("0:01:40 0:05:00")
    )  # one cell took 100 s, three remain


def test_a_log_gets_one_line_a_minute(cells, tmp_path: Path, monkeypatch, capsys) -> None:
    """The line names a few running cells, but not one that was killed long ago.

    No line is written while cells end one after the other.
    """
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = SweepProgress(Plan("sweep", "", "", "", tuple(cells)), cells, tmp_path)
    for number, cell in enumerate(cells):
        folder = progress.store.folder(cell.id)
        folder.mkdir(parents=True)
        updated = time.time() - (3600 if number == 0 else 1)
        (folder / "progress.json").write_text(
            json.dumps({"phase": "train", "step": number, "total": 9, "updated": updated, "pid": 1})
        )
    capsys.readouterr()
    progress.watch()
    now += QUIET_SECONDS
    progress.watch()
    progress.watch()
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line
        == "[0/8] at work: "
        + "; ".join(f"train {i}/9 {cell_title(cells[i])}" for i in range(1, 5))
        + "; 3 more"
    )
    now += QUIET_SECONDS
    with FileLock(progress.store.folder(cells[0].id) / "lock"):
        progress.watch()
    assert capsys.readouterr().err.startswith("[0/8] at work: train 0/9"), (
        "as long as somebody is at it, however quietly"
    )
    now += QUIET_SECONDS
    progress.watch_cell(cells[1], "train", 2, 9)
    assert capsys.readouterr().err.startswith("[0/8] at work: train 1/9"), (
        "a cell of this process, too"
    )
    now += QUIET_SECONDS
    (progress.store.folder(cells[7].id) / "record.json").write_text("{}")
    progress.watch()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"[1/8] done {cells[7].id}")
