"""`vlpeft table`, `diff` and `keep` as a user types them, on shipped or made-up results."""

import io
import json

import pandas as pd
import pytest

from tests.synthetic import fill, planned, record
from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results.evidence import find_shipped_evidence
from vlpeft.results.leaderboard import SCHEMA


def test_tidy_rows_are_the_same_in_every_form(vlpeft, tmp_path):
    code, printed, _ = vlpeft("table", "quickstart", "--measured", "--tidy")
    file = tmp_path / "rows.parquet"
    assert (
        code,
        vlpeft("table", "quickstart", "--measured", "--tidy", "--format", "parquet", "-o", file)[0],
    ) == (0, 0)
    frame = pd.read_parquet(file)
    assert list(frame.columns)[: len(SCHEMA)] == list(SCHEMA)
    sides = {name.partition(".")[0] for name in list(frame.columns)[len(SCHEMA) :]}
    assert sides == {"method", "backbone", "protocol"}
    kept = ["method", "id", "metric", "value", "state"]
    pd.testing.assert_frame_equal(
        pd.read_csv(io.StringIO(printed))[kept], frame[kept], check_dtype=False
    )
    again = tmp_path / "again.parquet"
    vlpeft(
        "table",
        "quickstart",
        "--root",
        find_shipped_evidence(SweepHandle("quickstart")),
        "--tidy",
        "--format",
        "parquet",
        "-o",
        again,
    )
    assert again.read_bytes() == file.read_bytes()


def test_significance_of_shipped_results(vlpeft):
    _, printed, _ = vlpeft("table", "quickstart", "--measured", "--significance", "--json")
    rows = json.loads(printed)["rows"]
    best = [row for row in rows if row["difference"] is None]
    assert (
        len(best) == len({(row["backbone"], row["dataset"], row["metric"]) for row in rows}) == 10
    )
    assert all(row["p_holm"] >= row["p"] > 0 for row in rows if row["difference"] is not None)
    bold = [
        row
        for row in json.loads(vlpeft("table", "quickstart", "--measured", "--json")[1])["rows"]
        if row["bold"]
    ]
    assert bold
    assert all(row["rank"] == 1 for row in bold)


def test_a_pivot(vlpeft):
    code, printed, _ = vlpeft(
        "table",
        "quickstart",
        "--measured",
        "--rows",
        "backbone",
        "--columns",
        "method",
        "--format",
        "csv",
    )
    assert code == 0
    assert printed.startswith("backbone,method,metric,mean,std,n,over,state,flags\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tidy", "--format", "parquet"), "a binary format; name a file with -o"),
        (("--tidy", "--format", "latex"), "choose csv, json, parquet"),
        (("--format", "parquet"), "only with --tidy"),
        (("--rows", "task", "--costs"), "leave out --costs"),
        (("--rows", "tusk"), "unknown side 'tusk'; did you mean 'task'"),
        (("-o", "no/such/folder/file"), "name a file in a folder that you may write to"),
    ],
)
def test_typos_are_reported_in_one_line(vlpeft, words, message):
    code, _, messages = vlpeft("table", "quickstart", "--measured", *words)
    assert (code, messages.count("\n")) == (2, 1)
    assert message in messages


def test_diff_ends_like_diff(vlpeft, tmp_path):
    cells = [planned(), planned("bitfit")]
    for root, count in (("a", 2), ("b", 2), ("c", 1)):
        fill(tmp_path / root, [record(cell) for cell in cells[:count]])
    assert vlpeft("diff", tmp_path / "a", tmp_path / "b")[0] == 0
    code, printed, _ = vlpeft("diff", tmp_path / "a", tmp_path / "c", "--json")
    assert (code, json.loads(printed)["equal"], json.loads(printed)["only_a"]) == (
        1,
        False,
        [cells[1].id],
    )
    assert vlpeft("diff", tmp_path / "a", tmp_path / "none")[0] == 2
    file = find_shipped_evidence(SweepHandle("quickstart"))
    assert vlpeft("diff", file, file, "quickstart")[0] == 0


def test_keep_needs_a_launched_sweep(vlpeft, tmp_path):
    code, _, messages = vlpeft("keep", "quickstart", "--root", tmp_path)
    assert code == 2
    assert "holds no results of the sweep" in messages


def test_tidy_rows_have_the_settings_of_their_cells(vlpeft):
    _, printed, _ = vlpeft("table", "quickstart", "--measured", "--tidy", "--format", "json")
    rows = json.loads(printed)
    ranks = {row["method"]: row["method.rank"] for row in rows}
    assert (ranks["lora"], ranks["adapter"]) == (16, None)
    assert {row["backbone.name"] for row in rows} == set(BACKBONES.entries)
    assert all(row["protocol.lr"] > 0 for row in rows)
    assert {type(row["protocol.betas"]) for row in rows} == {str}  # a list is JSON
