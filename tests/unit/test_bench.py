"""`vlpeft bench`: both sides run turn by turn, and what is printed is what was timed."""

from __future__ import annotations

import json
import sys

import pytest

from benchmark import bench, cli
from benchmark.bench import Row, alternate, names, text

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def test_sides_take_turns_after_a_warm_up_and_medians_are_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ran = [0.0], []
    taken = {"ours": iter([99.0, 1.0, 2.0, 9.0]), "theirs": iter([99.0, 2.0, 8.0, 3.0])}  # seconds; the first is the warm-up

    def step(side: str) -> None:
        ran.append(side)
        clock[0] += next(taken[side])

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    found = alternate(lambda: step("ours"), lambda: step("theirs"), repeats=3)
    assert ran == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert found == (2000.0, 3000.0, 0.5)  # of 1/2, 2/8 and 9/3


def test_the_table() -> None:
    lines = text([Row("a", 1.25, 2.5, 0.5, 1.0), Row("longer", 10.0, 1.0, 10.0, 0.25)]).splitlines()
    assert [line.split() for line in lines] == [
        ["ours", "ms", "theirs", "ms", "ratio", "memory"],
        ["a", "1.2", "2.5", "0.500", "1.000"],
        ["longer", "10.0", "1.0", "10.000", "0.250"],
    ]
    assert len(set(map(len, lines))) == 1


def test_lora_beside_peft(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "lora", "--tiny", "--repeats", "1", "--device", "cpu", "--json"])
    assert stop.value.code == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["lora query,value (tiny, cpu)", "lora query,key,value,output,up,down (tiny, cpu)"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["ours_ms"] / row["theirs_ms"])
        assert 0.9 < row["memory_ratio"] <= 1.0


def test_without_peft_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "lora", "--tiny", "--device", "cpu"])
    assert stop.value.code == 2
    assert "pip install peft" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [(["nothing"], "invalid choice"), (["lora", "--repeats", "0"], "must be at least 1")])
def test_slips(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_every_bench_is_one_file_with_a_run() -> None:
    assert "lora" in names()
    for name in names():
        assert callable(__import__(f"{bench.__name__}.{name}", fromlist=["run"]).run)
