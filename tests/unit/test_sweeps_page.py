"""The sweeps on docs/sweeps.md can be planned."""

import re
from pathlib import Path

import pytest

from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.sweep import SweepHandle

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sweeps.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(("number", "rows"), [(0, 6), (1, (4 + 2 + 5) * 2), (2, 5 + 5 + 1), (3, 2)])
def test_they_are_planned(tmp_path: Path, number: int, rows: int) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(BLOCKS[number])
    made = plan(SweepHandle(str(path)), need_data=True)
    assert len({cell.row for cell in made.cells}) == rows
    runnable = made.runnable()
    assert len({cell.id for cell in runnable}) == len(runnable)


def test_no_block_is_left_out() -> None:
    assert len(BLOCKS) == 4
