"""Evidence: one file that gives the same tables as its result folder.

It is never overwritten, and a damaged file is refused.
"""

import json
import re
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import pytest

from tests.synthetic import fill, make_plan, planned, record, score
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import to_json, write_atomically
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.plan_files import plan_file
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results import evidence
from vlpeft.results.evidence import (
    MEASURED,
    find_shipped_evidence,
    keep,
    open_results,
    read_evidence,
)
from vlpeft.results.leaderboard import leaderboard
from vlpeft.results.statistics.comparisons import significance_table
from vlpeft.results.statistics.significance import significance
from vlpeft.results.tables.render import render
from vlpeft.results.tables.table import cost_table, score_table

ABOUT = {
    "system": "Linux-6.1-x86_64-with-glibc2.36",
    "device": "AMD EPYC",
    "finished": "2026-11-21T10:00:00+00:00",
    "host": "mine",
}
ROUTING = ("add", "mul", "mul_expand", "project")
REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
RESULTS = REPOSITORY / "docs" / "results.md"


def open_shipped():
    file = find_shipped_evidence(SweepHandle("quickstart"))
    return open_results(SweepHandle("quickstart", root=file))


def launched(root: Path, **about):
    """Make a launched quickstart of three cells, one of which is skipped."""
    cells = [planned(), planned("bitfit"), planned("prompt", skipped="no embeddings")]
    plan = replace(
        make_plan(*cells), sweep="quickstart", source=SweepHandle("quickstart").fingerprint()
    )
    made = ABOUT | about | {"packages": {"torch": "2.15.0+cpu"}}
    records = [
        record(cell, {"accuracy": value})
        for cell, value in zip(cells[:2], (50.0, 70.0), strict=True)
    ]
    store = fill(
        root,
        [
            replace(r, provenance={**r.provenance, **made}, curve=[(1, 0.5)], files={"x": "y"})
            for r in records
        ],
    )
    for cell, sums in zip(cells[:2], ([25.0, 75.0], [60.0, 80.0]), strict=True):
        score(store, cell, {"accuracy": sums})
    from vlpeft.benchmark.core.config import dump

    path = plan_file(root, "quickstart")
    path.parent.mkdir()
    path.write_bytes(to_json(dump(plan)))
    return plan, store


def tables(plan, store) -> list[str]:
    board = leaderboard(replace(plan, notes=""), store)
    tests = significance(board, store)
    made = score_table(board, tests), cost_table(board), significance_table(board, tests)
    return [render(table, form) for table in made for form in ("text", "json")]


@pytest.fixture
def kept(tmp_path):
    launched(tmp_path / "root")
    return keep(SweepHandle("quickstart", root=tmp_path / "root"), tmp_path / "measured")


def test_a_file_gives_the_tables_of_its_folder(tmp_path, kept):
    assert kept.name == "quickstart--linux-x86_64-amd-epyc-torch2.15.0.jsonl"
    plan, store = open_results(SweepHandle("quickstart", root=kept))
    assert tables(plan, store) == tables(
        *open_results(SweepHandle("quickstart", root=tmp_path / "root"))
    )
    assert plan.notes == f"From {kept.name}: 2026-11-21, AMD EPYC, torch 2.15.0+cpu."
    assert [r.id for r in store.records()] == sorted(cell.id for cell in plan.runnable())
    text = kept.read_text()
    assert "mine" not in text
    assert "curve" not in text


def test_a_name_may_hold_any_kind_of_line_separator(tmp_path):
    launched(tmp_path / "root")
    path = plan_file(tmp_path / "root", "quickstart")
    path.write_text(path.read_text().replace('"row": "lora"', '"row": "lo\u2028ra\u0085"'))
    kept = keep(SweepHandle("quickstart", root=tmp_path / "root"), tmp_path / "measured")
    plan, _ = open_results(SweepHandle("quickstart", root=kept))
    assert plan.cells[0].row == "lo\u2028ra\u0085"


def test_evidence_is_never_overwritten(tmp_path, kept):
    before = kept.read_bytes()
    with pytest.raises(UserError, match="evidence is never overwritten"):
        keep(SweepHandle("quickstart", root=tmp_path / "root"), tmp_path / "measured")
    assert kept.read_bytes() == before


def test_no_folder_of_this_machine_is_kept(tmp_path):
    """Neither of the data, nor in a reason, nor of the sweep's file."""
    launched(tmp_path / "root")
    path = plan_file(tmp_path / "root", "quickstart")
    values = json.loads(path.read_text())
    values["file"] = "../home/mine/s.yaml"
    values["cells"][2]["skipped"] = "data: cannot read /home/mine/data/a.json; see https://a.b/c"
    path.write_text(json.dumps(values))
    records = sorted((tmp_path / "root").glob("cells/*/record.json"))
    made = json.loads(records[0].read_text())
    made["metrics"]["spice"] = {"absent": "/home/mine/bin/java: not found"}
    records[0].write_text(json.dumps(made))
    kept = keep(SweepHandle("quickstart", root=tmp_path / "root"), tmp_path / "measured")
    text = kept.read_text()
    assert "mine" not in text
    assert "/nowhere" not in text
    assert "cannot read a.json; see https://a.b/c" in text
    plan, store = open_results(SweepHandle("quickstart", root=kept))
    assert [cell.cell.id for cell in plan.cells] == [cell.id for cell in plan.cells]
    assert len(list(store.records())) == 2


def test_one_file_holds_one_environment(tmp_path):
    _, store = launched(tmp_path)
    second = list(store.records())[1]
    other = replace(second, provenance={**second.provenance, "device": "NVIDIA H200"})
    (store.folder(second.id) / "record.json").unlink()
    store.publish(other)
    with pytest.raises(UserError, match=rf"nvidia-h200-torch2\.15\.0: {second.id}"):
        keep(SweepHandle("quickstart", root=tmp_path), tmp_path / "measured")


def test_records_without_an_environment(tmp_path):
    """They are not kept, but a file that already holds some is read."""
    _, store = launched(tmp_path)
    path = keep(SweepHandle("quickstart", root=tmp_path), tmp_path / "measured")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line.get("record"):
            line["record"]["provenance"] = {}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (
        read_evidence(path).plan.notes
        == f"From {path.name}: undated, unknown device, torch unknown."
    )
    first = next(store.records())
    (store.folder(first.id) / "record.json").unlink()
    store.publish(replace(first, provenance={}))
    with pytest.raises(UserError, match=f"cell {first.id}: its record does not contain its system"):
        keep(SweepHandle("quickstart", root=tmp_path), tmp_path / "elsewhere")


def test_without_results_nothing_is_kept(tmp_path):
    _, store = launched(tmp_path)
    for one in store.records():
        (store.folder(one.id) / "record.json").unlink()
    with pytest.raises(UserError, match="nothing to keep"):
        keep(SweepHandle("quickstart", root=tmp_path), tmp_path)


def test_a_cell_that_is_there_twice_is_kept_once(tmp_path):
    """A scale may make two entries the same cell; the second is skipped, with the same id."""
    plan, store = launched(tmp_path)
    again = replace(plan.cells[0], row="again", skipped="at this scale it is the cell of lora")
    plan = replace(plan, cells=(*plan.cells, again))
    write_atomically(plan_file(tmp_path, plan.sweep), to_json(dump(plan)))
    kept = keep(SweepHandle("quickstart", root=tmp_path), tmp_path / "kept")
    found = read_evidence(kept)
    assert [cell.row for cell in found.plan.cells] == [cell.row for cell in plan.cells]
    assert len(list(found.records())) == len(list(store.records()))


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ("Linux-6.1-x86_64-with-glibc2.36", "linux-x86_64"),
        ("macOS-14.5-arm64-arm-64bit", "macos-arm64"),
        ("Windows-11", "windows-"),
    ],
)
def test_the_machine_is_in_the_name(tmp_path, system, words):
    launched(tmp_path, system=system)
    assert words in keep(SweepHandle("quickstart", root=tmp_path), tmp_path / "kept").name


def test_marks_and_blank_lines_of_editors_are_skipped(kept):
    before = read_evidence(kept)
    kept.write_bytes(b"\xef\xbb\xbf" + kept.read_bytes() + b"\r\n\n")
    assert read_evidence(kept) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-40], "line 5: not readable"),
        (lambda text: text + text.splitlines()[2] + "\n", "line 6: a second record of cell"),
        (lambda text: text.replace('"evidence":1', '"evidence":2'), "line 1: evidence schema 2"),
        (lambda text: text.replace('"schema":1', '"schema":7', 1), "line 3: record schema 7"),
        (lambda text: text.replace('"set":0', '"set":4', 1), "line 3: refers to images of set 4"),
        (lambda text: text.replace("[1,1]", "[1]"), "lists of unequal length"),
        (lambda text: text.replace('"seed":0', '"sead":0', 1), "line 3: .*sead"),
        (lambda text: "".join(text.splitlines(keepends=True)[:-1]), "2 of 3 cells are here"),
        (lambda _: "[]\n", "line 1: expected a mapping, found list"),
        (lambda _: '{"evidence":1,"plan":3}\n', "line 1: no plan"),
        (lambda _: "", "empty"),
    ],
)
def test_damage_is_named_with_its_line(kept, damage, message):
    kept.write_text(damage(kept.read_text()))
    with pytest.raises(UserError, match=message) as error:
        read_evidence(kept)
    assert str(kept) in str(error.value)


def test_another_sweeps_file_is_refused(kept):
    with pytest.raises(UserError, match="holds the sweep 'quickstart', not 'full_size'"):
        open_results(SweepHandle("full_size", root=kept))


def test_shipped_evidence_is_found_by_its_sweep(tmp_path, kept, monkeypatch):
    monkeypatch.setattr(evidence, "MEASURED", kept.parent)
    assert find_shipped_evidence(SweepHandle("quickstart")) == kept
    with pytest.raises(
        UserError,
        match=r"no evidence of 'p_adapter/table1@tiny' is shipped, only of: quickstart",
    ):
        find_shipped_evidence(SweepHandle("p_adapter/table1", "tiny"))
    later = kept.parent / "quickstart--a.jsonl"
    later.write_text(kept.read_text().replace('"finished":"2026', '"finished":"2027'))
    assert find_shipped_evidence(SweepHandle("quickstart")) == later


@pytest.mark.parametrize("path", sorted(MEASURED.rglob("*.jsonl")), ids=lambda path: path.stem)
def test_shipped_evidence_matches_the_current_sweep(path):
    kept = read_evidence(path)
    assert not kept.plan.sweep.partition("@")[2], "of a scale: compare it with that scale's cells"
    assert {cell.id for cell in kept.plan.cells} == {
        cell.id for cell in expand(SweepHandle(kept.plan.sweep))
    }


HEADLINE = {"vqa": ("vqa_accuracy", "VQA"), "captioning": ("CIDEr (treebank)", "CIDEr")}


@pytest.fixture(scope="module")
def means():
    """Return the mean over seeds of each method's headline metric.

    The keys are (backbone, dataset, metric as the pages name it), then the method.
    """
    plan, store = open_shipped()
    frame = leaderboard(plan, store).frame
    found = {}
    for task, (metric, name) in HEADLINE.items():
        part = frame[(frame.task == task) & (frame.metric == metric) & (frame.state == "done")]
        for (backbone, dataset, method), value in (
            part.groupby(["backbone", "dataset", "method"]).value.mean().items()
        ):
            found.setdefault((backbone, dataset, name), {})[method] = value
    return found


def test_the_printed_margins_over_blindness(means):
    lines = RESULTS.read_text().splitlines()
    assert len(means) == 7
    for (backbone, dataset, name), values in means.items():
        blind, (worst, lowest) = (
            values["lora, blind"],
            min(((m, v) for m, v in values.items() if "blind" not in m), key=itemgetter(1)),
        )
        metric = "VQA accuracy" if name == "VQA" else name
        assert (
            f"| {backbone} | {dataset} | {metric} | {blind:.1f} | {lowest:.1f} ({worst}) "
            f"| {lowest - blind:+.1f} |" in lines
        )


def test_the_printed_differences_to_plain_methods(means):
    table = re.search(
        r"^\| \| vit_roberta: easy_vqa VQA \|.*?\n\n", RESULTS.read_text(), re.MULTILINE | re.DOTALL
    )
    assert table is not None
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table[0].strip().splitlines()
    ]
    columns = [means[tuple(re.split(": | ", title))] for title in head[1:]]
    named = {
        "p_adapter − adapter": ("p_adapter", "adapter"),
        "p_adapter, paper − adapter": ("p_adapter, paper", "adapter"),
    }
    named |= {
        f"{plain} + {how}": (f"routing_{plain} {how}", plain)
        for plain in ("lora", "adapter")
        for how in ROUTING
    }
    assert {row[0] for row in rows} == named.keys()
    for title, *cells in rows:
        ours, plain = named[title]
        assert cells == [
            f"{each[ours] - each[plain]:+.1f}" if ours in each else "" for each in columns
        ]


def test_the_printed_tables_come_from_the_repository_alone():
    plan, store = open_shipped()
    board = leaderboard(plan, store)
    made = render(score_table(board, significance(board, store)), "markdown")
    found = re.search(
        r"^### Quickstart: .*?^From \S+.*?\n", RESULTS.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    assert found[0] == made
    assert json.loads(render(cost_table(board), "json"))["rows"]


def test_the_rows_of_the_readme_equal_the_evidence():
    plan, store = open_shipped()
    frame = leaderboard(plan, store).frame
    found = re.search(
        r"^\| method \| trainable, (\w+) \|.*?\n\n", README.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in found[0].strip().splitlines()
    ]
    assert 0 < len(rows) <= 8
    for method, share, *cells in rows:
        part = frame[
            (frame.method == method) & (frame.backbone == found[1]) & (frame.state == "done")
        ]
        assert {f"{value:.2f} %" for value in part.trainable_percent} == {share}
        assert cells == [
            _mean_and_deviation(frame[frame.method == method], title) for title in head[2:]
        ]


def _mean_and_deviation(frame, title: str) -> str:
    """Return a method's headline metric in a column `task/dataset, backbone`."""
    task, dataset, backbone = re.split("/|, ", title)
    metric = HEADLINE[task][0]
    values = frame[
        (frame.task == task)
        & (frame.dataset == dataset)
        & (frame.backbone == backbone)
        & (frame.metric == metric)
    ].value
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
