"""`vlpeft diff`: equal cells, different cells, and cells of one side only."""

import re
from dataclasses import replace

import pytest

from tests.synthetic import fill, planned, record
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.difference import diff, diff_table
from vlpeft.results.tables.render import render

CELLS = [planned(), planned("bitfit"), planned("prompt")]


def made(root, changes=None, cells=CELLS) -> Store:
    records = [replace(record(cell), cell=dump(cell.cell)) for cell in cells]
    return fill(root, [replace(r, **(changes or {}).get(i, {})) for i, r in enumerate(records)])


def test_the_same_records_are_equal_at_any_cost(tmp_path):
    made(tmp_path / "a")
    made(tmp_path / "b", {0: {"cost": {"train_seconds": 60.0, "step_ms": 25.0}}})
    found = diff(tmp_path / "a", tmp_path / "b")
    assert (found.equal, found.both, found.metrics, found.provenance) == (True, 3, (), ())
    ratios = {ratio.cost: (ratio.median, ratio.lowest, ratio.highest) for ratio in found.costs}
    assert ratios["train_seconds"] == (1.0, 0.5, 1.0)
    assert ratios["step_ms"] == (1.0, 1.0, 2.0)
    assert ": equal." in render(diff_table(tmp_path / "a", tmp_path / "b", found), "text")


def test_metrics_cells_and_how_they_were_made(tmp_path):
    made(tmp_path / "a", cells=CELLS[:2])
    changed = {
        0: {
            "metrics": {"vqa_accuracy": 70.5, "vqa_accuracy/exist": {"absent": "why"}},
            "provenance": {"science": 2, "data": {"test": "d1"}},
        }
    }
    made(tmp_path / "b", changed, cells=[CELLS[0], CELLS[2]])
    found = diff(tmp_path / "a", tmp_path / "b")
    assert not found.equal
    assert found.only_a == (f"bitfit on blip, vqa/shapes, seed 0 ({CELLS[1].id})",)
    assert found.only_b == (f"prompt on blip, vqa/shapes, seed 0 ({CELLS[2].id})",)
    assert [(m.metric, m.a, m.b, m.change) for m in found.metrics] == [
        ("vqa_accuracy", 70.0, 70.5, 0.5),
        ("vqa_accuracy/exist", 80.0, "absent: why", None),
    ]
    assert [(p.key, p.a, p.b, p.cells) for p in found.provenance] == [("science", "1", "2", 1)]
    text = render(diff_table(tmp_path / "a", tmp_path / "b", found), "text")
    assert "1 cell in both, 1 only in A, 1 only in B; 2 metrics differ: different." in text
    assert re.search(r"70\.0000 +70\.5000 +\+0\.5000$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("key", "equal"), [("data", False), ("science", False), ("device", True), ("finished", True)]
)
def test_other_versions_are_reported_but_only_data_and_science_differ(tmp_path, key, equal):
    made(tmp_path / "a")
    made(
        tmp_path / "b",
        {0: {"provenance": {"data": {"test": "d1"}, "science": 1} | {key: "another"}}},
    )
    found = diff(tmp_path / "a", tmp_path / "b")
    assert found.equal is equal
    assert bool(found.provenance) is (key != "finished")


def test_a_missing_side_is_an_error(tmp_path):
    store = made(tmp_path / "a")
    with pytest.raises(UserError, match="no such result folder"):
        diff(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b").mkdir()
    for wrong in (tmp_path / "b", store.folder(CELLS[0].id) / "record.json"):
        with pytest.raises(UserError, match=f"{wrong} holds no records"):
            diff(wrong, wrong)
    with pytest.raises(UserError, match="--scale tiny: needs a sweep"):
        diff(tmp_path / "a", tmp_path / "a", scale="tiny")


def test_a_damaged_record_is_named(tmp_path):
    store = made(tmp_path / "a")
    path = store.folder(CELLS[0].id) / "record.json"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(UserError, match=str(path)):
        diff(tmp_path / "a", tmp_path / "a")
