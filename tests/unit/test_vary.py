"""`vary`, `zip` and `sample` in a sweep: which cells they make, their labels, and bad input."""

import math
from dataclasses import replace

import pytest

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.draws import draw
from vlpeft.benchmark.plan.grid import cross_layers, expand
from vlpeft.benchmark.plan.sweep import SweepHandle

SWEEP = """
protocol: {lr: 1e-3, steps: 2}
tasks: [vqa/shapes]
seeds: [0, 1]
backbones: [{name: vit_roberta, text: tiny, vision: tiny}]
methods: [{name: routing_lora, rank: 8}]
"""


@pytest.fixture
def cells(tmp_path):
    """Return the cells of SWEEP after replacing a part of it."""

    def call(old: str = "", new: str = ""):
        path = tmp_path / "a.yaml"
        assert old in SWEEP
        path.write_text(SWEEP.replace(old, new) if old else SWEEP)
        return expand(SweepHandle(str(path)))

    return call


def labels(found):
    return list(dict.fromkeys(cell.row for cell in found))


def test_every_combination_in_the_order_of_the_lists(cells):
    found = cells("rank: 8", "vary: {function: [add, mul], rank: [4, 8]}")
    assert labels(found) == [
        f"routing_lora (function={function}, rank={rank})"
        for function in ("add", "mul")
        for rank in (4, 8)
    ]
    assert len(found) == len({cell.id for cell in found}) == 8
    for cell in found:
        settings = cell.cell.method.settings
        assert cell.varied == {"function": settings["function"], "rank": settings["rank"]}
        assert cell.families == {"method": "routing_lora"}
        assert cell.id == cell.cell.id


@pytest.mark.parametrize(
    ("varied", "written"),
    [
        ("rank: 8, vary: {function: [mul, add]}", "rank: 8, function: mul"),
        ("vary: {rank: [8], lr: [3e-4, 1e-2]}", "rank: 8, protocol: {lr: 3e-4}"),
        ("zip: {rank: [8, 4], alpha: [16, 2]}", "rank: 8, alpha: 16"),
        ("sample: {n: 1, seed: 3, rank: choice(8)}", "rank: 8"),
    ],
)
def test_ids_are_those_of_entries_written_by_hand(cells, varied, written):
    first = cells("rank: 8", varied)[0]
    by_hand = cells("rank: 8", written)[0]
    assert first.cell == by_hand.cell
    assert first.id == by_hand.id


def test_seeds_share_everything_but_their_own_number(cells):
    first, second = cells()
    assert replace(first.cell, seed=1) == second.cell
    assert second.id == second.cell.id != first.id


def test_pairs_go_together(cells):
    found = cells("rank: 8", "zip: {rank: [4, 8], alpha: [8, 16]}")
    pairs = [(c.cell.method.settings["rank"], c.cell.method.settings["alpha"]) for c in found]
    assert pairs == [(4, 8), (4, 8), (8, 16), (8, 16)]


def test_all_three_are_crossed(cells):
    found = cells(
        "rank: 8",
        "vary: {function: [add, mul]}, zip: {rank: [4, 8], alpha: [8, 16]}, "
        "sample: {n: 3, lr: log(1e-5, 1e-2)}",
    )
    assert len(labels(found)) == 2 * 2 * 3


def test_the_sweeps_protocol_varies_every_method(cells):
    found = cells(
        "protocol: {lr: 1e-3, steps: 2}", "protocol: {steps: 2, vary: {lr: [1e-3, 1e-2]}}"
    )
    assert labels(found) == ["routing_lora (lr=0.001)", "routing_lora (lr=0.01)"]
    assert [cell.cell.protocol.lr for cell in found] == [0.001, 0.001, 0.01, 0.01]
    assert found[0].id == cells()[0].id


def test_a_backbone_and_a_dataset_vary(tmp_path, cells):
    (tmp_path / "small.yaml").write_text("{format: shapes, train_scenes: 32, root: ''}")
    both = SWEEP.replace("vision: tiny", "vary: {vision: [tiny]}, label: 'V {vision}'")
    both = both.replace(
        "[vqa/shapes]", "[{task: vqa, dataset: small.yaml, vary: {train_scenes: [32, 64]}}]"
    )
    found = cells(SWEEP, both)
    assert {cell.backbone for cell in found} == {"V tiny"}
    assert list(dict.fromkeys(cell.dataset for cell in found)) == [
        "small (train_scenes=32)",
        "small (train_scenes=64)",
    ]
    assert [cell.cell.dataset.settings["train_scenes"] for cell in found] == [32, 32, 64, 64]
    assert found[0].families == {"backbone": "V", "dataset": "small"}
    on = both.replace("rank: 8", "rank: 8, on: [V]")
    assert len(cells(SWEEP, on)) == len(found)


def test_labels_are_templates(cells):
    found = cells(
        "rank: 8", 'label: "routing {function}, {rank}", vary: {function: [add], rank: [4]}'
    )
    assert labels(found) == ["routing add, 4"]
    assert found[0].families == {"method": "routing"}


def test_origins_name_the_entry(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(SWEEP.replace("rank: 8", "vary: {rank: [4], lr: [1e-4]}"))
    cell = cross_layers(SweepHandle(str(path)))[0]
    (layer,) = cell.method
    assert layer.values == {"rank": 4}
    assert cell.protocols[0][-1].values == {"lr": 1e-4}


def test_draws_are_in_range_balanced_and_repeatable():
    item = {"n": 8, "seed": 5, "lr": "log(1e-4, 1.0)", "x": "uniform(-1, 1)", "k": "choice(a, b)"}
    found = draw(item, "here")
    assert found == draw(item, "here") != draw({**item, "seed": 6}, "here")
    # Of eight Sobol points, each half of each range has four, and each quarter two.
    assert sum(values["lr"] < 1e-2 for values in found) == 4
    assert sum(values["lr"] < 1e-3 for values in found) == 2
    assert sum(values["x"] < 0 for values in found) == 4
    assert sum(values["k"] == "a" for values in found) == 4
    assert all(1e-4 <= values["lr"] < 1.0 and -1 <= values["x"] <= 1 for values in found)
    assert all(float(f"{values['lr']:.3g}") == values["lr"] for values in found)


def test_draws_are_distinct_and_more_of_them_begin_with_the_same():
    few = {"n": 3, "k": "choice(1, 2, 3, 4)"}
    assert sorted(values["k"] for values in draw({**few, "n": 4}, "here")) == [1, 2, 3, 4]
    item = {"n": 500, "lr": "log(1e-4, 1.0)"}
    found = draw(item, "here")
    assert len({values["lr"] for values in found}) == 500
    assert draw({**item, "n": 20}, "here") == found[:20]


def test_draws_of_a_random_generator():
    item = {"n": 200, "sampler": "random", "lr": "log(1e-4, 1.0)"}
    logs = [math.log10(values["lr"]) for values in draw(item, "here")]
    assert abs(sum(logs) / len(logs) + 2) < 0.3
    assert min(logs) < -3.5
    assert max(logs) > -0.5


REFUSED = [
    ("vary: {rank: []}", "vary.rank"),
    ("vary: {}", "vary: it is empty"),
    ("vary: [1]", "vary: write a mapping"),
    ("vary: {rank: 4}", "write a list"),
    ("vary: {rank: [4, 4]}", "vary.rank: 4 appears 2 times"),
    ("vary: {rnak: [4]}", "unknown key 'rnak' varies here; did you mean 'rank'?"),
    ("rank: 8, vary: {rank: [4]}", "'rank' varies and has a fixed value"),
    ("protocol: {lr: 1}, vary: {lr: [1, 2]}", "'lr' varies and has a fixed value"),
    ("vary: {rank: [4]}, zip: {rank: [4], alpha: [1]}", "'rank' varies twice"),
    ("zip: {rank: [4, 8], alpha: [8]}", "rank has 2, alpha has 1 values"),
    ("zip: {rank: [4, 8]}", "one list alone has no partner"),
    ("sample: {n: 2}", "it draws nothing"),
    ("sample: {lr: 'log(1, 2)'}", "'n' is required"),
    ("sample: {n: 0, lr: 'log(1, 2)'}", "n: "),
    ("sample: {n: 2, lr: 'log(1e-2, 1e-5)'}", "turned round: write log(1e-05, 0.01)"),
    ("sample: {n: 2, lr: 'log(0, 1)'}", "a logarithmic range begins above 0"),
    ("sample: {n: 2, lr: 'lgo(1, 2)'}", "unknown range 'lgo'; did you mean 'log'?"),
    ("sample: {n: 2, lr: 'log(1)'}", "write two numbers"),
    ("sample: {n: 2, lr: 'log(a, b)'}", "write two numbers"),
    ("sample: {n: 2, lr: [1, 2]}", "write a range"),
    ("sample: {n: 3, rank: 'choice(4, 8)'}", "only about 2 combinations, and 3 are to be drawn"),
    ("sample: {n: 2, rank: 'choice()'}", "has no values"),
    ("sample: {n: 2, rank: 'uniform(1, 9)'}", "rank: "),
    ('label: "a {rnak}", vary: {rank: [4]}', "nothing named 'rnak' varies here"),
    ("label: same, vary: {rank: [x]}", "rank: "),
]


@pytest.mark.parametrize(("new", "says"), REFUSED, ids=[new for new, _ in REFUSED])
def test_refusals_are_one_line(cells, new, says):
    with pytest.raises(UserError) as error:
        cells("rank: 8", new)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert "a.yaml" in str(error.value)


def test_a_huge_product_is_refused_at_once(cells):
    lists = ", ".join(f"{key}: {list(range(1, 400))}" for key in ("rank", "alpha", "lr"))
    with pytest.raises(UserError, match="63,521,199 combinations; at most 100,000"):
        cells("rank: 8", f"vary: {{{lists}}}")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "[vqa/shapes]",
            "[{task: vqa, dataset: shapes, vary: {lr: [1]}}]",
            "belongs to the protocol",
        ),
        ("[vqa/shapes]", "[{task: vqa, dataset: shapes, vary: {root: [a]}}]", "'root' varies and"),
        (
            "[vqa/shapes]",
            "[{joint: [vqa/shapes, captioning/shapes], vary: {size: [1]}}]",
            "a joint entry cannot vary",
        ),
        ("steps: 2}", "steps: 2, vary: {lr: [1, 2]}}", "'lr'"),
        ("lr: 1e-3", "vary: {lrr: [1, 2]}, lr: 1e-3", "unknown key 'lrr'; did you mean 'lr'?"),
    ],
)
def test_places_that_cannot_vary(cells, old, new, says):
    with pytest.raises(UserError, match=r"a\.yaml") as error:
        cells(old, new)
    assert says in str(error.value)


def test_a_key_cannot_vary_for_all_and_for_one(tmp_path):
    path = tmp_path / "a.yaml"
    text = SWEEP.replace("lr: 1e-3", "vary: {lr: [1e-3, 1e-2]}")
    path.write_text(text.replace("rank: 8", "vary: {lr: [1, 2]}"))
    with pytest.raises(UserError, match="varies 'lr' for all methods, and this entry has it, too"):
        expand(SweepHandle(str(path)))
