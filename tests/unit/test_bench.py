"""`vlpeft bench`: each bench runs in its smallest form, sides take turns, the ratio decides."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from vlpeft.benchmark import bench
from vlpeft.benchmark.bench import _sides, growth, names, routing, workers
from vlpeft.benchmark.bench._rows import (
    BenchRow,
    BenchSetting,
    RatioLimit,
    keep,
    markdown,
    new_file,
    row,
    text,
)
from vlpeft.benchmark.bench._sides import TimedStep, kept_bytes, turns
from vlpeft.benchmark.cli import main as cli
from vlpeft.benchmark.cli.arguments import parser
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.verify import transcriptions as _literal
from vlpeft.methods.routing import routing_function

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # torch.compile reads the gradients of all inputs; see test_compiling.py
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor that is not a leaf Tensor is being accessed"
        ":UserWarning"
    ),
]
QUICK = BenchSetting(turns=2, quick=True)
OF_PROCESSES = ("workers",)  # whole sweeps in processes of their own, which are slow


def vlpeft(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize("name", [name for name in names() if name not in OF_PROCESSES])
def test_every_bench_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both sides give the same result (`turns` checks it), and all numbers are there."""
    assert vlpeft(name, "--quick", "--turns", "1", "--device", "cpu", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    for each in rows:
        assert each["bench"] == name
        assert all(math.isfinite(each[key]) and each[key] > 0 for key in ("ours", "other"))


def say(word: str, said: float, ran: list[str], device: torch.device) -> TimedStep:
    def step() -> float:
        ran.append(word)
        return said

    return step


def test_sides_take_turns_after_a_warm_up() -> None:
    ran: list[str] = []
    pairs = turns(
        partial(say, "ours", 1.0, ran),
        partial(say, "other", 1.0, ran),
        BenchSetting(turns=3, quick=True),
    )
    assert ran == ["ours", "other", "ours", "other", "other", "ours", "ours", "other"]
    assert len(pairs) == 3


def test_sides_with_different_results_are_refused() -> None:
    with pytest.raises(RuntimeError, match="compute different things"):
        turns(partial(say, "ours", 1.0, []), partial(say, "other", 2.0, []), QUICK)


def test_a_side_that_returns_nan_is_refused() -> None:
    with pytest.raises(RuntimeError, match="compute different things"):
        turns(partial(say, "ours", math.nan, []), partial(say, "other", 1.0, []), QUICK)


def raises(device: torch.device) -> TimedStep:
    raise UserError("a reason")


def test_an_error_in_another_process_is_reported() -> None:
    with pytest.raises(UserError, match="a reason"), _sides.side(raises, BenchSetting(turns=1)):
        pass


def process(device: torch.device) -> TimedStep:
    return os.getpid


def test_each_side_runs_in_its_own_process() -> None:
    with (
        _sides.side(process, BenchSetting(turns=1)) as one,
        _sides.side(process, BenchSetting(turns=1)) as other,
    ):
        found = {one().said, one().said, other().said, float(os.getpid())}
        assert isinstance(one, _sides.Elsewhere)
    assert len(found) == 3
    assert one.process.exitcode == 0


def test_medians_are_of_pairs_and_rules_have_directions() -> None:
    pairs = [(1.0, 2.0), (2.0, 8.0), (9.0, 3.0)]
    faster = row("b", "a", "ms", pairs, "at least", 2.0)
    assert (faster.ours, faster.other, faster.ratio, faster.verdict) == (2.0, 3.0, 2.0, "pass")
    assert faster.spread == pytest.approx((7 / 6, 3.0))
    closer = row("b", "a", "ms", pairs, "at most", 0.4)
    assert (closer.ratio, closer.spread, closer.verdict) == (0.5, (0.375, 1.75), "tie")
    assert not row("b", "a", "ms", pairs, "at most", None).verdict


@pytest.mark.parametrize(
    ("rule", "required", "verdict"),
    [
        ("at most", 0.9, "pass"),
        ("at most", 0.85, "tie"),
        ("at most", 0.8, "FAIL"),
        ("at least", 0.92, "tie"),
        ("at least", 1.0, "FAIL"),
    ],
)
def test_a_tie_is_decided_by_a_quarter_of_the_turns(
    rule: RatioLimit, required: float, verdict: str
) -> None:
    """A quarter of the ratios 0.75, 0.9 and 1.2 reach 0.825.

    In the other direction they are 0.8, 0.9 and 0.95, and 0.925.
    """
    pairs = (
        [(0.9, 1.0), (0.75, 1.0), (1.2, 1.0)]
        if rule == "at most"
        else [(1.0, 0.9), (1.0, 0.95), (1.0, 0.8)]
    )
    assert row("b", "a", "ms", pairs, rule, required).verdict == verdict


def test_one_turn_cannot_decide_a_tie() -> None:
    assert row("b", "a", "ms", [(2.0, 1.0)], "at most", 1.0).verdict == "FAIL"


def test_the_tables() -> None:
    rows = [
        BenchRow("b", "one", "ms", 1.25, 2.5, 2.0, "at least", 1.5, 5, (1.8, 2.25)),
        BenchRow("b", "two", "bytes", 10000, 1, 10000, "at most", None),
    ]
    assert [line.split() for line in text(rows).splitlines()] == [
        ["ours", "other", "ratio", "middle", "half", "asked", "for"],
        ["b:", "one", "1.25", "2.5", "ms", "2", "1.8", "to", "2.25", "≥", "1.5", "pass"],
        ["b:", "two", "10,000", "1", "bytes", "1e+04"],
    ]
    assert (
        markdown(rows).splitlines()[2]
        == "| b: one | 1.25 | 2.5 | ms | 2 | 1.8 to 2.25 | ≥ 1.5 | pass |"
    )


def test_kept_results_are_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [BenchRow("b", "one", "ms", 1.0, 2.0, 2.0, "at least", 1.5)]
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    path = new_file(tmp_path, BenchSetting())
    keep(path, rows, BenchSetting(), (0.5, 0.5, 0.5))
    assert path.name.startswith("now_")
    assert f"torch{torch.__version__.partition('+')[0]}" in path.name
    values = json.loads(path.read_text())
    assert values["rows"][0]["verdict"] == "pass"
    assert {"load_before", "load_after", "provenance", "turns"} <= values.keys()
    assert "host" not in values["provenance"]
    with pytest.raises(UserError, match="exists already"):
        new_file(tmp_path, BenchSetting())


def test_the_newest_rows_of_a_device_are_shown_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are shown as they were measured, with curves and the plot made from them."""
    curve = BenchRow(
        "growth", "over n", "CPU ms", 8.0, 1.0, 1.5, "at most", 2.0, 5, points={250: 1.0, 1000: 8.0}
    )
    for now, device, rows in [
        (
            "1",
            "cpu",
            [BenchRow("lora", "one", "ms", 1.0, 2.0, 2.0, "at least", 1.5, 5, (1.0, 3.0)), curve],
        ),
        (
            "2",
            "cpu",
            [BenchRow("lora", "one", "ms", 1.0, 1.0, 1.0, "at least", 1.5, 5, (0.5, 1.6))],
        ),
        ("3", "cuda:0", [BenchRow("lora", "one", "ms", 1.0, 9.0, 9.0, "at least", 1.5)]),
    ]:
        monkeypatch.setattr("time.strftime", lambda *_, now=now: now)
        path = new_file(tmp_path, BenchSetting())
        keep(path, rows, BenchSetting(), (0.5, 0.5, 0.5))
        path.write_text(path.read_text().replace('"device": "cpu"', f'"device": "{device}"'))
    picture = tmp_path / "curve.svg"
    assert (
        vlpeft("all", "--device", "cpu", "--kept", str(tmp_path), "--json", "--plot", str(picture))
        == 0
    )
    shown = json.loads(capsys.readouterr().out)
    assert [(each["name"], each["ratio"], each["verdict"]) for each in shown] == [
        ("over n", 1.5, "pass"),
        ("one", 1.0, "tie"),
    ]
    assert "<title>over n 1.50</title>" in picture.read_text()
    assert vlpeft("lora", "--device", "cuda", "--kept", str(tmp_path), "--json") == 0, (
        "though there may be no GPU here"
    )
    assert [each["ratio"] for each in json.loads(capsys.readouterr().out)] == [9.0]
    assert vlpeft("routing", "--device", "cpu", "--kept", str(tmp_path)) == 2
    assert "nothing of routing was kept here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        '"rows": [{"name": 1}]',
        '"rows": {}',
        '"device": 1',
        '"rows": [',
        '"rows": [ROW, {}]',
        '"rows": [SHORT]',
    ],
)
def test_files_without_rows(wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = asdict(BenchRow("lora", "one", "ms", 1.0, 2.0, 2.0, "at least", 1.5, 5, (1.0, 3.0)))
    found = wrong.replace("ROW", json.dumps(row)).replace(
        "SHORT", json.dumps({**row, "spread": [1.0]})
    )
    (tmp_path / "4.json").write_text('{"device": "cpu", ' + found + "}")
    assert vlpeft("lora", "--device", "cpu", "--kept", str(tmp_path)) == 2
    assert "4.json: holds no rows of a bench; delete it: " in capsys.readouterr().err


def test_the_page_on_speed_shows_what_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    monkeypatch.chdir(docs.parent)
    assert vlpeft(
        "all", "--device", "cpu", "--kept", "--markdown", "--plot", str(tmp_path / "growth.svg")
    ) in (0, 1)
    assert capsys.readouterr().out in (docs / "speed.md").read_text(encoding="utf-8")
    assert (tmp_path / "growth.svg").read_text() == (docs / "images" / "growth.svg").read_text()


def test_a_failed_bench_sets_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for ratio, code in ((1.0, 1), (2.0, 0)):
        monkeypatch.setattr(
            "vlpeft.benchmark.bench._rows.run",
            lambda *_, r=ratio: [BenchRow("b", "a", "ms", 1.0, r, r, "at least", 1.5)],
        )
        assert vlpeft("routing", "--device", "cpu") == code
    assert "FAIL" in capsys.readouterr().out


def test_without_peft_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert vlpeft("lora", "checkpoint", "--quick", "--device", "cpu", "--json") == 2
    said = capsys.readouterr()
    assert (
        "lora: bench lora compares with Hugging Face peft; install it: `pip install peft`"
        in said.err
    )
    assert {row["bench"] for row in json.loads(said.out)} == {"checkpoint"}, (
        "the others are still measured"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "unknown value 'nothing'"),
        (["lora", "--turns", "0"], "must be at least 1"),
        (["lora", "--turns", "many"], "must be a whole number, not 'many'"),
        (["lora", "--quick", "--keep"], "mean nothing"),
        (["lora", "--quick", "--kept"], "mean nothing"),
        (["lora", "--keep", "/dev/null/here"], "choose a folder that can be written"),
        (["lora", "--device", "gpu"], "--device"),
        (["lora", "--plot", "a.svg"], "only `growth` measures curves"),
        (["growth", "--plot", "a.png"], "--plot a.png: name a file that ends in .svg"),
        (["growth", "--kept", "/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_typos(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert vlpeft(*arguments) == 2
    assert message in capsys.readouterr().err


def test_every_bench_is_one_file_with_a_run() -> None:
    assert {"lora", "p_laplacian", "command"} <= set(names())
    for name in names():
        assert callable(__import__(f"{bench.__name__}.{name}", fromlist=["run"]).run)


def test_kept_bytes_count_a_storage_once_and_no_weights() -> None:
    layer, x = torch.nn.Linear(4, 3), torch.randn(5, 4, requires_grad=True)
    assert kept_bytes(lambda: layer(x).exp() + x.exp().sum(), layer) == (5 * 4 + 5 * 3 + 5 * 4) * 4


def test_a_turn_counts_the_work_of_started_processes() -> None:
    """One such step is a whole turn, while its own process does almost nothing."""
    burn = "import time\nwhile time.process_time() < 0.4: pass"

    def make(_device: torch.device) -> TimedStep:
        return lambda: subprocess.run([sys.executable, "-c", burn], check=True).returncode

    here = _sides.Here(make, BenchSetting(turns=1))
    assert here.count == 1
    assert here().seconds > 0.3


def test_workers_compared_with_one_process_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands exist, and each cell runs once on either side."""
    ran: list[str] = []

    def vlpeft(*arguments: str) -> str:
        options = parser().parse_args(arguments)
        ran.append(options.command)
        return json.dumps([{"id": "0a"}, {"id": "0b"}])

    monkeypatch.setattr(workers, "_vlpeft", vlpeft)
    rows = list(workers.run(BenchSetting(turns=1, quick=True)))
    assert [each.rule for each in rows] == ["at least"]
    assert [ran.count(command) for command in ("sweep", "plan", "run")] == [
        2,
        2,
        4,
    ]  # one warm-up and one turn


def test_the_exponent_of_a_power() -> None:
    assert growth.exponent({n: 3.0 * n**1.7 for n in (10, 20, 40)}) == pytest.approx(1.7)


def test_curves_as_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plot has a dot for each size and the fitted power, whose exponent is in the title.

    Rows that are not curves have no panel.
    """
    points = {size: 2.0 * size**1.5 for size in (10, 20, 40)}
    curve = BenchRow(
        "growth",
        "a < b over n tokens, 40 vs 10: exponent",
        "CPU ms",
        1.0,
        1.0,
        1.5,
        "at most",
        2.0,
        points=points,
    )
    monkeypatch.setattr(
        "vlpeft.benchmark.bench._rows.run",
        lambda *_: [curve, BenchRow("b", "one", "ms", 1.0, 2.0, 2.0, "at least", 1.5)],
    )
    path = tmp_path / "new" / "growth.svg"
    assert vlpeft("growth", "--device", "cpu", "--json", "--plot", str(path)) == 0
    assert json.loads(capsys.readouterr().out)[0]["points"] == {
        str(size): cost for size, cost in points.items()
    }
    (panel,) = ElementTree.parse(path).findall("{*}svg")  # well-formed XML with any text in a name
    assert [text.text for text in panel.findall("{*}text")][:2] == [
        "a < b over n tokens",
        "CPU ms; exponent 1.50, at most 2",
    ]
    looks = {"line c0 d0": list[str](), "m c1": list[str]()}
    for each in panel.findall(".//{*}path"):
        looks.setdefault(each.attrib["class"], []).append(each.get("transform") or each.attrib["d"])
    (line,) = looks["line c0 d0"]
    ends = [tuple(map(float, place.split())) for place in line.removeprefix("M").split("L")]
    places = [place.removeprefix("translate(").rstrip(")") for place in looks["m c1"]]
    dots = [tuple(map(float, place.split())) for place in places]
    assert len(dots) == len(points)
    for x, y in dots:  # the axes are logarithmic, and all points are on this power
        share = (x - ends[0][0]) / (ends[1][0] - ends[0][0])
        assert y == pytest.approx(ends[0][1] + share * (ends[1][1] - ends[0][1]), abs=0.2)


@pytest.mark.parametrize(
    ("function", "literal"), [(function, literal) for function, literal, *_ in routing.ROWS]
)
def test_the_literal_routing_functions_are_ours(function: str, literal: str) -> None:
    torch.manual_seed(0)
    text_, vision = (
        torch.randn(2, 5, 4, dtype=torch.float64),
        torch.randn(2, 1, 4, dtype=torch.float64),
    )
    torch.testing.assert_close(
        getattr(_literal, literal)(text_, vision),
        routing_function(function, "paper")(text_, vision),
    )
