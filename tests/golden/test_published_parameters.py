"""`vlpeft params` reproduces every published count of the shipped sweeps to the last digit."""

from __future__ import annotations

import json

import pytest

from vlpeft.benchmark.cli import main as cli
from vlpeft.benchmark.core.config import load_yaml, parse
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results.tables.parameters import PUBLISHED, PublishedFile, parameter_rows

SWEEPS = ("parameters_clip_bart", "parameters_p_adapter", "parameters_routing")


def test_every_published_row_is_recomputed_and_equal() -> None:
    rows = [row for sweep in SWEEPS for row in parameter_rows(SweepHandle(sweep))]
    compared = [row for row in rows if row["share"]]
    assert not [
        (row["method"], row["verdict"]) for row in compared if row["verdict"].startswith("differs")
    ]
    counted = [row for row in compared if row["published_trainable"] is not None]
    file = parse(PublishedFile, load_yaml(PUBLISHED), str(PUBLISHED))
    assert len(counted) == len([r for r in file.rows if r.trainable is not None]), (
        "a row that no sweep reaches"
    )
    for row in counted:
        trained = row["trainable"] - (row["head"] if row["share"] == "text" else 0)
        assert trained == row["published_trainable"], row["method"]


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["params", "parameters_clip_bart", "--json"])
    assert done.value.code == 0
    rows = {row["method"]: row for row in json.loads(capsys.readouterr().out)}
    lora = rows["single lora"]
    assert (lora["trainable"], lora["published_percent"], lora["verdict"]) == (
        8_786_688,
        5.93,
        "equal",
    )
    assert lora["percent_without_vision"] == pytest.approx(5.928, abs=5e-4)
    with pytest.raises(SystemExit):
        cli.main(["params", "parameters_clip_bart"])
    text = capsys.readouterr().out
    assert "8,786,688" in text
    assert "VL-Adapter, CVPR 2022" in text
