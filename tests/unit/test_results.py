"""Tables from synthetic records: their content, what they refuse, and that they are repeatable."""

import csv
import io
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.synthetic import SCORES, fill, full_plan, make_plan, planned, record, results, score
from vlpeft.benchmark.cells.cell import Part, Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import to_json
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.results import status as statuses
from vlpeft.results.leaderboard import SCHEMA, leaderboard
from vlpeft.results.states import MISSING, State
from vlpeft.results.statistics.comparisons import significance_table
from vlpeft.results.statistics.significance import significance
from vlpeft.results.status import (
    CellStatus,
    add_cluster_notes,
    as_dicts,
    find_unplanned,
    mark_stale,
    select_shown,
    status,
    status_table,
    summary,
)
from vlpeft.results.summaries import costs, scores
from vlpeft.results.tables.blocks import Block, Footnotes, Table, Text
from vlpeft.results.tables.listing import plan_rows
from vlpeft.results.tables.pivot import pivot_table
from vlpeft.results.tables.render import FORMATS, render
from vlpeft.results.tables.table import cost_table, score_table

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "results"


def only(entries):
    (entry,) = entries
    return entry


def everything(plan: Plan, store: Store) -> dict[str, str]:
    board = leaderboard(plan, store)
    tests = significance(board, store)
    tables = {
        "scores": score_table(board, tests, details=True),
        "costs": cost_table(board),
        "significance": significance_table(board, tests),
        "pivot": pivot_table(board, ("backbone", "method"), ("task",)),
    }
    return {
        f"{name}.{form}": render(table, form) for name, table in tables.items() for form in FORMATS
    }


def test_importing_results_imports_no_torch():
    code = (
        "import sys, vlpeft.results.leaderboard, vlpeft.results.tables.render, "
        "vlpeft.results.status; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the frame ---


def test_one_row_a_cell_and_metric_in_the_documented_schema(tmp_path):
    plan = full_plan()
    frame = leaderboard(plan, fill(tmp_path, map(record, plan.cells))).frame
    assert list(frame.columns) == list(SCHEMA)
    assert len(frame) == 2 * len(plan.cells)
    assert set(frame["state"]) == {"done"}
    first = frame.iloc[0]
    assert (first["metric"], first["value"], first["trainable_percent"], first["step_ms"]) == (
        "vqa_accuracy",
        70.0,
        0.5,
        12.5,
    )
    assert pd.isna(first["delta_bytes"])


def test_without_any_record_the_tasks_own_metrics_are_missing(tmp_path):
    frame = leaderboard(make_plan(planned(task="captioning")), Store(tmp_path)).frame
    assert frame["metric"].tolist() == [
        "CIDEr",
        "BLEU-1",
        "BLEU-2",
        "BLEU-3",
        "BLEU-4",
        "ROUGE-L",
        "METEOR",
        "SPICE",
    ]
    assert set(frame["state"]) == {"missing"}
    assert frame["trainable"].tolist() == [1000] * 8


def test_protocol_metrics_limit_what_is_expected(tmp_path):
    cell = planned(task="captioning")
    few = replace(
        cell,
        cell=replace(
            cell.cell,
            protocol=Protocol(
                lr=1.0, epochs=1, metrics=("spice", "cider"), metric_tokenizer="treebank"
            ),
        ),
    )
    assert leaderboard(make_plan(few), Store(tmp_path)).frame["metric"].tolist() == [
        "SPICE (treebank)",
        "CIDEr (treebank)",
    ]


def test_metrics_keep_the_order_of_the_task_with_unknown_ones_last(tmp_path):
    cell = planned(task="captioning")
    plan, store = results(
        tmp_path, (cell, {"aaa": 1.0, "SPICE": 2.0, "BLEU-4": 3.0, "BLEU-1": 4.0, "CIDEr": 5.0})
    )
    assert leaderboard(plan, store).frame["metric"].tolist() == [
        "CIDEr",
        "BLEU-1",
        "BLEU-4",
        "SPICE",
        "aaa",
    ]


def test_the_record_takes_precedence_over_the_plan(tmp_path):
    cell = planned()
    store = fill(tmp_path, [replace(record(cell), cost={"trainable": 7.0, "total": 70.0})])
    first = leaderboard(make_plan(cell), store).frame.iloc[0]
    assert (first["trainable"], first["head"], first["total"], first["trainable_percent"]) == (
        7,
        10,
        70,
        10.0,
    )


def test_a_truncated_record_names_its_file(tmp_path):
    cell = planned()
    store = fill(tmp_path, [record(cell)])
    path = store.folder(cell.id) / "record.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=str(path)):
        leaderboard(make_plan(cell), store)


def test_a_record_of_another_sweep_is_not_even_opened(tmp_path):
    plan, store = results(tmp_path, (planned(), {"vqa_accuracy": 1.0}))
    path = store.folder("feedfeedfeed") / "record.json"
    path.parent.mkdir()
    path.write_text("{")
    assert set(leaderboard(plan, store).frame["state"]) == {"done"}


@pytest.mark.parametrize("key", ["data", "science"])
def test_mixed_provenance_is_refused_with_the_cells(tmp_path, key):
    cells = [planned(seed=0), planned(seed=1)]
    store = fill(tmp_path, [record(cells[0]), record(cells[1], **{key: 2})])
    with pytest.raises(
        UserError, match=rf"provenance\.{key}.*{cells[0].id}.*{cells[1].id} \(lora, blip, seed 1\)"
    ):
        leaderboard(make_plan(*cells), store)


def test_different_datasets_have_different_data(tmp_path):
    cells = [planned(), planned(dataset="other")]
    assert leaderboard(
        make_plan(*cells), fill(tmp_path, [record(cells[0]), record(cells[1], data="d2")])
    )


def together(cell: Planned, *datasets: str) -> Planned:
    also = tuple(
        Part(cell.task, replace(cell.cell.dataset, name=name), cell.cell.protocol)
        for name in datasets
    )
    joint = replace(cell.cell, also=also)
    return replace(cell, cell=joint, id=joint.id)


def test_joint_cells_of_other_datasets_have_other_data(tmp_path):
    cells = [planned(), together(planned(), "second"), together(planned(), "third")]
    made = [record(cell) for cell in cells]
    versions = ("d1", "d1+d2", "d1+d3")
    made = [
        replace(one, provenance={"data": data, "science": 1})
        for one, data in zip(made, versions, strict=True)
    ]
    assert leaderboard(make_plan(*cells), fill(tmp_path, made))


@pytest.mark.parametrize(
    ("data", "named"), [("d0+d2", "dataset 'shapes'"), ("d1+d0", "dataset 'second'")]
)
def test_data_of_each_task_of_a_joint_cell_is_compared(tmp_path, data, named):
    cells = [planned(), planned(dataset="second"), together(planned(), "second")]
    made = [
        replace(record(c), provenance={"data": d, "science": 1})
        for c, d in zip(cells, ("d1", "d2", data), strict=True)
    ]
    with pytest.raises(UserError, match=rf"{named}.*provenance\.data.*{cells[2].id}"):
        leaderboard(make_plan(*cells), fill(tmp_path, made))


def test_one_place_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"2 cells for \(lora, blip, vqa/shapes, seed 0\)"):
        leaderboard(make_plan(planned(), planned()), Store(tmp_path))


# --- means over seeds ---


@given(st.lists(st.floats(0.01, 200), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_mean_and_sample_deviation(values):
    cells = [(planned(seed=i), {"vqa_accuracy": v}) for i, v in enumerate(values)]
    with tempfile.TemporaryDirectory() as folder:
        entry = only(scores(leaderboard(*results(Path(folder), *cells))))
    assert entry.mean == pytest.approx(sum(values) / len(values))
    assert (entry.n, entry.planned, str(entry.state), entry.flags) == (
        len(values),
        len(values),
        "done",
        (),
    )
    if len(values) == 1:
        assert entry.std is None
    else:
        squares = sum((v - entry.mean) ** 2 for v in values)
        assert entry.std == pytest.approx(math.sqrt(squares / (len(values) - 1)), abs=1e-9)
        assert entry.std == statistics.stdev(values)


def test_a_missing_seed_blocks_the_mean(tmp_path):
    entry = only(
        scores(
            leaderboard(
                *results(tmp_path, (planned(), {"vqa_accuracy": 70.0}), (planned(seed=1), None))
            )
        )
    )
    assert (entry.mean, entry.std, entry.n, entry.planned, str(entry.state)) == (
        None,
        None,
        1,
        2,
        "missing",
    )


def test_an_absent_metric_blocks_the_mean_and_says_why(tmp_path):
    absent = {"cider": 90.0, "spice": {"absent": "no Java"}}
    cells = (
        (planned(task="captioning"), {"cider": 90.0, "spice": 20.0}),
        (planned(task="captioning", seed=1), absent),
    )
    board = leaderboard(*results(tmp_path, *cells))
    cider, spice = scores(board)
    assert (cider.mean, spice.mean, spice.n) == (90.0, None, 1)
    assert spice.state == State("absent", "no Java")
    text = render(score_table(board), "text")
    assert "absent [a]" in text
    assert "[a] no Java" in text


def test_a_metric_that_only_some_records_have_is_absent_in_the_others(tmp_path):
    cells = (
        (planned(), {"vqa_accuracy": 1.0, "extra": 2.0}),
        (planned("bitfit"), {"vqa_accuracy": 1.0}),
    )
    states = {
        (e.method, e.metric): str(e.state) for e in scores(leaderboard(*results(tmp_path, *cells)))
    }
    assert states["bitfit", "extra"] == "absent: the record does not report it"


def test_a_failed_cell_differs_from_one_that_never_ran(tmp_path):
    cells = [planned(), planned(seed=1), planned("bitfit")]
    store = fill(tmp_path, [record(cells[0])])
    leave(store, cells[1], "failure.json", FAILURE)
    board = leaderboard(make_plan(*cells), store)
    lora, bitfit = scores(board)
    assert lora.state == State("failed", "OutOfMemory: CUDA\nout of memory")
    assert (lora.mean, lora.n) == (None, 1)
    assert (bitfit.state, bitfit.n) == (MISSING, 0)
    assert {e.state for e in costs(board) if e.method == "lora"} == {lora.state}
    text = render(score_table(board), "text")
    assert re.search(r"^lora .* failed \[a\]$", text, re.MULTILINE)
    assert re.search(r"^bitfit .* 0/1 seeds$", text, re.MULTILINE)
    assert "[a] OutOfMemory: CUDA out of memory" in text


def test_a_record_outlives_an_old_failure(tmp_path):
    cell = planned()
    store = fill(tmp_path, [record(cell)])
    leave(store, cell, "failure.json", FAILURE)
    assert only(scores(leaderboard(make_plan(cell), store))).state.is_done


def test_skipped_cells_show_a_dash_with_the_reason(tmp_path):
    board = leaderboard(
        *results(
            tmp_path,
            (planned(), {"vqa_accuracy": 1.0}),
            (planned("prompt", skipped="no embeddings"), None),
        )
    )
    assert scores(board)[1].state == State("skipped", "no embeddings")
    text = render(score_table(board), "text")
    assert "– [a]" in text
    assert "[a] no embeddings" in text
    assert "seeds:" not in text


def test_zero_is_flagged(tmp_path):
    board = leaderboard(
        *results(
            tmp_path, (planned(), {"vqa_accuracy": 0.0}), (planned(seed=1), {"vqa_accuracy": 50.0})
        )
    )
    assert only(scores(board)).flags == ("seed 0 is exactly 0.0",)
    assert "25.0 ± 35.4 [a]" in render(score_table(board), "text")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nan_is_flagged(tmp_path, value):
    board = leaderboard(
        *results(
            tmp_path, (planned(), {"vqa_accuracy": 1.0}), (planned(seed=1), {"vqa_accuracy": 2.0})
        )
    )
    board.frame.loc[1, "value"] = value
    entry = only(scores(board))
    assert math.isnan(entry.mean)
    assert entry.flags == (f"seed 1 is not a finite number ({value})",)
    assert " NaN [a]" in render(score_table(board), "text")
    assert json.loads(render(score_table(board), "json"))["rows"][0]["mean"] is None


def test_breakdowns_are_hidden_by_default(tmp_path):
    cell = planned()
    board = leaderboard(make_plan(cell), fill(tmp_path, [record(cell)]))
    assert [e.metric for e in scores(board)] == ["vqa_accuracy"]
    assert [e.metric for e in scores(board, details=True)] == ["vqa_accuracy", "vqa_accuracy/exist"]


def test_costs_are_means_that_a_missing_cell_blocks(tmp_path):
    cells = [planned(), planned(seed=1), planned("bitfit"), planned("bitfit", seed=1)]
    done = [
        record(cells[0]),
        record(cells[1], train_seconds=121.0),
        replace(record(cells[2]), cost={"step_ms": 1.0}),
    ]
    found = {
        (e.method, e.metric): e for e in costs(leaderboard(make_plan(*cells), fill(tmp_path, done)))
    }
    assert found["lora", "train_seconds"].mean == 120.5
    assert (found["bitfit", "step_ms"].state, found["bitfit", "step_ms"].n) == (MISSING, 1)
    assert found["lora", "peak_memory_mb"].state.is_done


def test_a_cost_is_known_even_if_a_metric_is_absent(tmp_path):
    board = leaderboard(*results(tmp_path, (planned(), {"vqa_accuracy": {"absent": "why"}})))
    assert {e.metric: e.mean for e in costs(board)} == {
        "train_seconds": 120.0,
        "step_ms": 12.5,
        "peak_memory_mb": 900.0,
    }


def test_costs_that_no_record_has_are_no_column_and_others_are_in_readable_units(tmp_path):
    """Records without such costs are older; then one of two records has them."""
    cells = [planned(), planned("bitfit")]
    old, new = (
        record(cells[0]),
        record(cells[1], flops_per_step=2.5e12, gpu_hours=0.004, delta_bytes=51200.0),
    )
    assert "GFLOP" not in render(
        cost_table(leaderboard(make_plan(cells[0]), fill(tmp_path / "old", [old]))), "text"
    )
    board = leaderboard(make_plan(*cells), fill(tmp_path / "both", [old, new]))
    found = {(e.method, e.metric): e for e in costs(board)}
    assert found["lora", "gpu_hours"].state == State("absent", "not measured")
    assert found["bitfit", "flops_per_step"].mean == 2.5e12
    lines = render(cost_table(board), "text").splitlines()
    header = next(line for line in lines if "GFLOP" in line)
    assert [
        title
        for title in ("train s", "GPU h", "step ms", "GFLOP per step", "peak MB", "saved kB")
        if title not in header
    ] == []
    assert next(line for line in lines if line.startswith("bitfit")).split()[-6:] == [
        "120",
        "0.004",
        "12.5",
        "2,500",
        "900",
        "51.2",
    ]


def test_a_cost_that_was_not_measured_is_absent(tmp_path):
    cell = planned()
    board = leaderboard(make_plan(cell), fill(tmp_path, [replace(record(cell), cost={})]))
    assert {e.state for e in costs(board)} == {State("absent", "not measured")}


# --- properties ---


@given(seed=st.integers(0, 2**16), strangers=st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_order_place_and_foreign_records_change_nothing(seed, strangers):
    plan = full_plan()
    records = [record(cell) for cell in plan.cells]
    others = [record(planned(f"other{i}"), data="another", science=9) for i in range(strangers)]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        shuffled = random.Random(seed).sample([*records, *others], len(records) + strangers)
        plain, messy = fill(Path(one), records), fill(Path(two) / "renamed", shuffled)
        for store in (plain, messy):
            for cell, found in zip(plan.cells, records, strict=True):
                lead, name = 3.0 * (cell.row == "lora"), next(iter(SCORES[cell.task]))
                wave = [found.metrics[name] + (i % 2 - 0.5) * (10 + lead) for i in range(20)]
                score(store, cell, {name: wave})
        first = everything(plan, plain)
        assert first == everything(plan, plain)
        assert first == everything(plan, messy)


@given(st.integers(0, 15))
@settings(max_examples=16, deadline=None)
def test_dropping_one_record_marks_its_entries_and_no_other(index):
    plan = full_plan()
    gone = plan.cells[index]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        complete = scores(leaderboard(plan, fill(Path(one), map(record, plan.cells))))
        partial = scores(
            leaderboard(plan, fill(Path(two), [record(c) for c in plan.cells if c != gone]))
        )
    for before, after in zip(complete, partial, strict=True):
        if (before.method, before.backbone, before.task) == (gone.row, gone.backbone, gone.task):
            assert after == replace(before, mean=None, std=None, n=1, state=MISSING)
        else:
            assert after == before


# --- renderers ---


RIPPLE = {  # sums of zero: what images add to the mean of a method
    "full": [(-1) ** i * i / 10 for i in range(1, 41)],
    "lora_r8 & 50%": [(-1) ** i * (i % 5) for i in range(1, 41)],
    "prompt": [(-1) ** i * (i % 7) / 4 for i in range(1, 41)],
}
RIPPLE = {
    row: [round(value - statistics.fmean(values), 3) for value in values]
    for row, values in RIPPLE.items()
}
LEAD = {
    "full": 0.0,
    "lora_r8 & 50%": 3.0,
    "prompt": 1.0,
}  # how far the captions of a method are above those of the first


def example(root: Path) -> tuple[Plan, Store]:
    """Return a table with everything that tables can hold, in two small blocks."""
    rows = ("full", "lora_r8 & 50%", "prompt")
    cells = [
        planned(r, b, t, d, s, trainable=1000 * (i + 1))
        for b in ("blip", "vit_gpt2")
        for t, d in (("vqa", "shapes"), ("captioning", "coco"))
        for i, r in enumerate(rows)
        for s in (0, 1)
    ]
    cells = [
        replace(c, skipped="vit_gpt2 has no site 'self' with <q|k>")
        if (c.row, c.backbone) == ("prompt", "vit_gpt2")
        else c
        for c in cells
    ]
    found = {
        c.id: record(
            c, {name: value + c.seed + LEAD[c.row] for name, value in SCORES[c.task].items()}
        )
        for c in cells
        if not c.skipped
    }
    del found[cells[3].id]  # lora on blip, vqa, seed 1
    zero, absent = cells[0], cells[6]
    found[zero.id] = record(zero, {"vqa_accuracy": 0.0})
    found[absent.id] = record(absent, {"cider": 101.25, "bleu": {"absent": "no `java` on PATH"}})
    store = fill(root, found.values())
    for cell in cells:
        if cell.id in found and cell.task == "captioning":
            score(
                store,
                cell,
                {"cider": [value + found[cell.id].metrics["cider"] for value in RIPPLE[cell.row]]},
            )
    return make_plan(*cells, title="Methods_1 ± #2", notes="A note.\n\nAnother: 100%."), store


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["scores", "costs", "significance", "pivot"])
def test_golden(tmp_path, kind, format):  # noqa: A002
    plan, store = example(tmp_path)
    board = leaderboard(plan, store)
    tests = significance(board, store)
    made = {
        "scores": lambda: score_table(board, tests),
        "costs": lambda: cost_table(board),
        "significance": lambda: significance_table(board, tests),
        "pivot": lambda: pivot_table(board, ("method",), ("task", "scale")),
    }
    got = render(made[kind](), format)
    path = GOLDEN / f"{kind}.{format}"
    # run after an intended change of format, then read the diff
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(got, encoding="utf-8")
    assert got == path.read_text(encoding="utf-8")


def test_emphasis_is_named_as_the_format_shows_it(tmp_path):
    plan, store = example(tmp_path)
    board = leaderboard(plan, store)
    table = score_table(board, significance(board, store))
    shown = {
        "text": "\n*: above",
        "markdown": "\nBold: above",
        "latex": ". Bold: above",
        "html": "<p>Bold: above",
        "json": '"Bold: above',
    }
    for form, start in shown.items():
        text = render(table, form)
        assert (text.count(start), text.count("above every other method")) == (1, 1), form
    assert "Bold and *: above" in render(table, "text", colour=True)
    assert "above every other method" not in render(score_table(board), "text"), (
        "nothing was tested"
    )


def test_cider_is_named_where_the_table_has_it(tmp_path):
    plan, store = example(tmp_path)
    questions = replace(plan, cells=tuple(cell for cell in plan.cells if cell.task == "vqa"))
    for made in (score_table, lambda board: pivot_table(board, ("method",), ("task", "scale"))):
        assert "Percent; CIDEr x 100." in render(made(leaderboard(plan, store)), "text")
        text = render(made(leaderboard(questions, store)), "text")
        assert "Percent." in text
        assert "CIDEr" not in text


def test_piped_text_is_plain_whole_and_narrow(tmp_path, monkeypatch):
    for name, value in {"COLUMNS": "20", "FORCE_COLOR": "1", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    board = leaderboard(*example(tmp_path))
    text = render(score_table(board), "text")
    assert "\x1b" not in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert "\x1b" in render(score_table(board), "text", colour=True)


def test_a_papers_table_fits_120_columns(tmp_path):
    numbers = {"cider": 123.4, "bleu_4": 36.5, "rouge_l": 57.2, "meteor": 28.1, "spice": 21.9}
    cells = [
        (planned("routing_lora (r=8)", dataset="vqav2", seed=s), {"vqa_accuracy": 70.0 + s})
        for s in (0, 1)
    ]
    cells += [
        (
            planned("routing_lora (r=8)", task="captioning", dataset="coco_captions2014", seed=s),
            numbers,
        )
        for s in (0, 1)
    ]
    lines = render(score_table(leaderboard(*results(tmp_path, *cells))), "text").splitlines()
    assert max(map(len, lines)) <= 120
    assert [line.split() for line in lines[4:6]] == [
        ["vqa", "captioning"],
        ["vqav2", "coco_captions2014"],
    ]


def test_a_group_title_wider_than_its_columns_widens_them():
    grid = Block("", "ll", (("a long group title", "short"), ("a", "b")), ((Text("1"), Text("2")),))
    lines = render(Table("t", (), (grid,), ()), "text").splitlines()
    assert lines[2:4] == ["a long group title   short", "a                    b"]


def test_a_wide_table_is_never_cut():
    names = tuple(f"a_rather_long_metric_name_{i}" for i in range(60))
    table = Table("t", (), (Block("b", "l" * 60, (names,), (tuple(map(Text, names)),)),), ())
    assert all(render(table, "text").count(name) >= 2 for name in names)


def test_n_is_shown_only_if_it_differs(tmp_path):
    cells = [(planned(seed=s), {"vqa_accuracy": 70.0 + s}) for s in (0, 1)]
    same = render(score_table(leaderboard(*results(tmp_path / "same", *cells))), "text")
    assert "over n=2 seeds" in same
    assert "(n=" not in same
    other = render(
        score_table(
            leaderboard(
                *results(tmp_path / "other", *cells, (planned("bitfit"), {"vqa_accuracy": 60.0}))
            )
        ),
        "text",
    )
    assert "70.5 ± 0.7 (n=2)" in other
    assert "60.0 (n=1)" in other


def test_digits(tmp_path):
    board = leaderboard(*results(tmp_path, (planned(), {"vqa_accuracy": 70.126})))
    assert " 70.13" in render(score_table(board, digits=2), "text")


def test_parameters_are_a_range_where_heads_differ_and_unknown_without_a_count(tmp_path):
    cells = [
        planned(),
        planned(task="captioning", trainable=8),
        planned("new", trainable=0, total=0),
    ]
    text = render(score_table(leaderboard(make_plan(*cells), Store(tmp_path))), "text")
    assert re.search(r"^lora +8–1,000 +<0\.01–0\.50 ", text, re.MULTILINE)
    assert re.search(r"^new +\? +\? ", text, re.MULTILINE)


def test_latex_escapes_every_special():
    hostile = '[a] * % & _ # $ { } ~ ^ \\ ± – < > | " … --- `'
    table = Table(
        hostile,
        (),
        (Block(hostile, "l", ((hostile,),), ((Text(hostile, ("a",)),),)),),
        (),
        (("a", hostile),),
        (hostile,),
    )
    escaped = (
        r"{[}a{]} {*} \% \& \_ \# \$ \{ \} \textasciitilde{} \textasciicircum{} "
        r"\textbackslash{} $\pm$ \textendash{} "
        r"\textless{} \textgreater{} \textbar{} '' \ldots{} -{}-{}- \textasciigrave{}"
    )
    latex = render(table, "latex")
    assert latex.count(escaped) == 6
    assert f"{escaped}\\textsuperscript{{a}} \\\\\n\\bottomrule" in latex
    assert latex.isascii()


@given(st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_latex_stays_balanced(text):
    line = next(
        x
        for x in render(
            Table("", (), (Block("", "ll", (("", ""),), ((Text(text), Text("")),)),), ()), "latex"
        ).split("\\midrule\n")[1:]
    )
    row = line.split(" \\\\\n\\bottomrule")[0]
    bare = row.replace("\\\\", "").replace("\\{", "").replace("\\}", "").replace("\\&", "")
    assert bare.count("{") == bare.count("}")
    assert bare.count("&") == 1


def test_markdown_keeps_its_grid():
    table = Table(
        "t",
        (),
        (Block("", "ll", (("a", "b"),), ((Text("x|y*z*"), Text("snake_case <b> _it_ \\")),)),),
        (),
    )
    assert "| x\\|y\\*z\\* | snake_case \\<b\\> \\_it\\_ \\\\ |" in render(table, "markdown")


def test_csv_and_json_are_tidy(tmp_path):
    table = score_table(leaderboard(*example(tmp_path)))
    rows = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    values = json.loads(render(table, "json"))["rows"]
    assert len(rows) == len(values) == len(table.data)
    assert [rows[0][key] for key in ("mean", "n", "planned", "state", "flags")] == [
        "35.5",
        "2",
        "2",
        "done",
        "seed 0 is exactly 0.0",
    ]
    assert float(rows[0]["std"]) == values[0]["std"] == statistics.stdev((0.0, 71.0))
    assert {row["mean"] for row in rows if row["state"] != "done"} == {""}


def test_text_from_outside_cannot_break_the_grid(tmp_path):
    board = leaderboard(
        *results(
            tmp_path, (planned("a\nb\x1b[31m"), {"vqa_accuracy": {"absent": "first\n\tsecond\x07"}})
        )
    )
    text = render(score_table(board), "text")
    assert "a b [31m" in text
    assert "[a] first second" in text


def test_an_empty_plan_gives_empty_tables(tmp_path):
    board = leaderboard(make_plan(title=""), Store(tmp_path))
    assert render(score_table(board), "text").startswith("sweep\n")
    assert render(cost_table(board), "csv") == ""


def test_unknown_format_is_an_error_with_the_nearest():
    with pytest.raises(UserError, match="unknown format 'latx'; did you mean 'latex'"):
        render(Table("", (), (), ()), "latx")


def test_footnote_marks_go_on_after_z():
    notes = Footnotes()
    assert [notes.mark(str(i)) for i in (0, 25, 26, 0)] == ["a", "b", "c", "a"]
    marks = [notes.mark(f"x{i}") for i in range(60)]
    assert marks[22:25] == ["z", "aa", "ab"]
    assert len(set(marks)) == 60


# --- status ---


def leave(store: Store, cell: Planned, name: str, content: object) -> Path:
    path = store.folder(cell.id) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


PROGRESS = {"step": 30, "total": 100, "phase": "train", "updated": 1000.0, "pid": 4}
FAILURE = {"cause": "OutOfMemory", "message": "CUDA\nout of memory", "user": False}


def states(root: Path) -> tuple[Plan, Store]:
    cells = [planned(seed=s) for s in range(6)]
    cells[5] = replace(cells[5], skipped="no site")
    store = fill(root, [record(cells[0])])
    for index, name, content in (
        (0, "progress.json", PROGRESS),
        (1, "progress.json", PROGRESS),
        (2, "failure.json", FAILURE),
        (2, "progress.json", PROGRESS),
    ):
        leave(store, cells[index], name, content)
    store.folder(cells[3].id).mkdir()
    return make_plan(*cells), store


@pytest.fixture
def running(tmp_path):
    plan, store = states(tmp_path)
    with FileLock(store.folder(plan.cells[1].id) / "lock"):
        yield plan, store


def test_an_attempt_without_a_lock_is_missing_again(tmp_path):
    plan, store = states(tmp_path)
    found = status(plan, store, now=1012.4)[1]
    assert (found.state, found.detail) == ("missing", "interrupted in train 30/100; starts over")
    leave(store, plan.cells[1], "checkpoint.pt", "")
    assert (
        status(plan, store)[1].detail
        == "interrupted in train 30/100; continues from its checkpoint"
    )


def test_an_attempt_that_was_interrupted_has_not_failed(tmp_path):
    cell, store = planned(), Store(tmp_path)
    leave(store, cell, "failure.json", {**FAILURE, "cause": "interrupted"})
    plan = make_plan(cell)
    assert [(s.state, s.detail) for s in status(plan, store)] == [("missing", "")]
    leave(store, cell, "checkpoint.pt", "")
    assert [(s.state, s.detail) for s in status(plan, store)] == [
        ("missing", "continues from its checkpoint")
    ]
    assert set(leaderboard(plan, store).frame["state"]) == {"missing"}


def test_every_state_is_reported(running):
    found = status(*running, now=1012.4)
    assert [cell.state for cell in found] == [
        "done",
        "running",
        "failed",
        "missing",
        "missing",
        "skipped",
    ]
    assert [cell.detail for cell in found] == [
        "",
        "train 30/100, 12 s ago",
        "OutOfMemory: CUDA out of memory",
        "",
        "",
        "no site",
    ]
    counts = {state: number for state, number in summary(found).items() if number}
    assert counts == {"done": 1, "running": 1, "failed": 1, "missing": 2, "skipped": 1}


def test_status_renders_as_text_and_plain_values(running):
    found = status(*running, now=1012.4)
    text = render(status_table("sweep", found), "text")
    assert text.startswith(
        "sweep\n6 cells: 1 done, 1 running, 1 failed, 2 missing, 1 skipped\n\nstate"
    )
    assert "\x1b" not in text
    assert "train 30/100, 12 s ago" in text
    assert json.loads(json.dumps(as_dicts(found)))[1]["step"] == 30
    assert json.loads(render(status_table("sweep", found), "json"))["rows"][2]["state"] == "failed"


def test_a_plan_shows_the_same_states(running):
    plan, store = running
    assert [row["state"].partition(",")[0] for row in plan_rows(plan, store.root)] == [
        "done",
        "running: train 30/100",
        "failed: OutOfMemory: CUDA out of memory",
        "runnable",
        "runnable",
        "skipped: no site",
    ]
    assert [row["state"] for row in plan_rows(plan, None)] == ["runnable"] * 5 + [
        "skipped: no site"
    ]


def test_states_of_a_cluster_and_launchers_are_added(running):
    """They know the waiting cells. Others are missing, unless a launcher is at work."""
    plan, store = running
    cells = [cell.id for cell in plan.cells]
    found = status(plan, store)
    noted = add_cluster_notes(
        found, {cells[0]: ("missing", "no"), cells[3]: ("preempted", "queued again")}
    )
    assert [cell.state for cell in noted] == [
        "done",
        "running",
        "failed",
        "preempted",
        "missing",
        "skipped",
    ]
    assert noted[3].detail == "queued again"
    lost = add_cluster_notes(found, {cells[3]: ("missing", "its job has ended")}, launched=True)
    assert [cell.state for cell in lost] == [
        "done",
        "running",
        "failed",
        "pending",
        "pending",
        "skipped",
    ]
    stale = mark_stale(noted, "changed")
    assert [cell.state for cell in stale] == [
        "done",
        "running",
        "failed",
        "stale",
        "stale",
        "skipped",
    ]
    assert stale[3].detail == "changed; queued again"


LONG = "settings: the loss became nan at step 3; " + "lower `lr`, or clip the gradients; " * 12


@pytest.mark.parametrize("width", [60, 100, 140, 200, None])
def test_long_reasons_fit_the_screen(width):
    """One line a cell; of several cells with one reason only the first shows it."""
    found = [
        CellStatus(f"{i:04d}", f"m{i}", "vit", "vqa", "shapes", 0, "failed", reason=LONG)
        for i in range(3)
    ]
    lines = render(status_table("sweep", found, width=width), "text").splitlines()
    said = [line for line in lines if "the loss became nan" in line]
    assert len(said) == 1
    assert (lines[-1] if width == 60 else said[0]).endswith("…")
    assert max(map(len, lines)) <= (width or 200)
    if width != 60:
        assert [
            line.endswith("settings: as 0000") for line in lines if line.startswith("failed")
        ] == [False, True, True]
    else:  # below the table
        assert lines[-2].startswith("0000 and 2 more: settings: the loss became nan")
        assert "detail" not in "".join(lines)
    assert as_dicts(found)[1]["reason"] == LONG
    short = [replace(cell, reason="no site") for cell in found]
    assert render(status_table("sweep", short, width=140), "text").count("no site") == 3


def test_thousands_of_cells_are_summarised(running, monkeypatch):
    found = status(*running, now=1012.4)
    assert select_shown(found) == found
    monkeypatch.setattr(statuses, "ROWS", 5)
    assert [cell.state for cell in select_shown(found)] == ["running", "failed"]
    text = render(status_table("sweep", found, select_shown(found)), "text")
    assert "2 missing, 1 skipped; 2 of them below, all with --json" in text


def test_cells_of_former_settings(running):
    """Cells that are in the folder but not in its plan are stale, unless they are done."""
    plan, store = running
    other, done = planned(seed=77), planned(seed=78)
    leave(store, other, "cell.json", dump(other.cell))
    fill(store.root, [record(done)])
    (found,) = find_unplanned(plan, store)
    assert (found.id, found.state, found.seed) == (other.id, "stale", 77)
    assert (found.method, found.task) == (other.cell.method.name, other.cell.task)
    elsewhere = store.root / "sweeps" / "another.json"
    elsewhere.parent.mkdir(exist_ok=True)
    elsewhere.write_bytes(to_json(dump(make_plan(other))))
    assert find_unplanned(plan, store) == []
    elsewhere.rename(elsewhere.parent / "elsewhere.json")
    (elsewhere.parent / "a_paper").mkdir()
    (elsewhere.parent / "elsewhere.json").rename(elsewhere.parent / "a_paper" / "table1.json")
    assert find_unplanned(plan, store) == []  # neither are cells of a shipped sweep in a folder


@pytest.mark.parametrize("name", ["sweeps/other.json", "cells/feed/cell.json"])
@pytest.mark.parametrize("content", ["", "{", "[1]", '{"cells": 3}', "\xff"])
def test_damage_next_to_a_sweep_is_named(running, name, content):
    plan, store = running
    path = store.root / name
    for each in (path, store.root / "cells" / "feed" / "cell.json"):
        each.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=str(path)):
        find_unplanned(plan, store)


def test_a_clock_in_the_future_gives_no_negative_age(running):
    assert status(*running, now=0.0)[1].seconds == 0.0


@pytest.mark.parametrize("content", ["{", {**PROGRESS, "step": "3"}, {**PROGRESS, "more": 1}])
def test_a_damaged_status_file_is_named(tmp_path, content):
    cell, store = planned(), Store(tmp_path)
    path = leave(store, cell, "progress.json", content)
    with pytest.raises(UserError, match=str(path)):
        status(make_plan(cell), store)


def test_status_of_nothing(tmp_path):
    assert "no cells" in render(status_table("s", status(make_plan(), Store(tmp_path))), "text")
