"""Cells of different environments: what is recorded and refused; every table reports it."""

import ast
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.synthetic import fill, make_plan, planned, record
from vlpeft.benchmark.cells.provenance import PACKAGES
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import to_json
from vlpeft.benchmark.plan.plan_files import plan_file
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results.environments import LISTED, NAMED, label, remarks
from vlpeft.results.evidence import keep, read_evidence
from vlpeft.results.leaderboard import leaderboard
from vlpeft.results.report.page import write_report
from vlpeft.results.statistics.comparisons import significance_table
from vlpeft.results.statistics.significance import significance
from vlpeft.results.tables.pivot import pivot_table
from vlpeft.results.tables.render import FORMATS, render
from vlpeft.results.tables.table import cost_table, score_table

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = {"torch": "2.15.0", "transformers": "5.23.0", "numpy": "2.4.6"}
RENAMED = LIBRARIES | {"transformers": "5.24.0"}
CELLS = [planned(), planned("bitfit"), planned("prompt")]
NUMBERS = {  # distribution of each import that can change a number, if the names differ
    "PIL": "pillow",
    "open_clip": "open_clip_torch",
}
NO_NUMBERS = {
    *(
        "concurrent",
        "datasets",
        "filelock",
        "huggingface_hub",
        "integer",
        "jinja2",
        "markupsafe",
        "optuna",
        "pandas",
        "peft",
    ),
    *("psutil", "pydantic", "requests", "rich", "ruamel", "shtab", "submitit", "scipy"),
}
OURS = {"vlpeft"}


def made(*packages, verified=(), **about):
    """Write cells with records; `packages` and `verified` hold those of each environment."""
    pairs = []
    for i, (cell, found) in enumerate(zip(CELLS, packages, strict=False)):
        more = {"verified": verified[i]} if i < len(verified) and verified[i] is not None else {}
        one = record(cell)
        values = {key: each[i] for key, each in about.items()}
        pairs.append(
            (cell, replace(one, provenance={**one.provenance, "packages": found, **more, **values}))
        )
    return pairs


# --- what is recorded ---


def imports(folder):
    """Return the top-level names that the modules of a folder import."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (name.name.partition(".")[0] for name in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.partition(".")[0]


def test_every_library_that_a_cell_may_use_is_recorded_or_known_to_change_no_number():
    names = {name for folder in ("benchmark", "baselines", "methods") for name in imports(folder)}
    others = names - set(sys.stdlib_module_names) - OURS - NO_NUMBERS
    assert others
    assert {NUMBERS.get(name, name) for name in others} <= set(PACKAGES)


# --- what is reported ---


def test_one_environment_needs_no_note():
    assert remarks(made(LIBRARIES, LIBRARIES, LIBRARIES)) == ()
    assert remarks([]) == ()


def test_fields_missing_in_older_records_are_not_a_difference():
    older = {name: LIBRARIES[name] for name in ("torch", "transformers")}
    assert remarks(made(older, LIBRARIES, {})) == ()
    assert remarks([(cell, record(cell)) for cell in CELLS]) == ()


def test_libraries_that_change_no_number_are_not_compared():
    assert remarks(made({"vlpeft": "0.1.0", "rich": "14"}, {"vlpeft": "0.2.0", "rich": "15"})) == ()


def test_verified_environments_that_differ_are_noted_with_the_cells_of_the_smaller_group():
    (note,) = remarks(made(LIBRARIES, RENAMED, RENAMED, verified=(True, True, True)))
    assert note == (
        "Cells from different environments: transformers 5.24.0 in 2 cells; "
        f"transformers 5.23.0 in 1 cell (lora on blip, vqa/shapes, seed 0 ({CELLS[0].id}))."
    )


@pytest.mark.parametrize("verified", [(True, None, True), (True, False, True), (None, None, None)])
def test_unverified_environments_that_differ_need_a_flag(verified):
    cells = made(LIBRARIES, RENAMED, RENAMED, verified=verified)
    words = (
        r"transformers 5\.24\.0 in 2 cells; transformers 5\.23\.0 in 1 "
        rf"cell \(.*{CELLS[0].id}.*not verified"
    )
    with pytest.raises(UserError, match=words) as error:
        remarks(cells)
    assert all(
        fix in str(error.value)
        for fix in ("in one environment", "delete record.json", "--mixed-environments")
    )
    assert "numpy" not in str(error.value)
    note, *_ = remarks(cells, mixed=True)
    assert note.startswith("Cells from different environments: transformers 5.24.0 in 2 cells; ")
    assert note.endswith(
        f"Of these, {3 if verified[0] is None else 1} "
        f"cell{'s' if verified[0] is None else ''} not verified."
    )


def test_a_cell_without_a_version_is_not_compared():
    cells = made(LIBRARIES, RENAMED, {"torch": "2.15.0"}, verified=(True, True, None))
    (note,) = remarks(cells)
    assert CELLS[2].id not in note


@pytest.mark.parametrize("verified", [(), (True, True), (False, False)])
def test_device_build_and_python_are_noted_and_never_refused(verified):
    build = LIBRARIES | {"torch": "2.15.0+cu126"}
    about = {"device": ("AMD EPYC", "NVIDIA H100"), "python": ("3.11.9", "3.12.1")}
    device, torch, python, *_ = remarks(made(LIBRARIES, build, verified=verified, **about))
    assert device == "More than one device: AMD EPYC (1 cell); NVIDIA H100 (1 cell)."
    assert torch == "More than one torch build: 2.15.0 (1 cell); 2.15.0+cu126 (1 cell)."
    assert python == "More than one Python: 3.11 (1 cell); 3.12 (1 cell)."
    assert remarks(made(LIBRARIES, LIBRARIES, python=("3.11.9", "3.11.10"))) == ()


def test_a_long_list_is_cut():
    cells = [planned(seed=seed) for seed in range(2 * LISTED + 10)]
    half = len(cells) // 2
    pairs = [(cell, record(cell)) for cell in cells]
    pairs = [
        (c, replace(r, provenance={"packages": RENAMED if i < half else LIBRARIES}))
        for i, (c, r) in enumerate(pairs)
    ]
    with pytest.raises(UserError, match=f"and {half - LISTED} more") as error:
        remarks(pairs)
    assert str(error.value).count("seed ") == LISTED
    note, *_ = remarks(pairs, mixed=True)
    assert note.count("seed ") == NAMED
    assert f"and {half - NAMED} more" in note


def test_a_cell_that_a_plan_holds_twice_is_counted_once():
    cells = made(LIBRARIES, RENAMED, verified=(True, True))
    assert remarks([*cells, *cells]) == remarks(cells)


def test_cells_run_unverified_are_always_reported():
    (note,) = remarks(made(LIBRARIES, LIBRARIES, LIBRARIES, verified=(True, False, None)))
    assert note == f"1 cell was run with --unverified: {label(CELLS[1])}."
    (note,) = remarks(made(LIBRARIES, LIBRARIES, LIBRARIES, verified=(False, False, True)))
    assert note == f"2 cells were run with --unverified: {label(CELLS[0])}; {label(CELLS[1])}."


# --- where it is reported ---

ABOUT = {"system": "Linux-6.1-x86_64-with-glibc2.36", "device": "AMD EPYC"}


def launched(root, *packages, verified=(), about=ABOUT):
    """Make a launched quickstart of such cells."""
    pairs = made(*packages, verified=verified)
    store = fill(root, [replace(r, provenance={**r.provenance, **about}) for _, r in pairs])
    plan = replace(
        make_plan(*(cell for cell, _ in pairs)),
        sweep="quickstart",
        source=SweepHandle("quickstart").fingerprint(),
    )
    plan_file(root, "quickstart").parent.mkdir()
    plan_file(root, "quickstart").write_bytes(to_json(dump(plan)))
    return plan, store


def test_every_table_in_every_format_reports_it(tmp_path):
    plan, store = launched(tmp_path, LIBRARIES, RENAMED, RENAMED, verified=(False, None, True))
    board = leaderboard(plan, store, mixed=True)
    tests = significance(board, store)
    for table in (
        score_table(board, tests),
        cost_table(board),
        significance_table(board, tests),
        pivot_table(board, ("method",), ("task",)),
    ):
        for form in set(FORMATS) - {"csv"}:
            text = render(table, form)
            assert "from different environments: transformers 5.24.0 in 2 cells" in text, form
            assert "1 cell was run with" in text, form
    assert board.frame.groupby("id")["verified"].first().to_dict() == dict(
        zip((cell.id for cell in CELLS), ("no", "not recorded", "yes"), strict=True)
    )
    assert set(board.frame["environment"]) == {
        "torch 2.15.0, transformers 5.23.0, numpy 2.4.6",
        "torch 2.15.0, transformers 5.24.0, numpy 2.4.6",
    }


def test_the_page_reports_it(tmp_path):
    results = launched(tmp_path / "root", LIBRARIES, RENAMED)
    with pytest.raises(UserError, match="--mixed-environments"):
        write_report([results], tmp_path / "out", 0)
    (path,) = write_report([results], tmp_path / "out", 0, mixed=True)
    assert (
        path.read_text(encoding="utf-8").count(
            '<p class="caption">Cells from different environments: '
        )
        >= 2
    )


KINDS = [
    (),
    ("--costs",),
    ("--details",),
    ("--significance",),
    ("--rows", "method"),
    ("--tidy",),
    ("--format", "csv"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_tables_ask_for_the_flag(vlpeft, tmp_path, kind):
    launched(tmp_path, LIBRARIES, RENAMED, RENAMED)
    words = ("table", "quickstart", "--root", tmp_path, *kind)
    code, printed, messages = vlpeft(*words)
    assert (code, printed, messages.count("\n")) == (2, "", 1)
    assert (
        f"transformers 5.23.0 in 1 cell (lora on blip, vqa/shapes, seed 0 ({CELLS[0].id}))"
        in messages
    )
    code, printed, messages = vlpeft(*words, "--mixed-environments")
    assert code == 0
    where = messages if kind in (("--tidy",), ("--format", "csv")) else printed
    assert where.count("Cells from different environments") == 1
    assert "Cells from different environments" not in (printed if where is messages else messages)


def test_report_and_keep_ask_for_the_flag(vlpeft, tmp_path):
    launched(tmp_path / "root", LIBRARIES, RENAMED)
    for words in (
        ("report", "quickstart", "--root", tmp_path / "root", "-o", tmp_path / "page"),
        ("keep", "quickstart", "--root", tmp_path / "root", "--out", tmp_path / "kept"),
    ):
        code, _, messages = vlpeft(*words)
        assert (code, "--mixed-environments" in messages) == (2, True)
        assert vlpeft(*words, "--mixed-environments")[0] == 0
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.name == "quickstart--linux-x86_64-amd-epyc-torch2.15.0.jsonl"
    assert vlpeft("table", "quickstart", "--root", kept)[0] == 2
    assert (
        "Cells from different environments"
        in vlpeft("table", "quickstart", "--root", kept, "--mixed-environments")[1]
    )


def test_evidence_reports_it_in_its_first_line(tmp_path):
    launched(tmp_path / "root", LIBRARIES, RENAMED, RENAMED, verified=(True, True, False))
    with pytest.raises(UserError, match="--mixed-environments"):
        keep(SweepHandle("quickstart", root=tmp_path / "root"), tmp_path)
    path = keep(SweepHandle("quickstart", root=tmp_path / "root"), tmp_path, mixed=True)
    head = json.loads(path.read_text().splitlines()[0])
    assert [line.split(":")[0] for line in head["remarks"]] == [
        "Cells from different environments",
        "1 cell was run with --unverified",
    ]
    found = read_evidence(path)
    assert leaderboard(found.plan, found, mixed=True).remarks == tuple(head["remarks"])


def test_evidence_of_verified_cells_needs_no_flag(tmp_path):
    newer = LIBRARIES | {"torch": "2.16.0"}
    launched(tmp_path / "root", LIBRARIES, newer, verified=(True, True))
    path = keep(SweepHandle("quickstart", root=tmp_path / "root"), tmp_path)
    assert path.name == "quickstart--linux-x86_64-amd-epyc-mixed.jsonl"


def test_evidence_of_several_machines_needs_the_flag(tmp_path):
    _, store = launched(tmp_path / "root", LIBRARIES, LIBRARIES)
    second = store.record(CELLS[1].id)
    (store.folder(second.id) / "record.json").unlink()
    store.publish(replace(second, provenance={**second.provenance, "device": "NVIDIA H200"}))
    with pytest.raises(UserError, match=rf"nvidia-h200-torch2\.15\.0: {second.id}"):
        keep(SweepHandle("quickstart", root=tmp_path / "root"), tmp_path)
    path = keep(SweepHandle("quickstart", root=tmp_path / "root"), tmp_path, mixed=True)
    assert path.name == "quickstart--linux-x86_64-mixed-torch2.15.0.jsonl"


def test_a_file_of_one_environment_has_no_note(tmp_path):
    launched(tmp_path / "root", LIBRARIES, LIBRARIES)
    assert "remarks" not in json.loads(
        keep(SweepHandle("quickstart", root=tmp_path / "root"), tmp_path)
        .read_text()
        .splitlines()[0]
    )


# --- what differs between two sets of results ---


def test_diff_names_versions_first(vlpeft, tmp_path):
    for name, packages in (("a", LIBRARIES), ("b", RENAMED | {"tokenizers": "0.23.3"})):
        pairs = made(packages, packages, python=("3.11.9", "3.11.9"))
        changed = [
            replace(r, metrics={"vqa_accuracy": 1.0 if name == "a" else 2.0}, cell=dump(c.cell))
            for c, r in pairs
        ]
        fill(tmp_path / name, changed)
    code, printed, _ = vlpeft("diff", tmp_path / "a", tmp_path / "b")
    assert code == 1
    order = [
        "Versions differ: transformers.",
        "cells in both",
        "\nversions\n",
        "\nmetrics\n",
        "\nprovenance\n",
    ]
    places = [printed.index(words) for words in order]
    assert places == sorted(places)
    assert printed.count("5.23.0") == printed.count("5.24.0") == 1
    assert "packages.tokenizers" in printed[places[-1] :], (
        "one side does not say it: no version that differs"
    )
    found = json.loads(vlpeft("diff", tmp_path / "a", tmp_path / "b", "--json")[1])
    assert next(iter(found)) == "versions"
    assert found["versions"] == [
        {"key": "packages.transformers", "a": "5.23.0", "b": "5.24.0", "cells": 2}
    ]
    assert {each["key"] for each in found["provenance"]} == {
        "packages.transformers",
        "packages.tokenizers",
    }


def test_diff_of_equal_libraries_names_none(vlpeft, tmp_path):
    fill(tmp_path / "a", [r for _, r in made(LIBRARIES)])
    printed = vlpeft("diff", tmp_path / "a", tmp_path / "a")[1]
    assert "Versions differ" not in printed
    assert "\nversions\n" not in printed


def test_a_store_without_environments_still_gives_tables(tmp_path):
    store = fill(tmp_path, map(record, CELLS))
    assert isinstance(store, Store)
    assert leaderboard(make_plan(*CELLS), store).remarks == ()
    assert set(leaderboard(make_plan(*CELLS), store).frame["environment"]) == {"not recorded"}
