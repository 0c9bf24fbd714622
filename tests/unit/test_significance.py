"""Significance in a table, from made-up records and scores by image with a known answer."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.synthetic import fill, make_plan, planned, record, score
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.cells.scores import NAME, by_image, read_scores, to_bytes
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.leaderboard import leaderboard
from vlpeft.results.statistics.comparisons import significance_table
from vlpeft.results.statistics.significance import Significance, significance
from vlpeft.results.tables.captions import bold_sentence

PLACE = ("blip", "vqa", "shapes", "accuracy")
NOISE = np.random.default_rng(0).normal(0, 10, 200)


def found_in(root, methods) -> Significance:
    """Return the result of two seeds a method.

    `methods` maps a label to the scores of each image, or to one list a seed.
    """
    cells, store, fits = [], Store(root), []
    for method, values in methods.items():
        for seed in (0, 1):
            cell = planned(method, seed=seed)
            mine = np.round(values[seed] if isinstance(values, tuple) else values, 3)
            fits.append((cell, mine))
            cells.append(cell)
    fill(root, [record(cell, {"accuracy": float(mine.mean())}) for cell, mine in fits])
    for cell, mine in fits:
        score(store, cell, {"accuracy": mine.tolist()})
    return significance(leaderboard(make_plan(*cells), store), store)


def bold(found: Significance, *methods: str) -> list[str]:
    return [method for method in methods if found.bold(PLACE, method)]


def test_a_clear_best_is_bold(tmp_path):
    found = found_in(tmp_path, {"low": 60 + NOISE, "high": 66 + NOISE[::-1], "lower": 50 + NOISE})
    assert bold(found, "low", "high", "lower") == ["high"]
    assert found.columns[PLACE].ranks == {"low": 2, "high": 1, "lower": 3}
    assert found.columns[PLACE].below["low"].value == pytest.approx(6, abs=1e-3)


def test_nothing_is_bold_if_the_second_could_be_first(tmp_path):
    found = found_in(tmp_path, {"low": 40 + NOISE, "high": 60.2 + NOISE[::-1], "near": 60 + NOISE})
    assert bold(found, "low", "high", "near") == []
    assert found.columns[PLACE].ranks == {"low": 3, "high": 1, "near": 1}


def test_a_lead_that_one_seed_reverses_is_not_clear(tmp_path):
    found = found_in(tmp_path, {"steady": 60 + NOISE, "lucky": (58 + NOISE, 80 + NOISE)})
    assert found.columns[PLACE].below["steady"].significant
    assert found.columns[PLACE].differences_by_seed("steady") == pytest.approx([-2, 20])
    assert bold(found, "steady", "lucky") == []


def three_seeds(root, first, other) -> Significance:
    """Return the result of `first` and `other`, the scores of each image for each seed."""
    cells, store = [], Store(root)
    for method, values in (("first", first), ("other", other)):
        for seed, mine in enumerate(values):
            cell = planned(method, seed=seed)
            cells.append((cell, np.round(mine, 3)))
    fill(root, [record(cell, {"accuracy": float(mine.mean())}) for cell, mine in cells])
    for cell, mine in cells:
        score(store, cell, {"accuracy": mine.tolist()})
    return significance(leaderboard(make_plan(*(cell for cell, _ in cells)), store), store)


def test_with_three_seeds_bold_needs_both_sources_of_scatter(tmp_path):
    """These images show a clear difference, with every seed; three seeds do not."""
    base = [60 + NOISE] * 3
    found = three_seeds(tmp_path, [60.2 + NOISE, 62 + NOISE, 69 + NOISE], base)
    column = found.columns[PLACE]
    assert min(column.differences_by_seed("other")) > 0
    assert column.below["other"].p < 0.001
    assert column.below["other"].p_both > 0.05
    assert column.below["other"].corrected == column.below["other"].p_both
    assert bold(found, "first", "other") == []
    assert column.ranks == {"first": 1, "other": 1}


def test_with_three_seeds_a_steady_lead_is_bold(tmp_path):
    found = three_seeds(
        tmp_path, [64 + NOISE, 64.5 + NOISE, 65 + NOISE], [60 + NOISE, 60.2 + NOISE, 59.8 + NOISE]
    )
    assert bold(found, "first", "other") == ["first"]
    assert found.columns[PLACE].has_enough_seeds
    text = bold_sentence(found)
    assert "both seeds and images" in text
    assert "too few" not in text


def test_two_images_are_too_few_for_any_claim(tmp_path):
    few = NOISE[:2]
    found = three_seeds(tmp_path, [90 + few] * 3, [60 + few] * 3)
    below = found.columns[PLACE].below["other"]
    assert below.p_both < below.p == below.corrected
    assert bold(found, "first", "other") == []


def test_a_lead_over_seeds_that_the_other_lacks_is_none(tmp_path):
    """On the seeds that both have, the other is ahead, clearly so."""
    first = [*(60 + NOISE + NOISE[::-1] / 9 + i / 9 for i in range(3)), 99 + NOISE]
    other = [65 + NOISE + NOISE[::-1] / 9 + i / 7 for i in range(3)]
    found = three_seeds(tmp_path, first, other)
    column = found.columns[PLACE]
    assert column.best == "first"
    assert column.below["other"].p_both < 0.05
    assert bold(found, "first", "other") == []


def test_two_seeds_are_too_few_to_say_more(tmp_path):
    found = found_in(tmp_path, {"low": 60 + NOISE, "high": 66 + NOISE[::-1]})
    assert found.columns[PLACE].below["low"].p_both is None
    assert bold_sentence(found).endswith(
        "So it differs on these images; fewer than 3 seeds are too few to say more. "
        "A column without one has no clear winner."
    )
    assert bold_sentence(Significance({}, {})) == ""


def test_pairing_detects_more_than_means(tmp_path):
    found = found_in(tmp_path, {"low": 60 + NOISE, "high": 60.5 + NOISE + NOISE[::-1] / 50})
    assert bold(found, "low", "high") == ["high"]  # half a point, while images scatter by 10


def test_equal_methods_are_tied(tmp_path):
    found = found_in(tmp_path, {"one": 60 + NOISE, "same": 60 + NOISE})
    assert found.columns[PLACE].ranks == {"one": 1, "same": 1}
    assert bold(found, "one", "same") == []


def test_one_method_alone_is_not_bold(tmp_path):
    found = found_in(tmp_path, {"one": 60 + NOISE})
    assert (found.columns, found.reasons) == ({}, {})


def pair(root, **more):
    cells = [planned("a"), planned("b")]
    store = fill(root, [record(cell, {"accuracy": 50.0}) for cell in cells])
    for cell in cells:
        score(store, cell, {"accuracy": [25.0, 75.0]})
    return cells, store


def reason(cells, store) -> str:
    return significance(leaderboard(make_plan(*cells), store), store).reasons[PLACE]


def test_a_missing_cell_could_be_the_best(tmp_path):
    cells, store = pair(tmp_path)
    assert reason([*cells, planned("c")], store) == "a value is missing"


def test_cells_that_the_grid_rules_out_do_not_count(tmp_path):
    cells, store = pair(tmp_path)
    found = significance(
        leaderboard(make_plan(*cells, planned("c", skipped="no site")), store), store
    )
    assert found.columns[PLACE].methods == ("a", "b")


def test_records_of_older_versions_have_no_scores(tmp_path):
    cells, store = pair(tmp_path)
    (store.folder(cells[0].id) / NAME).unlink()
    assert "some cells have no scores by image" in reason(cells, store)


def test_a_metric_that_is_not_a_mean_cannot_be_tested(tmp_path):
    cells, store = pair(tmp_path)
    score(store, cells[0], {"other": [25.0, 75.0]})
    assert reason(cells, store) == "the metric is not a mean over examples"


def test_different_examples_cannot_be_paired(tmp_path):
    cells, store = pair(tmp_path)
    score(store, cells[0], {"accuracy": [50.0, 50.0, 50.0]})
    assert reason(cells, store) == "its cells were tested on different examples"


def test_scores_of_another_run_are_refused(tmp_path):
    cells, store = pair(tmp_path)
    score(store, cells[1], {"accuracy": [25.0, 76.0]})
    with pytest.raises(
        UserError, match=rf"cell {cells[1].id}: .* 50\.5000, its record says 50\.0000"
    ):
        reason(cells, store)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-9], "not readable"),
        (
            lambda text: text.replace('"schema":1', '"schema":2'),
            "scores schema 2, this version reads 1",
        ),
        (lambda text: text.replace("[1,1]", "[1]"), "lists of unequal length"),
        (lambda text: text.replace("test/1", "test/0"), "an image twice"),
        (lambda _: "[]", "scores schema list"),
    ],
)
def test_damaged_scores_are_named(tmp_path, damage, message):
    cells, store = pair(tmp_path)
    path = store.folder(cells[0].id) / NAME
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=message) as error:
        reason(cells, store)
    assert str(path) in str(error.value)


def test_scores_are_added_up_by_image(tmp_path):
    part = by_image("vqa/shapes", [("a",), ("b", "c"), ("a",)], {"accuracy": [100.0, 100 / 3, 0.0]})
    assert (part.images, part.examples, part.sums) == (
        ("a", "b+c"),
        (2, 1),
        {"accuracy": (100.0, 33.333)},
    )
    assert part.mean("accuracy") == pytest.approx(133.333 / 3)
    path = tmp_path / NAME
    path.write_bytes(to_bytes([part, replace(part, task="captioning/shapes")]))
    assert [each.task for each in read_scores(path)] == ["vqa/shapes", "captioning/shapes"]
    assert read_scores(path)[0] == part
    assert json.loads(path.read_text())["schema"] == 1


def test_the_table_counts_examples_and_shows_intervals(tmp_path):
    found = found_in(tmp_path, {"low": 60 + NOISE, "high": 66 + NOISE[::-1]})
    board = leaderboard(make_plan(*[planned(m, seed=s) for m in ("low", "high") for s in (0, 1)]),
                        Store(tmp_path))  # fmt: skip
    table = significance_table(board, found)
    rows = {row["method"]: row for row in table.data}
    assert [rows[name]["examples"] for name in ("low", "high")] == [200, 200]
    texts = {row[1].text: [cell.text for cell in row] for row in table.blocks[0].rows}
    low = rows["low"]
    assert f"{low['low']:+.2f} to {low['high']:+.2f}" in texts["low"]
