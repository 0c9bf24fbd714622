"""Published tables as data: strictly read, complete, and in agreement with themselves."""

from collections import Counter
from copy import deepcopy
from statistics import median

import pytest

from vlpeft.benchmark.core.config import load_yaml, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.papers.published import (
    FOLDER,
    Number,
    PublishedTable,
    load_published,
    published_names,
    recompute_numbers,
)

# How many different numbers each file holds; a change here is a change of what is said of a paper.
PRINTED = {
    "dora/table": 18,
    "dora/video": 17,
    "p_adapter/figure4": 26,
    "p_adapter/table1": 112,
    "p_adapter/table2": 20,
    "p_adapter/table3": 15,
    "p_adapter/table4": 20,
    "p_adapter/table5": 50,
    "routing/claims": 2,
    "vl_adapter/multi_gpu": 5,
    "vl_adapter/t5": 2,
    "vl_adapter/table1": 54,
    "vl_adapter/table3": 4,
    "vl_adapter/table4": 17,
    "vl_adapter/table5": 18,
    "vl_adapter/table6": 10,
    "vl_pet/checkpoints": 24,
    "vl_pet/other": 6,
    "vl_pet/table2": 136,
    "vl_pet/table9": 60,
}
SMALL = {
    "paper": "A paper",
    "table": "Table 1",
    "sources": {"pdf": {"url": "https://example.org", "primary": True, "read": "text"}},
    "tolerance": "ours",
    "columns": [
        {
            "name": "A",
            "metric": "accuracy",
            "task": "vqa/x",
            "measured": "vqa_accuracy",
            "tolerance": 0.5,
        },
        {
            "name": "B",
            "metric": "CIDEr",
            "task": "captioning/x",
            "measured": "CIDEr",
            "tolerance": 1.0,
        },
        {"name": "Avg.", "metric": "mean", "mean_of": ["A", "B"], "within": 0.01, "tolerance": 0.5},
    ],
    "groups": [
        {
            "name": "G",
            "backbone": "blip",
            "rows": [
                {"name": "one", "method": "one", "values": [1.0, 2.0, 1.5]},
                {"name": "two", "method": "two", "values": [2.0, 5.0, 3.51]},
                {
                    "name": "two over one",
                    "gain": {"of": "two", "over": "one"},
                    "values": [1.0, 3.0, 2.01],
                },
                {
                    "name": "two over one, %",
                    "gain": {"of": "two", "over": "one", "relative": True},
                    "values": {"Avg.": 134.0},
                },
            ],
        }
    ],
}


def small(**changes) -> PublishedTable:
    """The small table with values replaced at a dotted place, such as groups__0__rows__1__values."""
    values = deepcopy(SMALL)
    for place, value in changes.items():
        *steps, last = place.split("__")
        at = values
        for step in steps:
            at = at[int(step) if step.isdigit() else step]
        at[int(last) if last.isdigit() else last] = value
    return parse(PublishedTable, values, "small.yaml")


def parts(table: PublishedTable, number: Number) -> list[float | None]:
    """A printed average and what it is the mean of."""
    values = table.values(number.row)
    return [number.value, *(values.get(name) for name in number.column.mean_of)]


def test_every_file_is_read_and_holds_its_numbers() -> None:
    found = {}
    for name in published_names():
        found[name] = sum(
            number.value is not None and not number.row.again
            for number in load_published(name).numbers()
        )
    assert found == PRINTED


@pytest.mark.parametrize("name", published_names())
def test_printed_averages_and_gains_follow_from_the_rest(name: str) -> None:
    table = load_published(name)
    found = list(recompute_numbers(table))
    wrong = [
        (r.number.group.name, r.number.row.name, r.number.column.name, r.number.value, r.value)
        for r in found
        if not r.agrees
    ]
    assert not wrong
    averages = [
        n
        for n in table.numbers()
        if n.column.mean_of and not n.row.gain and None not in parts(table, n)
    ]
    gains = [n for n in table.numbers() if n.row.gain and n.group.row(n.row.gain.of)]
    assert len(found) == len(averages) + len(gains), (
        "a printed average or gain that was not recomputed"
    )


def test_table_5_derives_the_plain_adapter_of_table_2() -> None:
    """Score minus gain at all places is the row that Table 2 prints."""
    (whole,) = (
        group
        for group in load_published("p_adapter/table5").groups
        if group.name == "FFN + SA + CA"
    )
    adapter = whole.row("Adapter")
    assert adapter is not None
    assert adapter.derived
    printed = load_published("p_adapter/table2").groups[0].row("GCN (the plain adapter)")
    assert printed is not None
    assert adapter.values == printed.values


@pytest.mark.parametrize(
    ("table", "group", "row", "other", "place", "as_row"),
    [
        (
            "p_adapter/table2",
            "BLIP CapFilt-L",
            "pGNN (the p-adapter)",
            "p_adapter/table3",
            "BLIP CapFilt-L",
            "Query",
        ),
        (
            "p_adapter/table2",
            "BLIP CapFilt-L",
            "pGNN (the p-adapter)",
            "p_adapter/table4",
            "BLIP CapFilt-L",
            "Learnable",
        ),
        (
            "p_adapter/table2",
            "BLIP CapFilt-L",
            "pGNN (the p-adapter)",
            "p_adapter/table5",
            "FFN + SA + CA",
            "p-Adapter",
        ),
        ("vl_pet/table2", "CLIP-BART", "Compacter", "vl_pet/table9", "CLIP-BART", "Compacter"),
        ("vl_pet/table2", "CLIP-BART", "VL-Adapter", "vl_pet/table9", "CLIP-BART", "VL-Adapter"),
        (
            "vl_adapter/table1",
            "CLIP-BART",
            "Single adapter",
            "vl_adapter/table5",
            "CLIP-BART",
            "and a single adapter",
        ),
    ],
)
def test_rows_that_papers_print_twice_are_equal(
    table: str, group: str, row: str, other: str, place: str, as_row: str
) -> None:
    first, second = (
        next(g for g in load_published(t).groups if g.name == g_name).row(name)
        for t, g_name, name in ((table, group, row), (other, place, as_row))
    )
    assert first is not None
    assert second is not None
    assert (first.values, first.std) == (second.values, second.std)


def test_figure_4_ends_where_table_1_says() -> None:
    shared = ("Updated params", "VQA2.0", "SNLI-VE")
    one, four = load_published("p_adapter/table1"), load_published("p_adapter/figure4")
    (largest,) = (group for group in four.groups if group.name == "size 96")
    for name in ("Adapter", "p-Adapter"):
        row, end = one.groups[0].row(name), largest.row(name)
        assert row is not None
        assert end is not None
        assert {key: one.values(row)[key] for key in shared} == four.values(end)


@pytest.mark.parametrize(
    "name",
    [
        "vl_adapter/table1",
        "vl_pet/table2",
        "vl_pet/table9",
        "vl_pet/checkpoints",
        "dora/table",
        "p_adapter/table1",
    ],
)
def test_tolerances_are_what_the_files_say(name: str) -> None:
    """Twice the median spread that VL-PET prints for a column, rounded; p-Adapter's accuracies and BLEU take that of VQA."""
    spread = {}
    for column in ("VQA", "GQA", "NLVR2", "COCO", "Avg."):
        known = [
            n.std
            for n in load_published("vl_pet/table2").numbers()
            if n.group.name == "CLIP-BART" and n.column.name == column and n.std
        ]
        assert len(known) == 11
        spread[column] = round(2 * median(known), 1)
    other = {"CIDEr": spread["COCO"], "accuracy": spread["VQA"], "BLEU@4": spread["VQA"]}
    for column in load_published(name).columns:
        if column.name != "Updated params":
            assert column.tolerance == spread.get(column.name, other.get(column.metric)), (
                column.name
            )


def test_every_number_has_its_source() -> None:
    primary = Counter(
        number.source.primary
        for name in published_names()
        for number in load_published(name).numbers()
    )
    assert primary[True]
    assert primary[False]
    for name in published_names():
        for source in load_published(name).sources.values():
            assert source.url.startswith("https://")


def test_a_wrong_digit_is_found() -> None:
    assert all(found.agrees for found in recompute_numbers(small()))
    assert len(list(recompute_numbers(small()))) == 6
    for place, value in {
        "groups__0__rows__1__values__2": 3.52,  # an average beyond its tolerance
        "groups__0__rows__2__values__0": 1.001,  # a difference of printed numbers is exact
        "groups__0__rows__3__values": {"Avg.": 134.02},
    }.items():
        assert not all(found.agrees for found in recompute_numbers(small(**{place: value}))), place


def test_an_unknown_part_leaves_its_average_alone() -> None:
    table = small(
        groups__0__rows__0__values=[None, 2.0, 1.5], groups__0__rows__0__unknown="not found"
    )
    assert [r.number.row.name for r in recompute_numbers(table)] == [
        "two",
        "two over one",
        "two over one",
        "two over one, %",
    ]


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("groups__0__rows__0__value", [1], "unknown key 'groups[0].rows[0].value'"),
        ("groups__0__rows__0__values", [1.0, 2.0], "row 'G, one': 2 values for 3 columns"),
        ("groups__0__rows__0__std", [0.1], "row 'G, one': 1 std for 3 columns"),
        ("groups__0__rows__0__values", [1.0, None, 1.5], "give `unknown` where"),
        ("groups__0__rows__0__unknown", "why", "give `unknown` where"),
        ("groups__0__rows__0__values", {"C": 1.0}, "row 'G, one': values: no 'C' here"),
        ("groups__0__rows__0__source", "web", "row 'G, one': source: no 'web' here"),
        ("groups__0__rows__0__method", "", "give one of `method`, `gain` and `cannot`"),
        ("groups__0__rows__0__cannot", "no", "give one of `method`, `gain` and `cannot`"),
        (
            "groups__0__rows__0__not_comparable",
            {"C": "another share"},
            "row 'G, one': not_comparable: no 'C' here",
        ),
        ("groups__0__rows__1__name", "one", "rows of 'G': a name occurs twice"),
        ("columns__2__mean_of", ["A", "C"], "column 'Avg.': mean_of: no 'C' here"),
        ("columns__1__name", "A", "columns: a name occurs twice"),
        ("groups__0__rows__0__values", ["1.0", 2.0, 1.5], "groups[0].rows[0].values"),
    ],
)
def test_a_file_is_read_strictly(place: str, value: object, says: str) -> None:
    with pytest.raises(UserError, match=r"small\.yaml") as error:
        small(**{place: value})
    assert says in str(error.value)


def test_every_yaml_but_the_parameters_is_a_table() -> None:
    files = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml")}
    assert files == {*published_names(), "parameters"}
    assert "rows" in load_yaml(FOLDER / "parameters.yaml")
