"""Published compared with measured: means and gains by seed, verdicts, formats, the command."""

import csv
import io
import json
import os
import re
import statistics
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from vlpeft.benchmark.cells.cell import Cell, Choice, Part, Plan, Planned
from vlpeft.benchmark.cells.records import Record, Store
from vlpeft.benchmark.cli import main as cli
from vlpeft.benchmark.core.config import dump, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import to_json, write_atomically
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets import DatasetSpec
from vlpeft.benchmark.plan.plan_files import plan_file
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.sweep_files import sweep_names
from vlpeft.results.leaderboard import leaderboard
from vlpeft.results.papers.compare import Comparison, compare, published_table
from vlpeft.results.papers.published import PublishedTable, load_published, published_names
from vlpeft.results.scale import label_title, scale_notes
from vlpeft.results.tables.listing import listing
from vlpeft.results.tables.render import FORMATS, render

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "results"
RECIPE = Protocol(lr=1.0, epochs=1)
TABLE = {
    "paper": "A paper",
    "table": "Table 1: methods_1 ± #2",
    "sources": {
        "pdf": {"url": "https://example.org/a.pdf", "primary": True, "read": "text"},
        "plot": {"url": "https://example.org/b.pdf", "primary": False, "read": "coordinates"},
    },
    "tolerance": "ours: half a point",
    "columns": [
        {"name": "Params", "metric": "trainable %", "measured": "share", "tolerance": 0.0101},
        {
            "name": "VQA",
            "metric": "accuracy",
            "task": "vqa/vqav2",
            "measured": "vqa_accuracy",
            "tolerance": 0.5,
            "note": "measured on val",
        },
        {
            "name": "COCO",
            "metric": "CIDEr",
            "decimals": 1,
            "task": "captioning/coco",
            "measured": "CIDEr",
            "tolerance": 0.5,
        },
        {
            "name": "Avg.",
            "metric": "mean",
            "mean_of": ["VQA", "COCO"],
            "within": 0.01,
            "tolerance": 0.5,
        },
        {"name": "Claim", "metric": "unstated", "not_comparable": "basis unstated"},
    ],
    "groups": [
        {
            "name": "BLIP",
            "backbone": "BLIP-B",
            "rows": [
                {
                    "name": "Full",
                    "method": "full",
                    "values": [100, 70.0, 120.0, 95.0, 20],
                    "std": [None, 0.1, 0.2, 0.1, None],
                },
                {
                    "name": "LoRA",
                    "method": "lora",
                    "values": [0.5, 60.0, None, 90.0, 20],
                    "unknown": "not found",
                },
                {
                    "name": "Full over LoRA",
                    "gain": {"of": "Full", "over": "LoRA"},
                    "source": "plot",
                    "values": {"VQA": 10.0},
                },
                {
                    "name": "Full over LoRA, %",
                    "gain": {"of": "full", "over": "lora", "relative": True},
                    "values": {"VQA": 16.67},
                },
                {
                    "name": "derived",
                    "method": "full",
                    "derived": True,
                    "values": {"VQA": 70.9},
                    "qualifier": "over",
                },
            ],
        },
        {
            "name": "mPLUG",
            "cannot": "no mPLUG here",
            "rows": [{"name": "Full", "values": {"VQA": 71.0}}],
        },
    ],
}


def table(**columns) -> PublishedTable:
    """Return the table; keywords replace keys of the column VQA."""
    values = {
        **TABLE,
        "columns": [{**c, **columns} if c["name"] == "VQA" else c for c in TABLE["columns"]],
    }
    return parse(PublishedTable, values, "a.yaml")


def cell(
    row: str,
    task: str,
    dataset: str,
    seed: int,
    *,
    root: str = "/data",
    weights: str = "big.pth",
    also: tuple[Part, ...] = (),
) -> Planned:
    backbone = Choice("blip", {"weights": weights})
    made = Cell(
        Choice(row, {}), backbone, task, DatasetSpec(dataset, "none", {}, root), RECIPE, seed, also
    )
    return Planned(
        made.id, row, "BLIP-B", task, dataset, seed, made, trainable=5, head=0, total=2000
    )


SCORES = {  # row, task: values by seed
    ("full", "vqa"): (69.0, 71.5),
    ("full", "captioning"): (119.0, 120.0),
    ("lora", "vqa"): (59.0, 60.5),
    ("lora", "captioning"): (100.0, 101.0),
}
METRICS = {"vqa": ("vqav2", "vqa_accuracy"), "captioning": ("coco", "CIDEr")}


def cells(**more) -> list[Planned]:
    return [
        cell(row, task, METRICS[task][0], seed, **more) for row, task in SCORES for seed in (0, 1)
    ]


def record(planned: Planned, **metrics) -> Record:
    own = {METRICS[planned.task][1]: SCORES[planned.row, planned.task][planned.seed]}
    cost = {
        "trainable": 1000.0 if planned.row == "full" else 5.0,
        "total": 2000.0,
        "vision": 1000.0,
        "head": 0.0,
    }
    return Record(planned.id, {}, metrics or own, cost, [], {"data": {}, "science": 1})


def results(
    root: Path, *records: Record, planned: list[Planned] | None = None, sweep: str = "a"
) -> tuple[Plan, Store]:
    store = Store(root)
    for one in records:
        assert store.publish(one)
    return Plan(sweep, "A title", "", "source", tuple(planned or cells())), store


def full(root: Path) -> tuple[Plan, Store]:
    return results(root, *map(record, cells()))


def find(found: list[Comparison], row: str, column: str) -> Comparison:
    (one,) = (
        c
        for c in found
        if (c.number.row.name, c.number.column.name) == (row, column)
        and c.number.group.name == "BLIP"
    )
    return one


def verdict(found: list[Comparison], row: str, column: str) -> tuple[str, str]:
    one = find(found, row, column)
    return one.verdict, one.reason


# --- what is shown next to a number ---


def test_a_cell_is_compared_by_its_mean_and_spread(tmp_path):
    found = compare(table(), *full(tmp_path))
    one = find(found, "Full", "VQA")
    assert one.outcome.mean == pytest.approx(70.25)
    assert one.outcome.std == pytest.approx(statistics.stdev([69.0, 71.5]))
    assert (one.difference, one.verdict, one.outcome.planned) == (
        pytest.approx(0.25),
        "reproduced",
        2,
    )


def test_a_mean_of_columns_is_taken_seed_by_seed(tmp_path):
    one = find(compare(table(), *full(tmp_path)), "Full", "Avg.")
    assert one.outcome.values == {0: 94.0, 1: 95.75}
    assert one.outcome.std == pytest.approx(statistics.stdev([94.0, 95.75]))


def test_gains_are_taken_seed_by_seed_whether_the_rows_are_printed_or_not(tmp_path):
    found = compare(table(), *full(tmp_path))
    assert find(found, "Full over LoRA", "VQA").outcome.values == {0: 10.0, 1: 11.0}
    relative = find(found, "Full over LoRA, %", "VQA").outcome.values
    assert relative == {0: pytest.approx(100 * 10 / 59), 1: pytest.approx(100 * 11 / 60.5)}


def test_a_gain_over_zero_is_not_defined(tmp_path):
    records = [
        record(p, vqa_accuracy=0.0) if (p.row, p.task) == ("lora", "vqa") else record(p)
        for p in cells()
    ]
    found = compare(table(), *results(tmp_path, *records))
    assert verdict(found, "Full over LoRA, %", "VQA") == (
        "not run",
        "absent: a gain over 0 is not defined",
    )
    assert find(found, "Full over LoRA", "VQA").outcome.values == {0: 69.0, 1: 71.5}


def test_a_failed_cell_has_failed_in_the_column_of_shares_too(tmp_path):
    plan, store = results(tmp_path, *[record(p) for p in cells() if p.row == "full"])
    for p in cells():
        if p.row == "lora":
            store.write_failure(p.id, {"cause": "out of memory", "message": "x", "user": False})
    found = compare(table(), plan, store)
    assert verdict(found, "LoRA", "Params") == verdict(found, "LoRA", "VQA")
    assert "failed: out of memory" in verdict(found, "LoRA", "Params")[1]


def test_a_share_excludes_the_vision_tower(tmp_path):
    found = compare(table(), *full(tmp_path))
    assert [find(found, row, "Params").outcome.values for row in ("Full", "LoRA")] == [
        {0: 100.0, 1: 100.0},
        {0: 0.5, 1: 0.5},
    ]
    assert verdict(found, "LoRA", "Params") == ("reproduced", "")


def test_a_task_of_a_joint_cell(tmp_path):
    also = (Part("captioning", DatasetSpec("coco", "none", {}, "/data"), RECIPE),)
    planned = [cell("full", "vqa", "vqav2", seed, also=also) for seed in (0, 1)]
    records = [
        record(p, **{"vqa/vqav2:vqa_accuracy": 70.0 + p.seed, "captioning/coco:CIDEr": 120.0})
        for p in planned
    ]
    found = compare(table(), *results(tmp_path, *records, planned=planned))
    assert find(found, "Full", "VQA").outcome.values == {0: 70.0, 1: 71.0}
    assert find(found, "Full", "Avg.").outcome.values == {0: 95.0, 1: 95.5}


def test_two_cells_a_seed_are_refused(tmp_path):
    also = (Part("captioning", DatasetSpec("coco", "none", {}, "/data"), RECIPE),)
    planned = [cell("full", "vqa", "vqav2", 0), cell("full", "vqa", "vqav2", 0, also=also)]
    with pytest.raises(UserError, match="full, BLIP-B, Params: more than one cell per seed"):
        compare(table(), *results(tmp_path, planned=planned))


# --- verdicts ---


def test_the_larger_of_spread_and_tolerance_decides(tmp_path):
    near = full(tmp_path)
    assert (
        find(compare(table(), *near), "derived", "VQA").verdict == "reproduced"
    )  # 0.65 is off; two standard deviations are 3.5
    even = [record(p, vqa_accuracy=70.25) if p.task == "vqa" else record(p) for p in cells()]
    steady = results(tmp_path / "steady", *even)
    assert find(compare(table(), *steady), "derived", "VQA").verdict == "off"
    assert find(compare(table(), *steady), "Full", "VQA").verdict == "reproduced"
    assert find(compare(table(tolerance=0.2), *steady), "Full", "VQA").verdict == "off"
    assert find(compare(table(tolerance=0.7), *steady), "derived", "VQA").verdict == "reproduced"


def test_a_number_of_something_else_is_not_judged(tmp_path):
    odd = deepcopy(TABLE)
    odd["groups"][0]["rows"][0]["not_comparable"] = {"VQA": "of another split"}
    found = compare(parse(PublishedTable, odd, "a.yaml"), *full(tmp_path))
    assert verdict(found, "Full", "VQA") == ("not comparable", "of another split")
    assert verdict(found, "Full", "COCO") == ("reproduced", "")
    shares = {
        n.row.name: n.why_not_comparable
        for n in load_published("vl_adapter/table5").numbers()
        if n.column.name == "Updated params"
    }
    assert [name for name, why in shares.items() if why] == [
        "Visual embedding alone",
        "and LayerNorms",
    ]


def test_one_seed_has_no_spread_but_a_verdict(tmp_path):
    one = [p for p in cells() if p.seed == 0]
    found = find(
        compare(table(), *results(tmp_path, *map(record, one), planned=one)), "Full", "VQA"
    )
    assert (found.outcome.std, found.verdict) == (None, "off")


def test_without_a_plan_nothing_is_run():
    found = compare(table(), None, None)
    assert (
        verdict(found, "Full", "VQA")
        == verdict(found, "Full over LoRA", "VQA")
        == verdict(found, "Full", "Avg.")
        == ("not run", "")
    )
    assert verdict(found, "Full", "Claim") == ("not comparable", "basis unstated")
    assert [(c.verdict, c.reason) for c in found if c.number.group.name == "mPLUG"] == [
        ("cannot run", "no mPLUG here")
    ]


def test_seeds_that_are_missing_leave_a_number_not_run(tmp_path):
    found = compare(table(), *results(tmp_path, *(record(p) for p in cells() if p.seed == 0)))
    assert verdict(found, "Full", "VQA") == ("not run", "1 of 2 seeds are done")
    assert find(found, "Full", "VQA").difference is None


def test_failed_absent_and_skipped_cells_say_why(tmp_path):
    planned = [
        replace(p, skipped="no site") if (p.row, p.task) == ("full", "captioning") else p
        for p in cells()
    ]
    records = [
        record(p, vqa_accuracy={"absent": "no java"})
        for p in planned
        if (p.row, p.task) == ("lora", "vqa")
    ]
    plan, store = results(tmp_path, *records, planned=planned)
    failed = next(p for p in planned if (p.row, p.task) == ("full", "vqa"))
    store.folder(failed.id).mkdir(parents=True)
    (store.folder(failed.id) / "failure.json").write_text(
        json.dumps({"cause": "OutOfMemory", "message": "too big", "user": False})
    )
    found = compare(table(), plan, store)
    assert verdict(found, "Full", "VQA") == ("not run", "failed: OutOfMemory: too big")
    assert verdict(found, "LoRA", "VQA") == ("not run", "absent: no java")
    assert verdict(found, "Full", "COCO") == ("cannot run", "no site")


def test_a_nan_reproduces_nothing(tmp_path, monkeypatch):
    plan, store = full(tmp_path)
    frame = leaderboard(plan, store)
    frame.frame["value"] = float("nan")
    monkeypatch.setattr("vlpeft.results.papers.measured.leaderboard", lambda *_, **__: frame)
    assert verdict(compare(table(), plan, store), "Full", "VQA") == (
        "not run",
        "absent: the value is nan",
    )


def test_a_record_without_counts_has_no_share(tmp_path):
    records = [replace(record(p), cost={}) for p in cells()]
    assert verdict(compare(table(), *results(tmp_path, *records)), "Full", "Params") == (
        "not run",
        "absent: the record does not count parameters",
    )


def test_a_metric_that_no_cell_reports_is_missing(tmp_path):
    found = compare(table(measured="accuracy"), *full(tmp_path))
    assert verdict(found, "Full", "VQA") == ("not run", "absent: the cell does not report accuracy")


def test_an_unknown_number_is_never_judged(tmp_path):
    found = compare(table(), *full(tmp_path))
    assert verdict(found, "LoRA", "COCO") == ("unknown", "not found")
    assert find(found, "LoRA", "COCO").difference is None


def test_a_basis_that_is_unstated_is_not_judged(tmp_path):
    found = compare(table(not_comparable="basis unstated"), *full(tmp_path))
    assert verdict(found, "Full over LoRA, %", "VQA") == ("not comparable", "basis unstated")
    assert find(found, "Full over LoRA, %", "VQA").outcome.mean is not None


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"weights": "tiny"}, "tiny towers"),
        ({"root": ""}, "embedded data"),
        ({"weights": "tiny", "root": ""}, "tiny towers, embedded data"),
    ],
)
def test_small_cells_are_shown_and_not_judged(tmp_path, more, reason):
    planned = cells(**more)
    plan, store = results(tmp_path, *map(record, planned), planned=planned)
    found = compare(table(), plan, store)
    assert (
        verdict(found, "Full", "VQA")
        == verdict(found, "Full over LoRA", "VQA")
        == ("not comparable", reason)
    )
    assert find(found, "Full", "VQA").difference is None
    assert (
        published_table("a", table(), plan, store).title
        == f"A paper, Table 1: methods_1 ± #2 ({reason})"
    )


def test_another_scale_replaces_each_dataset(tmp_path):
    """The name of a replaced dataset is followed by its substitute.

    Metrics have another tokenizer.
    """
    places = [("vqa", "vqav2_karpathy"), ("vqa", "vizwiz_vqa"), ("entailment", "snli_ve")]
    places += [("captioning", name) for name in ("coco", "textcaps", "vizwiz_caps")]
    made = [
        cell("lora", task, f"{dataset} (shapes)", 42, root="", weights="tiny")
        for task, dataset in places
    ]
    planned = [replace(one, backbone="BLIP CapFilt-L") for one in made]
    values = (
        {"vqa_accuracy": 1.0},
        {"vqa_accuracy": 2.0},
        {"accuracy": 3.0},
        *({"CIDEr (treebank)": x, "BLEU-4 (treebank)": 0.5} for x in (4.0, 5.0, 6.0)),
    )
    records = [
        Record(p.id, {}, dict(found), {}, [], {"data": {}, "science": 1})
        for p, found in zip(planned, values, strict=True)
    ]
    plan, store = results(tmp_path, *records, planned=planned, sweep="p_adapter/table1@tiny")
    found = compare(load_published("p_adapter/table1"), plan, store)
    row = {
        c.number.column.name: c
        for c in found
        if (c.number.group.name, c.number.row.name) == ("BLIP CapFilt-L", "LoRA")
    }
    columns = ("VQA2.0", "VizWizVQA", "SNLI-VE", "COCO C", "TextCaps C", "VizWizCaps C")
    assert [row[name].outcome.mean for name in columns] == [1, 2, 3, 4, 5, 6]
    assert {(c.verdict, c.reason) for name, c in row.items() if name != "Updated params"} == {
        ("not comparable", "tiny towers, embedded data")
    }


# --- labels ---


def test_which_cells_count_as_small():
    assert scale_notes(cell("full", "vqa", "vqav2", 0).cell) == ()
    part = (Part("captioning", DatasetSpec("shapes", "shapes", {}, ""), RECIPE),)
    assert scale_notes(cell("full", "vqa", "vqav2", 0, also=part).cell) == ("embedded data",)


def test_titles_name_small_parts_once():
    tiny, big = (
        cell("a", "vqa", "shapes", 0, root="", weights="tiny").cell,
        cell("a", "vqa", "vqav2", 0).cell,
    )
    assert label_title("A title", [big]) == "A title"
    assert label_title("A title", []) == "A title"
    assert label_title("A title", [tiny]) == "A title (tiny towers, embedded data)"
    assert (
        label_title("A title", [tiny, big])
        == "A title (tiny towers in part, embedded data in part)"
    )
    said = "Quickstart: tiny pretrained towers, embedded data"
    assert label_title(said, [tiny]) == said
    assert (
        label_title("Is tiny LoRA enough?", [tiny])
        == "Is tiny LoRA enough? (tiny towers, embedded data)"
    )


def test_a_table_of_scores_is_labelled_too(tmp_path):
    planned = cells(root="")
    assert leaderboard(*results(tmp_path, planned=planned)).title == "A title (embedded data)"
    assert leaderboard(*results(tmp_path, planned=cells())).title == "A title"


# --- the table ---


def example(root: Path) -> tuple[Plan, Store]:
    planned = cells()
    kept = [p for p in planned if (p.row, p.task, p.seed) != ("lora", "captioning", 1)]
    return results(root, *map(record, kept), planned=planned)


@pytest.mark.parametrize("format", FORMATS)
def test_golden(tmp_path, format):  # noqa: A002
    got = render(published_table("paper/table1", table(), *example(tmp_path)), format)
    path = GOLDEN / f"published.{format}"
    # run after an intended change of format, then read the diff
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(got, encoding="utf-8")
    assert got == path.read_text(encoding="utf-8")


def test_rows_for_scripts_name_the_source_of_a_number(tmp_path):
    rows = list(
        csv.DictReader(
            io.StringIO(render(published_table("paper/table1", table(), *example(tmp_path)), "csv"))
        )
    )
    plot = next(row for row in rows if row["row"] == "Full over LoRA")
    assert (plot["source"], plot["primary"], plot["read"]) == (
        "https://example.org/b.pdf",
        "False",
        "coordinates",
    )
    assert (plot["published_table"], plot["paper"], plot["table"]) == (
        "paper/table1",
        "A paper",
        "Table 1: methods_1 ± #2",
    )


@pytest.mark.parametrize("name", published_names())
def test_every_shipped_table_prints_without_results(name):
    for form in FORMATS:
        assert render(published_table(name, load_published(name), None, None), form)


# --- the command ---


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        cli.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return int(done.value.code or 0), out, err


def test_the_command_needs_no_results(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "table", "p_adapter/table1")
    assert (code, err) == (0, "")
    assert out.startswith("p-Adapter (Wu et al., AAAI 2024, arXiv 2312.10613), Table 1")
    assert "not run" in out
    assert "no mPLUG backbone here" in out
    assert list(tmp_path.iterdir()) == []


def test_the_command_imports_no_torch(tmp_path):
    code = "import sys; from vlpeft.benchmark.cli.main import main\n"
    code += "try: main(['table', 'vl_pet/table2'])\nfinally: assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_every_listed_name_can_be_planned_or_gives_a_reason(capsys, monkeypatch):
    planned = []
    monkeypatch.setattr(
        "vlpeft.benchmark.plan.check.plan",
        lambda name, **_: planned.append(name) or Plan(name, name, "", "", ()),
    )
    for name in (row["name"] for row in listing("sweeps")):
        code, _, err = run(capsys, "plan", name)
        table = load_published(name) if name in published_names() else None
        if name in sweep_names() or (table and table.sweep):
            assert (code, planned[-1].named) == (0, (table and table.sweep) or name)
        else:
            assert code == 2
            assert (
                f"{name} is a published table without a sweep, because nothing "
                "here can reproduce it ("
            ) in err
            assert f": see `vlpeft table {name}`" in err
            assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("scale", "says"), [("", "reproduced"), ("tiny", "not comparable")])
def test_the_command_finds_the_sweeps_plan(capsys, tmp_path, monkeypatch, scale, says):
    """A table without a sweep of its own name uses the launch of the sweep that it names.

    The two scales never mix.
    """
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs" / "vl_pet" / (f"table2@{scale}" if scale else "table2")
    small_ones = {"root": "", "weights": "tiny"} if scale else {}
    made = cell("vl_pet large", "vqa", "vqav2_clip_bart", 42, **small_ones)
    planned = replace(made, backbone="CLIP-BART")
    source = SweepHandle("vl_pet/table2", scale).fingerprint()
    name = f"vl_pet/table2@{scale}" if scale else "vl_pet/table2"
    others = [
        ("vqa", "gqa_clip_bart"),
        ("nlvr2", "nlvr2_clip_bart"),
        ("captioning", "coco_clip_bart"),
    ]
    also = tuple(
        Part(task, DatasetSpec(dataset, "none", {}, planned.cell.dataset.root), RECIPE)
        for task, dataset in others
    )
    whole = replace(planned.cell, also=also)
    planned = replace(planned, cell=whole, id=whole.id)
    plan = Plan(name, "A title", "", source, (planned,))
    write_atomically(plan_file(root, "vl_pet/table2", scale), to_json(dump(plan)))
    metrics = {
        "vqa/vqav2_clip_bart:vqa_accuracy_vl_adapter": 66.4,
        "vqa/gqa_clip_bart:accuracy": 54.94,
        "nlvr2/nlvr2_clip_bart:accuracy": 73.36,
    }
    Store(root).publish(Record(whole.id, {}, metrics, {}, [], {"data": {}, "science": 1}))
    code, out, err = run(
        capsys, "table", "vl_pet/checkpoints", "--json", *(["--scale", scale] if scale else [])
    )
    assert (code, err) == (0, "")
    rows = {(row["row"], row["column"]): row["verdict"] for row in json.loads(out)["rows"]}
    assert {rows["VL-PET-large", column] for column in ("VQA", "GQA", "NLVR2")} == {says}
    assert rows["VL-PET-small", "VQA"] == "not run"
    _, other, err = run(
        capsys, "table", "vl_pet/checkpoints", "--json", *([] if scale else ["--scale", "tiny"])
    )
    if scale:
        assert {row["verdict"] for row in json.loads(other)["rows"]} == {"not run"}
    else:
        assert (
            "holds no results of the sweep 'vl_pet/table2'; run `vlpeft sweep vl_pet/table2 --root"
            in err
        )


def test_the_list_of_sweeps_shows_every_published_table(capsys):
    code, out, _ = run(capsys, "list", "sweeps", "--json")
    names = [row["name"] for row in json.loads(out)]
    assert code == 0
    assert set(published_names()) < set(names)
    assert names.index("quickstart") < names.index("dora/table") < names.index("p_adapter/table1")
    assert len(set(names)) == len(names)
    _, text, _ = run(capsys, "list", "sweeps")
    assert "\n\np_adapter/figure4" in text  # an empty line separates a new group


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scale", "tinny"], "--scale: unknown scale 'tinny'; did you mean 'tiny'"),
        (
            ["--root", "/nonexistent"],
            "/nonexistent holds no results of the sweep 'vl_adapter/table3'",
        ),
        (
            ["--scale", "tiny"],
            (
                "holds no results of the sweep 'vl_adapter/table3'; run `vlpeft "
                "sweep vl_adapter/table3 --root"
            ),
        ),
    ],
)
def test_requested_results_must_exist(options, words, capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        cli.main(["table", "vl_adapter/table3", *options])
    assert done.value.code == 2
    assert words in capsys.readouterr().err


def test_the_caption_names_an_address_and_repetitions_once():
    made = table()
    text = render(published_table("t", made, None, None), "text").splitlines()
    assert text[1:3] == [
        "Published: https://example.org/a.pdf (primary source: text).",
        "Published: https://example.org/b.pdf (secondary source: coordinates).",
    ]
    assert text[4].startswith("14 lines, one per number: ")
    assert text[4].endswith(" In 1 of them, the printed number was not found.")
    lines = render(
        published_table("p_adapter/table1", load_published("p_adapter/table1"), None, None), "text"
    ).splitlines()
    assert sum(line.startswith("Published: ") for line in lines) == 1
    assert any(
        re.search(
            r"^123 lines, one per number: .* "
            r"In 11 of them, the number is also printed elsewhere\.$",
            line,
        )
        for line in lines
    )
