"""What the live display shows on a narrow terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.cell import Cell, Choice, Plan, Planned
from benchmark.config import Protocol
from benchmark.datasets import DatasetSpec
from benchmark.progress import CellProgress, SweepProgress

ROW = "a [red] method whose label is much too long for any narrow terminal, and then some more of it"


@pytest.fixture
def cells() -> list[Planned]:
    data = DatasetSpec("shapes", "shapes", {}, "")
    made = [Cell(Choice("lora", {}), Choice("blip", {}), "vqa", data, Protocol(lr=1.0, steps=1), seed) for seed in range(8)]
    return [Planned(cell.id, ROW, "vit_roberta", "vqa", "shapes", cell.seed, cell) for cell in made]


def shown(bars, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=True, legacy_windows=False)
    console.print(bars.make_tasks_table(bars.tasks))
    return console.file.getvalue().splitlines()


def test_the_numbers_stay_where_labels_are_long(cells, tmp_path: Path) -> None:
    progress = SweepProgress(Plan("s" * 200, "", "", "", tuple(cells)), cells, tmp_path)
    progress.watch_cell(cells[0], "train", 120, 250)
    sweep, cell = shown(progress.bars)
    assert max(map(len, (sweep, cell))) <= 80
    assert " 0/8 " in sweep
    assert " 120/250 " in cell
    assert cell.startswith("  train: seed 0 | a [red] method")
    assert all(line.rstrip().endswith("0:00:00 -:--:--") for line in (sweep, cell))


def test_one_cell_says_its_phase_first(cells) -> None:
    progress = CellProgress(cells[0])
    progress("evaluate", 3, 10)
    (line,) = shown(progress.bars)
    assert line.startswith("evaluate a [red] method")
    assert " 3/10 " in line


def test_time_left_is_reckoned_from_the_cells_of_this_launch(cells, tmp_path: Path) -> None:
    progress = SweepProgress(Plan("sweep", "", "", "", tuple(cells)), cells[4:], tmp_path)  # four were done before
    clock = [0.0]
    for task in progress.bars.tasks:
        task._get_time, task.start_time = lambda: clock[0], 0.0
    clock[0] = 100.0
    assert shown(progress.bars)[0].rstrip().endswith("0:01:40 -:--:--")
    progress.bars.update(progress.bar, completed=5)
    assert shown(progress.bars)[0].rstrip().endswith("0:01:40 0:05:00")  # one cell took 100 s, three are left
