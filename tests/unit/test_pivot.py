"""Tables of any two sides: what is averaged, and that different cells are never averaged."""

import json
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from tests.synthetic import fill, make_plan, planned, record
from vlpeft.benchmark.cells.cell import Choice
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.leaderboard import leaderboard
from vlpeft.results.report.data import ReadOnce, gather
from vlpeft.results.report.varied import varied_charts
from vlpeft.results.tables.pivot import pivot_table, sides
from vlpeft.results.tables.render import render

VALUES = {
    ("lora", "shapes", 0): 60.0,
    ("lora", "shapes", 1): 62.0,
    ("lora", "other", 0): 70.0,
    ("lora", "other", 1): 75.0,
}


def rows(root, cells, without=(), side="method", across="task"):
    """Return the data of a table of one-metric cells; each method has the values of lora."""
    records = [
        record(c, {"vqa_accuracy": VALUES["lora", c.dataset, c.seed]})
        for c in cells
        if c not in without and not c.skipped
    ]
    board = leaderboard(make_plan(*cells), fill(root, records))
    table = pivot_table(board, sides(side, board), sides(across, board))
    return {row[side]: row for row in table.data}, render(table, "text")


def grid(*methods):
    return [
        planned(m, dataset=d, seed=s) for m in methods for d in ("shapes", "other") for s in (0, 1)
    ]


def test_each_seed_is_averaged_first(tmp_path):
    found, text = rows(tmp_path, grid("lora"))
    one = found["lora"]
    means = [fmean((60.0, 70.0)), fmean((62.0, 75.0))]
    assert (one["mean"], one["std"], one["n"], one["over"], one["state"]) == (
        fmean(means),
        stdev(means),
        2,
        2,
        "done",
    )
    assert "66.8 ± 2.5 (n=2)" in text
    assert "Averaged over dataset first" in text


def test_a_missing_cell_blocks_its_entry_alone(tmp_path):
    cells = grid("lora", "bitfit")
    found, text = rows(tmp_path, cells, without=cells[:1])
    assert (found["lora"]["mean"], found["lora"]["n"], found["lora"]["state"]) == (
        None,
        1,
        "missing",
    )
    assert found["bitfit"]["mean"] is not None
    assert "missing" in text


def test_a_zero_under_a_mean_is_flagged(tmp_path, monkeypatch):
    monkeypatch.setitem(VALUES, ("lora", "other", 1), 0.0)
    found, text = rows(tmp_path, grid("lora"))
    assert found["lora"]["flags"] == ("backbone blip, dataset other: seed 1 is exactly 0.0",)
    assert "(n=2) [a]" in text
    assert "[a] backbone blip, dataset other: seed 1 is exactly 0.0" in text


def test_means_over_different_cells_are_not_given(tmp_path):
    cells = [*grid("lora"), *(cell for cell in grid("bitfit") if cell.dataset == "shapes")]
    found, text = rows(tmp_path, cells)
    assert found["lora"]["mean"] is not None
    assert found["bitfit"]["state"] == "skipped: not with backbone blip, dataset other"
    assert "– [a]" in text


def test_cells_ruled_out_for_all_are_not_required(tmp_path):
    cells = [
        replace(cell, skipped="no data") if cell.dataset == "other" else cell
        for cell in grid("lora", "bitfit")
    ]
    found, _ = rows(tmp_path, cells)
    assert [(row["mean"], row["over"]) for row in found.values()] == [(61.0, 1)] * 2


def test_a_side_can_be_the_scale(tmp_path):
    cells = [planned(), planned("bitfit")]
    tiny = replace(cells[1], cell=replace(cells[1].cell, backbone=Choice("blip", {"text": "tiny"})))
    tiny = replace(tiny, id=tiny.cell.id)
    records = [record(cell, {"vqa_accuracy": 50.0}) for cell in (cells[0], tiny)]
    board = leaderboard(make_plan(cells[0], tiny), fill(tmp_path, records))
    table = pivot_table(board, ("scale",), ("method",))
    assert [
        (row["scale"], row["method"], row["state"].partition(":")[0]) for row in table.data
    ] == [
        ("full size", "lora", "done"),
        ("full size", "bitfit", "skipped"),
        ("tiny towers", "lora", "skipped"),
        ("tiny towers", "bitfit", "done"),
    ]
    assert json.loads(render(table, "json"))["rows"][0]["mean"] == 50.0


@pytest.mark.parametrize(
    ("side", "message"),
    [("methd", "unknown side 'methd'; did you mean 'method'"), ("task,task", "named twice")],
)
def test_sides_are_checked(tmp_path, side, message):
    with pytest.raises(UserError, match=message):
        rows(tmp_path, grid("lora"), side="method", across=side)


def test_seeds_that_differ_in_more_than_their_seed_are_not_averaged(tmp_path):
    cells = [planned(), planned(seed=1)]
    other = replace(cells[1].cell, protocol=replace(cells[1].cell.protocol, lr=2.0))
    with pytest.raises(UserError, match="seeds 0 and 1 differ in more than their seed"):
        leaderboard(
            make_plan(cells[0], replace(cells[1], cell=other, id=other.id)), fill(tmp_path, [])
        )


def varied(rank: int, method: str = "lora") -> list:
    """Return the cells of a method with a rank that varies."""
    label = f"{method} (rank={rank})"
    more = {"varied": {"rank": rank}, "families": {"method": method}}
    return [planned(label, seed=seed, **more) for seed in (0, 1)]


def test_what_varies_is_a_side(tmp_path):
    cells = [*varied(4), *varied(8), *varied(4, "adapter"), *varied(8, "adapter")]
    cells += [planned("bitfit", seed=seed) for seed in (0, 1)]
    made = [record(cell, {"vqa_accuracy": 10.0 * i + cell.seed}) for i, cell in enumerate(cells)]
    board = leaderboard(make_plan(*cells), fill(tmp_path, made))
    assert board.varied == ("rank",)
    assert board.frame["varied.rank"].tolist() == ["4"] * 2 + ["8"] * 2 + ["4"] * 2 + ["8"] * 2 + [
        "",
        "",
    ]
    table = pivot_table(board, sides("method", board), sides("rank", board))
    means = {(row["method"], row["rank"]): row["mean"] for row in table.data}
    assert means == {
        ("lora", "4"): 5.5,
        ("lora", "8"): 25.5,
        ("adapter", "4"): 45.5,
        ("adapter", "8"): 65.5,
        ("bitfit", "–"): 85.5,
        **{(name, "–"): None for name in ("lora", "adapter")},
        **{("bitfit", rank): None for rank in ("4", "8")},
    }
    whole = pivot_table(board, sides("method", board), sides("task", board))
    assert next(row["method"] for row in whole.data) == "lora (rank=4)"
    with pytest.raises(UserError, match="unknown side 'rnak'; did you mean 'rank'"):
        sides("rnak", board)


def test_scores_are_drawn_over_numbers_that_vary(tmp_path):
    cells = [cell for rank in (2, 4, 64) for cell in varied(rank)]
    cells += [*varied(4, "adapter"), planned("bitfit")]
    made = [record(cell, {"vqa_accuracy": 10.0 + i}) for i, cell in enumerate(cells)]
    plan, store = make_plan(*cells), fill(tmp_path, made)
    (figure,) = varied_charts(gather(plan, ReadOnce(store)))
    assert (figure.title, figure.backbone, figure.data) == (
        "vqa_accuracy by rank",
        "blip",
        "vqa/shapes",
    )
    assert figure.x_title == "rank, log scale"
    # The adapter has one point, which is not a line, and nothing varies in bitfit.
    assert figure.legend == ((0, "lora"),)
    assert [mark.text for mark in figure.marks] == [
        "lora, rank 2: 10.5",
        "lora, rank 4: 12.5",
        "lora, rank 64: 14.5",
    ]
    assert sum(path.kind == "bar" for path in figure.paths) == 3
    places = [mark.x for mark in figure.marks]
    assert (places[2] - places[1]) / (places[1] - places[0]) == pytest.approx(4, rel=0.02)
    assert figure.caption.startswith("n = 1 line;")
