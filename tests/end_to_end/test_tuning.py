"""A sweep with `tune:` through the command: both stages, again after losses, table and report."""

import json
import shutil

import pytest

from tests.end_to_end.conftest import RUN, records, science, write_one

TUNED = {
    "seeds": "[1, 2]",
    "tune": "{lr: [1e-3, 1e-2, 1e+30], on: val}",
    "protocol": "{steps: 2, batch_size: 4, train_limit: 8, eval_limit: 4}",
    "methods": "[{name: lora, rank: 4}, {name: bitfit, tune: {lr: [1e-3, 1e-4]}}]",
}


@pytest.mark.parametrize("way", [("--on", "inline"), ("--on", "local", "--workers", 2)])
def test_a_tuned_sweep(main, tmp_path, way) -> None:
    sweep, root = write_one(tmp_path, **TUNED), tmp_path / "root"
    command = ("sweep", sweep, "--root", root, *way, *RUN)
    first = main(*command)
    assert first.code == 0, first.err
    assert len(records(root)) == 2 + 2 + 2 * 2  # one of five comparisons has diverged
    table = main("table", sweep, "--root", root).out
    assert "Tuned on 'val' over 3 settings, 1 seed each: lora on vit_roberta" in table
    assert "lr=1e+30" not in table
    assert "The budgets differ" in table

    # Stage 2 has the ids and the numbers of a sweep written by hand.
    plan = json.loads(main("plan", sweep, "--root", root, "--json").out)
    chosen = {row["row"]: row["tuned"]["settings"]["lr"] for row in plan if row["tuned"]}
    methods = [
        f"{{name: lora, rank: 4, protocol: {{lr: {chosen['lora']}}}}}",
        f"{{name: bitfit, protocol: {{lr: {chosen['bitfit']}}}}}",
    ]
    lines = {**TUNED, "tune": "", "methods": f"[{', '.join(methods)}]"}
    hand, other = write_one(tmp_path, name="hand.yaml", **lines), tmp_path / "hand"
    assert main("sweep", hand, "--root", other, "--on", "inline", *RUN).code == 0
    by_hand = science(other)
    assert len(by_hand) == 4
    assert {key: science(root)[key] for key in by_hand} == by_hand

    # What is lost in either stage is run again, and the table is the same.
    for row in plan:
        if row["stage"] == "tune" and row["row"] == "lora (lr=0.001)":
            shutil.rmtree(root / "cells" / row["id"])
    shutil.rmtree(root / "cells" / next(iter(by_hand)))
    again = main(*command)
    assert again.code == 0, again.err
    assert main("table", sweep, "--root", root).out.splitlines()[:4] == table.splitlines()[:4]
    assert science(root).keys() >= by_hand.keys()

    wider = main("plan", sweep, "--root", root, "--widen")
    assert wider.code == 0
    assert "bitfit on vit_roberta, vqa/small_shapes: lr: add " in wider.out
    early = main("plan", sweep, "--root", tmp_path / "nothing", "--widen")
    assert early.code == 2
    sides = ("--rows", "method", "--columns", "lr")
    compared = main("table", sweep, "--root", root, "--tuning", *sides)
    assert compared.code == 0
    assert "lora" in compared.out
    report = main("report", sweep, "--root", root, "-o", tmp_path / "report")
    assert report.code == 0
    assert 'id="tuning"' in (tmp_path / "report" / "index.html").read_text()


def test_a_search(main, tmp_path) -> None:
    """Two rounds of trials, then the best one; lost trials are run again, not chosen again."""
    search = "{sampler: optuna.random, trials: 3, at_once: 2, lr: log(1e-4, 1e-2)}"
    sweep, root = write_one(tmp_path, **{**TUNED, "tune": search}), tmp_path / "root"
    command = ("sweep", sweep, "--root", root, "--on", "inline", *RUN)
    first = main(*command)
    assert first.code == 0, first.err
    assert len(records(root)) == 3 + 2 + 2 * 2  # bitfit compares a list
    said = main("table", sweep, "--root", root).out
    rows = main("table", sweep, "--root", root, "--format", "csv").out
    assert "over 3 settings, 1 seed each, chosen one after the other by optuna.random" in said
    plan = json.loads(main("plan", sweep, "--root", root, "--json").out)
    trials = [row["id"] for row in plan if row["stage"] and row["row"].startswith("lora")]
    shutil.rmtree(root / "cells" / trials[1])
    again = main(*command)
    assert again.code == 0, again.err
    assert len(records(root)) == 3 + 2 + 2 * 2
    assert main("table", sweep, "--root", root, "--format", "csv").out == rows


def test_tuning_without_tune(main, tmp_path) -> None:
    sweep, root = write_one(tmp_path), tmp_path / "root"
    assert main("sweep", sweep, "--root", root, "--on", "inline", *RUN).code == 0
    refused = main("table", sweep, "--root", root, "--tuning")
    assert refused.code == 2
    assert "has no `tune:`" in refused.err
