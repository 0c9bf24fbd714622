"""One tiny sweep with the real command: planned, run in two ways, interrupted, failed and fixed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.conftest import (
    COMMAND,
    RUN,
    cells,
    edit_json,
    environment,
    leftovers,
    records,
    science,
    start_vlpeft,
    vlpeft,
    write_json,
    write_one,
    write_sweep,
)
from vlpeft.benchmark.launch.presence import show_presence

FORMATS = ("text", "md", "latex", "csv", "json")
# vit_roberta answers with four methods; vit_gpt2 captions with three, because it has no head.
RUNNABLE = 4 * 2 + 3 * 2
PLANNED = 2 * 2 * 4 * 2


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def inline(sweep, tmp_path_factory):
    """Run the sweep in one process; return the root and the output of the command."""
    root = tmp_path_factory.mktemp("inline")
    return root, vlpeft("sweep", sweep, "--root", root, "--on", "inline", *RUN)


@pytest.fixture
def copy(inline, tmp_path) -> Path:
    """Copy the finished root, so that a test can damage it."""
    return Path(shutil.copytree(inline[0], tmp_path / "copy"))


def score_rows(out: str) -> list[str]:
    """Return the score table that `sweep` prints; the costs above it differ from run to run."""
    title = "A tiny sweep (tiny towers, embedded data)\n"
    return (title + out.rpartition(title)[2]).rstrip().splitlines()


def test_plan_as_text_and_json(sweep, main) -> None:
    text, rows = main("plan", sweep), json.loads(main("plan", sweep, "--json").out)
    assert text.code == 0
    assert text.err == ""
    assert len(rows) == PLANNED
    assert len({row["id"] for row in rows}) == PLANNED
    assert sum(row["state"] == "runnable" for row in rows) == RUNNABLE
    assert f"{PLANNED} cells, {RUNNABLE} runnable, {PLANNED - RUNNABLE} skipped" in text.out
    assert all(row["id"] in text.out for row in rows)
    reasons = {row["skipped"] for row in rows if row["skipped"]}
    assert reasons == {
        "head_only needs head, which vit_gpt2 does not have here",
        "vit_gpt2 does captioning, not vqa",
        "vit_roberta does vqa, entailment, nlvr2, not captioning",
    }
    assert all(0 < row["trainable"] < row["total"] for row in rows if not row["skipped"])


def test_inline(sweep, inline, main) -> None:
    root, said = inline
    assert said.code == 0, said.err
    assert len(cells(root)) == len(records(root)) == RUNNABLE
    assert leftovers(root) == []
    assert said.lines[0] == (
        f"tiny: {RUNNABLE} cells, 0 done before, {RUNNABLE} to run; "
        f"{PLANNED - RUNNABLE} skipped (see `vlpeft plan`)"
    )
    assert f"[{RUNNABLE}/{RUNNABLE}] done" in said.lines[-1]
    assert len(said.lines) == 1 + RUNNABLE
    assert "[1/" not in said.out  # progress appears on stderr only
    assert score_rows(said.out) == main("table", sweep, "--root", root).out.rstrip().splitlines()
    for record in records(root).values():
        assert [step for step, _ in record["curve"]] == [1, 2, 3, 4]
        assert record["metrics"]
        assert not any(isinstance(value, dict) for value in record["metrics"].values())


def test_workers_give_the_same_bits_and_the_same_table(sweep, inline, tmp_path, main) -> None:
    said = vlpeft("sweep", sweep, "--root", tmp_path, "--on", "local", "--workers", 2, *RUN)
    assert said.code == 0, said.err
    assert science(tmp_path) == science(inline[0])
    assert leftovers(tmp_path) == []
    for form in FORMATS:
        assert (
            main("table", sweep, "--root", tmp_path, "--format", form).out
            == main("table", sweep, "--root", inline[0], "--format", form).out
        )


def test_a_second_run_does_nothing(sweep, inline) -> None:
    root, first = inline
    before = {path: path.stat().st_mtime_ns for path in root.glob("cells/*/*")}
    said = vlpeft("sweep", sweep, "--root", root, *RUN)
    assert said.code == 0
    assert said.lines == [
        (
            f"tiny: {RUNNABLE} cells, {RUNNABLE} done before, 0 to run; "
            f"{PLANNED - RUNNABLE} skipped (see `vlpeft plan`)"
        )
    ]
    assert {path: path.stat().st_mtime_ns for path in root.glob("cells/*/*")} == before
    assert said.out == first.out  # costs too, because they are read from the same records


def test_status(sweep, inline, main) -> None:
    rows = json.loads(main("status", sweep, "--root", inline[0], "--json").out)
    assert [row["state"] for row in rows].count("done") == RUNNABLE
    assert {row["state"] for row in rows} == {"done", "skipped"}
    assert (
        f"{PLANNED} cells: {RUNNABLE} done, {PLANNED - RUNNABLE} skipped"
        in main("status", sweep, "--root", inline[0]).out
    )
    states = [
        row["state"] for row in json.loads(main("plan", sweep, "--root", inline[0], "--json").out)
    ]
    assert states.count("done") == RUNNABLE


LOGIN_NODE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "timm"):
            raise ImportError(f"{name} is not on this machine")
sys.meta_path.insert(0, Refuse())
from vlpeft.benchmark.cli.main import main
main(sys.argv[1:])
"""


def test_status_on_a_login_node(sweep, copy, tmp_path) -> None:
    """Neither torch nor SLURM commands are needed; submitted cells count as waiting."""
    ids = [path.parent.name for path in sorted(copy.glob("cells/*/record.json"))]
    (copy / "cells" / ids[0] / "record.json").unlink()
    (copy / "cells" / ids[1] / "record.json").unlink()
    folder = copy / "slurm" / "00000-20260101-000000"
    folder.mkdir(parents=True)
    write_json(folder / "submission.json", {"job": "7", "cells": [[ids[0]]]})
    (tmp_path / "bin").mkdir()
    command = [
        sys.executable,
        "-c",
        LOGIN_NODE,
        "status",
        str(sweep),
        "--root",
        str(copy),
        "--json",
    ]
    said = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**environment(), "PATH": str(tmp_path / "bin")},
        check=False,
    )
    assert said.returncode == 0, said.stderr
    rows = {row["id"]: row for row in json.loads(said.stdout)}
    assert rows[ids[0]]["state"] == "pending"
    assert rows[ids[0]]["reason"] == "queue state unknown: `squeue` is not on this machine"
    assert rows[ids[1]]["state"] == "missing"


def test_plan_reads_the_default_root(sweep, copy, main, monkeypatch) -> None:
    monkeypatch.chdir(copy.parent)
    (copy.parent / "runs").mkdir()
    copy.rename(copy.parent / "runs" / sweep.stem)
    states = [row["state"] for row in json.loads(main("plan", sweep, "--json").out)]
    assert states.count("done") == RUNNABLE


def test_status_while_a_cell_runs(sweep, copy, main) -> None:
    folder = cells(copy)[0]
    (folder / "record.json").unlink()
    for phase in ("load data", "train", "evaluate"):  # everything that a running cell reports
        where = {
            "phase": phase,
            "step": 1,
            "total": 4,
            "updated": time.time(),
            "pid": os.getpid(),
            "left": None,
        }
        (folder / "progress.json").write_text(json.dumps(where))
        said = main("status", sweep, "--root", copy)
        assert said.code == 0, said.err
        assert f"{phase} 1/4" in said.out


@pytest.mark.parametrize("form", FORMATS)
def test_table_formats_are_repeatable(sweep, inline, main, form) -> None:
    first, second = (main("table", sweep, "--root", inline[0], "--format", form) for _ in range(2))
    assert first.code == 0
    assert all(line.startswith("vlpeft: Scored on part of a split") for line in first.lines)
    assert first.out.strip()
    assert first.out == second.out
    for more in ("--costs", "--details"):
        assert main("table", sweep, "--root", inline[0], "--format", form, more).code == 0


def test_a_missing_record_shows_and_comes_back(sweep, inline, copy, main) -> None:
    whole = main("table", sweep, "--root", copy).out
    kept = science(copy)
    gone = main("status", sweep, "--root", copy, "--json")
    cell = next(
        row
        for row in json.loads(gone.out)
        if row["method"] == "lora" and row["state"] == "done" and row["seed"] == 1
    )
    (copy / "cells" / cell["id"] / "record.json").unlink()
    assert "1/2 seeds" in main("table", sweep, "--root", copy).out
    said = main("sweep", sweep, "--root", copy, "--on", "inline", *RUN)
    assert said.code == 0, said.err
    assert len(said.lines) == 2
    assert main("table", sweep, "--root", copy).out == whole
    assert science(copy) == kept


def test_kill_9_half_way(sweep, inline, tmp_path, main) -> None:
    """The launcher and its workers die together. The same command finishes, with the same table."""
    root = tmp_path / "root"
    process = start_vlpeft(
        "sweep", sweep, "--root", root, "--workers", 2, *RUN, log=tmp_path / "log"
    )
    try:
        deadline = time.monotonic() + 180
        while len(list(root.glob("cells/*/record.json"))) < RUNNABLE // 3:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    found = records(root)  # every record that exists is complete
    assert 0 < len(found) < RUNNABLE
    assert main("status", sweep, "--root", root).code == 0
    assert "seeds" in main("table", sweep, "--root", root).out
    said = main("sweep", sweep, "--root", root, "--on", "inline", *RUN)
    assert said.code == 0, said.err
    assert main("table", sweep, "--root", root).out == main("table", sweep, "--root", inline[0]).out
    assert science(root) == science(inline[0])
    assert {id_: records(root)[id_] for id_ in found} == found


@pytest.mark.parametrize("everyone", [True, False], ids=["ctrl-c", "the launcher alone"])
def test_an_interrupt_prints_one_line_and_leaves_no_process(
    sweep, tmp_path, main, everyone
) -> None:
    """Ctrl-C in a terminal reaches the launcher and the workers alike."""
    root, log = tmp_path / "root", tmp_path / "log"
    process = start_vlpeft(
        "sweep", sweep, "--root", root, "--workers", 2, "--checkpoint-seconds", 5, *RUN, log=log
    )
    try:
        deadline = time.monotonic() + 180
        while not list(root.glob("cells/*/record.json")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        group = [p for p in psutil.process_iter() if os.getpgid(p.pid) == process.pid]
        assert len(group) >= 3  # the launcher and its workers
        (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert not [p for p in group if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    said = log.read_text()
    assert "Traceback" not in said
    assert "KeyboardInterrupt" not in said
    assert said.splitlines()[-1].startswith(
        "vlpeft: interrupted; run the same command again: finished cells are kept"
    )
    assert "at most 5 s back, see --checkpoint-seconds)" in said
    assert main("status", sweep, "--root", root).code == 0


@pytest.mark.parametrize("way", ["inline", "local"])
def test_an_interrupt_saves_the_training_state(tmp_path, way) -> None:
    """The state is saved long before a checkpoint is due; the next launch continues there."""
    path = write_one(
        tmp_path, protocol="{lr: 1e-3, steps: 100000, batch_size: 4, train_limit: 8, eval_limit: 4}"
    )
    root, log = tmp_path / "root", tmp_path / "log"
    process = start_vlpeft(
        "sweep", path, "--root", root, "--on", way, "--checkpoint-seconds", 1e6, *RUN, log=log
    )
    try:
        deadline = time.monotonic() + 180
        while not any(
            json.loads(file.read_text())["phase"] == "train"
            for file in root.glob("cells/*/progress.json")
        ):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    said = log.read_text()
    assert "vlpeft: saving the cell in training; Ctrl-C again stops at once" in said
    assert "Traceback" not in said
    assert {file.name for file in cells(root)[0].iterdir()} == {
        "cell.json",
        "checkpoint.pt",
        "lock",
    }


@pytest.mark.parametrize("first", ["inline", "local"])
def test_two_launchers_share_a_root(sweep, inline, tmp_path, main, first) -> None:
    """Started at the same moment, both run every cell once and wait until all are done."""
    root = tmp_path / "root"
    ways = ((first,), ("local", "--workers", 1))
    logs = [tmp_path / "a", tmp_path / "b"]
    both = [
        start_vlpeft("sweep", sweep, "--root", root, "--on", *way, *RUN, log=log)
        for way, log in zip(ways, logs, strict=True)
    ]
    codes = [process.wait(timeout=240) for process in both]
    assert codes == [0, 0], [log.read_text() for log in logs]
    printed = [log.read_text() for log in root.glob("jobs/*/*/*_log.out")]
    ran = [cell for text in printed for cell in re.findall(r"^=== (\w+) done$", text, re.MULTILINE)]
    assert len(ran) == len(set(ran))
    assert len(ran) == RUNNABLE or first == "inline"  # which leaves no log
    assert science(root) == science(inline[0])
    assert leftovers(root) == []
    assert not list(root.glob("launchers/*"))
    assert main("table", sweep, "--root", root).out == main("table", sweep, "--root", inline[0]).out


def test_a_failing_cell_does_not_stop_the_others(tmp_path, main) -> None:
    bad = "  - {name: lora, rank: 4, label: wild, protocol: {lr: 1e30}}\n"
    path = write_one(tmp_path, methods=f"\n{bad}  - {{name: lora, rank: 4, label: calm}}")
    root = tmp_path / "root"
    said = vlpeft("sweep", path, "--root", root, "--on", "local", "--workers", 1, *RUN)
    assert said.code == 1
    failed = [line for line in said.lines if line.startswith("vlpeft: failed:")]
    assert len(failed) == 1
    assert "wild on vit_roberta" in failed[0]
    assert "the loss became" in failed[0]
    assert "lower `lr`" in failed[0]
    assert said.lines[-1] == "vlpeft: 1 of 2 cells failed; fix the cause and rerun the same command"
    assert "failed [a]" in said.out
    assert "[a] diverged: the loss became" in said.out
    assert "0/1 seeds" not in said.out
    assert len(records(root)) == 1
    states = {
        row["method"]: row for row in json.loads(main("status", path, "--root", root, "--json").out)
    }
    assert states["calm"]["state"] == "done"
    assert states["wild"]["state"] == "failed"
    assert "the loss became" in states["wild"]["reason"]
    # not a class name, which does not help a user
    assert states["wild"]["reason"].startswith("diverged: ")
    wild, calm = (
        main("logs", path, states[name]["id"][:8], "--root", root).out for name in ("wild", "calm")
    )
    assert f"=== {states['wild']['id']} failed" in wild
    assert "the loss became" in wild
    assert f"=== {states['calm']['id']} done" in calm
    assert "the loss became" not in calm
    watched = main("status", path, "--root", root, "--watch")
    assert watched.out == "1 done, 1 failed\n"

    assert (
        "--failed" in main("retry", path, "--root", root).err
    )  # the command needs `--failed` or a cause
    none = main("retry", path, "--root", root, "--cause", "memory", *RUN)
    assert (none.code, none.err) == (0, "vlpeft: nothing to retry; causes of failure: diverged\n")
    again = main("retry", path, "--root", root, "--cause", "diverged", "--on", "inline", *RUN)
    assert again.code == 1
    assert again.lines[-1].startswith("vlpeft: 1 of 1 cell failed")
    said = main(
        "export-adapter", path, states["wild"]["id"][:8], "--root", root, "-o", tmp_path / "out"
    )
    assert (
        f"run it first (`vlpeft run {path} --root {root} --cell {states['wild']['id']}`)"
        in said.err
    )
    (
        root / "cells" / states["wild"]["id"] / "failure.json"
    ).unlink()  # as if it had been cancelled while no launcher was waiting
    none = main("retry", path, "--root", root, "--failed", *RUN)
    assert (
        "causes of failure: none; 1 cell is missing, which is not a failure: `vlpeft sweep "
        in none.err
    )

    path.write_text(path.read_text().replace("1e30", "1e-4"))
    repaired = main("sweep", path, "--root", root, "--on", "inline", *RUN)
    assert repaired.code == 0, repaired.err
    assert len(repaired.lines) == 2
    rows = json.loads(main("status", path, "--root", root, "--json").out)
    assert [row["state"] for row in rows] == [
        "done",
        "done",
        "stale",
    ]  # the last cell has the wrong settings
    assert rows[-1]["id"] == states["wild"]["id"]

    done = rows[1]["id"]
    path.write_text(re.sub(r"  - \{[^\n]*wild[^\n]*\n", "", path.read_text()))
    sweep = ("sweep", path, "--root", root, "--on", "inline", *RUN)
    alone = main(*sweep, "--delete")
    assert (alone.code, alone.lines) == (
        2,
        ["vlpeft: error: --delete: deletes what --prune finds; add --prune"],
    )
    assert main(*sweep, "--prune", "--dry-run").code == 2
    with show_presence(root, path.stem, "local"):
        busy = main(*sweep, "--prune")
    assert busy.code == 2
    assert "stop it first: `vlpeft cancel " in busy.lines[0]
    (root / "cells" / "backup").mkdir()
    damaged = root / "cells" / "0123456789ab" / "cell.json"
    damaged.parent.mkdir()
    write_json(damaged, {"method": "of another version"})
    kept = {folder.name for folder in cells(root)}
    listed = main(*sweep, "--prune")
    assert listed.code == 0
    left = sorted({rows[0]["id"]: "done", states["wild"]["id"]: "not done"}.items())
    assert listed.lines[:3] == [
        "vlpeft: --prune: not done: 0123456789ab its cell.json cannot be read",
        *(
            f"vlpeft: --prune: {state}: {cell} lora | vit_roberta | vqa/small_shapes | seed 0"
            for cell, state in left
        ),
    ]
    assert listed.lines[3] == "vlpeft: --prune: 3 cells left; --delete deletes their results"
    assert {folder.name for folder in cells(root)} == kept
    assert main(*sweep, "--prune", "--delete").lines[3] == "vlpeft: --prune: 3 cells deleted"
    assert [folder.name for folder in cells(root)] == sorted([done, "backup"])
    assert main(*sweep, "--prune").lines[0] == (
        "vlpeft: --prune: all cells of the folder belong to a sweep"
    )


def test_run_one_cell(tmp_path, main) -> None:
    path, root = write_one(tmp_path), tmp_path / "root"
    (row,) = json.loads(main("plan", path, "--json").out)
    said = main("run", path, "--cell", row["id"][:6], "--root", root, *RUN)
    assert said.code == 0, said.err
    answer = json.loads(said.out)
    assert (answer["id"], answer["outcome"]) == (row["id"], "done")
    assert answer["metrics"] == records(root)[row["id"]]["metrics"]
    assert all(" | vit_roberta | vqa/small_shapes | seed 0: " in line for line in said.lines)
    again = main("run", path, "--cell", row["id"], "--root", root, *RUN)
    assert json.loads(again.out) == {**answer, "outcome": "already done"}
    assert main("table", path, "--root", root).code == 0


def test_run_writes_its_own_cell_alone(tmp_path, main) -> None:
    """Other commands see the whole sweep nonetheless, and a later sweep completes it."""
    path, root = write_sweep(tmp_path), tmp_path / "root"
    rows = json.loads(main("plan", path, "--json").out)
    mine, other = [row["id"] for row in rows if row["state"] == "runnable"][2:4]
    assert main("run", path, "--cell", mine, "--root", root, *RUN).code == 0
    assert [folder.name for folder in (root / "cells").iterdir()] == [mine]

    states = {
        row["id"]: row["state"]
        for row in json.loads(main("status", path, "--root", root, "--json").out)
    }
    assert list(states) == [row["id"] for row in rows]
    assert [cell for cell, state in states.items() if state == "done"] == [mine]
    assert Counter(states.values()) == {
        "done": 1,
        "missing": RUNNABLE - 1,
        "skipped": PLANNED - RUNNABLE,
    }
    assert "1/2 seeds" in main("table", path, "--root", root).out
    planned = json.loads(main("plan", path, "--root", root, "--json").out)
    assert [row["state"] for row in planned].count("done") == 1

    assert main("run", path, "--cell", other, "--root", root, *RUN).code == 0
    assert {folder.name for folder in (root / "cells").iterdir()} == {mine, other}
    plan = json.loads((root / "sweeps" / "tiny.json").read_text())
    assert {cell["id"] for cell in plan["cells"] if cell["total"]} == {mine, other}

    said = main("sweep", path, "--root", root, "--on", "inline", *RUN)
    assert said.code == 0, said.err
    assert "2 done before" in said.lines[0]
    assert len(cells(root)) == len(records(root)) == RUNNABLE
    before = (root / "sweeps" / "tiny.json").read_bytes()
    assert main("run", path, "--cell", mine, "--root", root, *RUN).code == 0
    assert (root / "sweeps" / "tiny.json").read_bytes() == before  # it keeps what was counted


def test_commands_for_a_scheduler_of_your_own(tmp_path, main) -> None:
    """Each line is a command that may run in any folder. Those of cells that are done are gone."""
    path, root = write_one(tmp_path), tmp_path / "a root"
    path.write_text(path.read_text().replace("seeds: [0]", "seeds: [0, 1]"))
    ids = [row["id"] for row in json.loads(main("plan", path, "--json").out)]
    lines = main("plan", path, "--root", root, "--commands").out.splitlines()
    assert lines == [f"vlpeft run {path} --root '{root}' --cell {cell}" for cell in ids]
    assert not root.exists()
    line = " ".join([lines[1], *RUN])
    folder = Path(COMMAND).parent
    variables = {**environment(), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(line, shell=True, cwd="/", env=variables, check=True, capture_output=True)
    assert [folder.name for folder in cells(root)] == ids[1:]
    assert main("plan", path, "--root", root, "--commands").out.splitlines() == lines[:1]


def test_micro_batches_do_not_change_the_cell(tmp_path, main) -> None:
    path = write_one(tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main("sweep", path, "--root", whole, "--on", "inline", *RUN).code == 0
    assert (
        main("sweep", path, "--root", parts, "--on", "inline", "--micro-batch", 3, *RUN).code == 0
    )
    (one,), (other,) = records(whole).values(), records(parts).values()
    assert one["id"] == other["id"]
    for (_, loss), (_, same) in zip(one["curve"], other["curve"], strict=True):
        assert loss == pytest.approx(same, rel=1e-5)


@pytest.mark.parametrize("what", ["methods", "sweeps"])  # more and less than one buffer
def test_a_reader_that_stops_early_is_not_an_error(what) -> None:
    """`vlpeft ... | head` ends quietly."""
    read, write = os.pipe()
    os.close(read)
    command = [str(Path(sys.executable).with_name("vlpeft")), "list", what, "--json"]
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, env=environment(), check=False
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 0


def test_a_record_of_another_cell_is_refused(sweep, copy, main) -> None:
    one, other = cells(copy)[:2]
    shutil.copy(one / "record.json", other / "record.json")
    said = main("table", sweep, "--root", copy)
    assert said.code == 2
    assert said.lines[0].endswith(
        f"holds the record of cell {one.name}; move it to cells/{one.name}/"
    )


def test_records_of_changed_data_do_not_mix(sweep, copy, main) -> None:
    edit_json(
        cells(copy)[0] / "record.json", lambda record: record["provenance"].update(data="another")
    )
    said = main("table", sweep, "--root", copy)
    assert said.code == 2
    assert "the records differ in provenance.data" in said.err
