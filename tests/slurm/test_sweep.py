"""Real cells on a disturbed cluster: a rerun finishes the sweep with the tables of a local run."""

import json
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import psutil
import pytest
import torch

from tests.end_to_end.conftest import (
    COMMAND,
    RUN,
    environment,
    records,
    science,
    write_one,
    write_sweep,
    write_tuned,
)
from tests.slurm.conftest import (
    BLOWS,
    HARDER,
    HUNG,
    ROOT,
    output,
    press,
    running,
    strike,
    trace,
    wait_until,
    write_profile,
)
from vlpeft.benchmark.cells import code as codebase
from vlpeft.slurm.ledger import Ledger

pytestmark = pytest.mark.slurm
SEEDS = "seeds: [0, 1, 2, 3, 4, 5]"
CELLS = 42


def test_a_disturbed_sweep_gives_the_same_table(cluster, main, tmp_path) -> None:
    """A job hangs until its time limit.

    Others are stopped, requeued, killed, cancelled, pre-empted.

    A node crashes.
    """
    sweep = write_sweep(tmp_path, steps=6)
    profile = write_profile(
        tmp_path,
        partition="preemptible",
        cells_per_job=3,
        cpus=2,
        mem_gb=3,
        signal_seconds=20,
        array_parallelism=5,
    )
    sweep.write_text(sweep.read_text().replace("seeds: [0, 1]", SEEDS))
    root, local = tmp_path / "root", tmp_path / "local"
    done: list[str] = []
    HUNG.clear()

    def disturb() -> None:
        struck: set[str] = set()
        for name, blow in HARDER.items():
            strike(root, struck, blow)
            done.append(name)

    thread = threading.Thread(target=disturb)
    thread.start()
    command = ("sweep", sweep, "--root", root, "--on", "slurm", "--profile", profile, *RUN)
    first = main(*command)
    thread.join()
    assert done == list(HARDER)
    assert history(root) >= {
        "TIMEOUT",
        "CANCELLED",
        "PREEMPTED",
        "NODE_FAIL",
        "REQUEUED",
        "COMPLETED",
    }
    assert first.code == 1
    assert "cancelled" in first.err
    assert 0 < len(records(root)) < CELLS
    cancelled = [
        row
        for row in json.loads(main("status", sweep, "--root", root, "--json").out)
        if row["state"] == "failed"
    ]
    assert {row["reason"].split(":")[0] for row in cancelled} == {"cancelled"}

    again = main(*command)
    assert again.code == 0, again.err
    assert len(records(root)) == CELLS
    assert main("sweep", sweep, "--root", local, "--on", "local", "--workers", 2, *RUN).code == 0
    assert science(root) == science(local)
    for more in (("text",), ("md",), ("latex",), ("csv",), ("json",), ("text", "--details")):
        tables = [
            main("table", sweep, "--root", folder, "--format", *more).out
            for folder in (root, local)
        ]
        assert tables[0] == tables[1]


def test_a_disturbed_sweep_with_tune_gives_the_same_table(cluster, main, tmp_path) -> None:
    """In both stages jobs are pre-empted, and others stopped, requeued and killed."""
    sweep = write_tuned(tmp_path)
    lines = sweep.read_text().replace("[1e-4, 1e-3, 1e-2, 3e-2]", "[1e-4, 1e-2]").splitlines(True)
    fewer = ("  - bitfit", "  - layernorm_tuning", "  - {name: lora")
    sweep.write_text("".join(line for line in lines if not line.startswith(fewer)))
    settings = {"cpus": 2, "mem_gb": 3, "signal_seconds": 20}
    profile = write_profile(tmp_path, partition="preemptible", array_parallelism=4, **settings)
    root, local = tmp_path / "root", tmp_path / "local"
    struck: set[str] = set()
    HUNG.clear()

    def disturb() -> None:
        for name in ("requeued", "worker killed"):
            strike(root, struck, BLOWS[name])
        strike(root, struck, press)
        wait_until(lambda: _stage_two_runs(root))
        for name in ("asked to stop", "job killed"):
            strike(root, struck, BLOWS[name])
        strike(root, struck, press)

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    command = ("sweep", sweep, "--root", root, "--on", "slurm", "--profile", profile, *RUN)
    first = main(*command)
    assert first.code == 0, first.err
    thread.join(60)
    assert {"PREEMPTED", "REQUEUED", "COMPLETED"} <= history(root)
    assert len(struck) >= 4
    assert main("sweep", sweep, "--root", local, "--on", "local", "--workers", 2, *RUN).code == 0
    assert science(root) == science(local)
    for more in (("text",), ("csv",), ("text", "--details"), ("text", "--tuning")):
        tables = [
            main("table", sweep, "--root", folder, "--format", *more).out
            for folder in (root, local)
        ]
        assert tables[0] == tables[1]


def _stage_two_runs(root: Path) -> bool:
    """Return whether a cell that tests the best setting has begun."""
    (plan,) = (root / "sweeps").glob("*.json")
    tested = {cell["id"] for cell in json.loads(plan.read_text())["cells"] if not cell["stage"]}
    return any(cell in tested for cell in running(root))


def history(root: Path) -> set[str]:
    """Return the states in which the jobs of a folder have ended, requeued ones included."""
    arrays = sorted(
        {sent.job.split("_")[0] for all_ in Ledger(root).submitted_jobs().values() for sent in all_}
    )
    return {
        line.split(" ")[0]
        for line in output("sacct", "-XDnPo", "State", "-j", ",".join(arrays)).splitlines()
    }


def test_ctrl_c_leaves_the_jobs(cluster, main, tmp_path) -> None:
    """The command prints how to watch the jobs, and `logs` shows their output.

    `cancel` stops them, and the same command continues.
    """
    sweep, root = write_one(tmp_path, seeds="[0, 1]"), tmp_path / "root"
    where, cells = (sweep, "--root", root), {"": {"steps": 60, "seconds": 0.25}}
    profile = write_profile(tmp_path, cells=cells, cells_per_job=2)
    command = ("sweep", *where, "--on", "slurm", "--profile", profile, *RUN, "--unverified")

    def interrupt() -> None:
        wait_until(lambda: running(root))
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # the tests may run with SIGINT ignored (nohup)
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        said = main(*command)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert said.code == 130
    assert "submitted jobs continue; watch them with `vlpeft status" in said.err
    assert {row["state"] for row in json.loads(main("status", *where, "--json").out)} <= {
        "running",
        "pending",
    }
    assert main("cancel", *where).out.startswith("1 jobs cancelled, 0 local launchers interrupted")
    wait_until(lambda: not output("squeue", "-h"))  # saved, and ended
    rows = json.loads(main("status", *where, "--json").out)
    assert {row["state"] for row in rows} == {"missing"}
    assert all("ended as CANCELLED" in row["reason"] for row in rows)
    assert (
        f"=== {rows[0]['id']} starts" in main("logs", sweep, rows[0]["id"][:8], "--root", root).out
    )
    assert (
        main("status", *where, "--watch").out == "2 missing\n"
    )  # and ends, because no other job will come
    assert main(*command).code == 0
    assert all(trace(root, row["id"]) == list(range(1, 61)) for row in rows)
    assert main("status", *where, "--watch").out == "2 done\n"
    assert "nothing to retry" in main("retry", *where, "--failed").err
    wait_until(lambda: not output("squeue", "-h"))
    assert main("cancel", *where).out.startswith("0 jobs cancelled")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that works")
def test_a_broken_gpu_is_reported(cluster, main, tmp_path) -> None:
    """The cluster grants a GPU that cannot compute: the cell fails and does not run on the CPU."""
    sweep, profile = write_one(tmp_path), write_profile(tmp_path, mem_gb=3, gpus=1)
    said = main("sweep", sweep, "--root", tmp_path / "root", "--on", "slurm", "--profile", profile)
    assert said.code == 1
    assert "no CUDA GPU is visible here" in said.err
    (row,) = json.loads(main("status", sweep, "--root", tmp_path / "root", "--json").out)
    assert (row["state"], row["reason"].split(":")[0]) == ("failed", "settings")
    assert records(tmp_path / "root") == {}


def test_jobs_run_the_code_that_was_submitted(cluster, main, tmp_path) -> None:
    """The checkout breaks while the jobs wait; a later launch uses the code of that moment."""
    source, root = tmp_path / "checkout", tmp_path / "root"
    copied = ("vlpeft", *(each for each in codebase.PACKAGES if each != "vlpeft"))
    for name in copied:
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copyfile(
        ROOT / ".gitignore", source / ".gitignore"
    )  # without it, byte code would be new files
    for words in (
        ("init", "-q"),
        ("add", "-A"),
        ("-c", "user.name=a", "-c", "user.email=a@b.example", "commit", "-qm", "all"),
    ):
        output("git", "-C", source, *words)
    sweep = write_one(tmp_path, methods="[bitfit, head_only]")
    profile = write_profile(tmp_path, mem_gb=3, setup=["echo its tools are ready"])
    ids = [row["id"] for row in json.loads(main("plan", sweep, "--json").out)]

    def launch(*more: str) -> str:
        """Run the real command with the code of the checkout."""
        words = ("sweep", sweep, "--root", root, "--on", "slurm", "--profile", profile, *RUN, *more)
        environ = {**environment(), "PYTHONPATH": str(source)}
        done = subprocess.run(
            [COMMAND, *map(str, words)],
            cwd=source,
            env=environ,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    output("scontrol", "update", "partition=main", "state=down")  # the jobs wait
    try:
        launch("--detach")
        (source / "benchmark" / "run" / "runner.py").write_text("raise RuntimeError('edited')\n")
    finally:
        output("scontrol", "update", "partition=main", "state=up")
    wait_until(lambda: len(records(root)) == 2, 150)
    (snapshot,) = (root / "slurm" / "code").iterdir()
    made = records(root)
    head = {"sha": output("git", "-C", source, "rev-parse", "HEAD"), "dirty": False}
    for cell in ids:
        assert (made[cell]["provenance"]["snapshot"], made[cell]["provenance"]["git"]) == (
            snapshot.name,
            head,
        )

    output("git", "-C", source, "checkout", "-q", "--", ".")
    with (source / "benchmark" / "cells" / "provenance.py").open("a") as file:
        file.write("\nPACKAGES = ('numpy',)\n")
    (root / "cells" / ids[0] / "record.json").unlink()
    launch()
    again = records(root)[ids[0]]["provenance"]
    assert set(again["packages"]) == {"vlpeft", "numpy"}
    assert again["git"]["dirty"]
    assert "+PACKAGES = ('numpy',)" in (root / "diffs" / f"{again['git']['diff']}.diff").read_text()
    assert records(root)[ids[1]] == made[ids[1]]
    assert len(list((root / "slurm" / "code").iterdir())) == 2


def test_a_cell_of_two_ranks(cluster, main, tmp_path) -> None:
    """SLURM signals all processes of its job.

    The cell is saved, requeued, and ends with the bits of an undisturbed run.
    """
    recipe = {"protocol": "{lr: 1e-3, steps: 300, batch_size: 5, train_limit: 24, eval_limit: 9}"}
    sweep = write_one(tmp_path, **recipe, methods="[{name: lora, rank: 4, dropout: 0.2}]")
    root, local = tmp_path / "root", tmp_path / "local"
    profile = write_profile(tmp_path, mem_gb=4, cpus=2, ranks=2, signal_seconds=20)

    def announce_the_end() -> None:
        (worker,) = wait_until(lambda: [psutil.Process(pid) for pid in running(root).values()])
        wait_until(
            lambda: [each for each in worker.children(recursive=True) if each.cpu_times().user > 2]
        )
        for each in (worker.parent(), worker, *worker.children(recursive=True)):
            each.send_signal(signal.SIGUSR2)

    thread = threading.Thread(target=announce_the_end)
    thread.start()
    said = main("sweep", sweep, "--root", root, "--on", "slurm", "--profile", profile, *RUN)
    thread.join()
    assert said.code == 0, said.err
    (cell,) = records(root)
    # The sweep ends with the record. The job logs its end after its ranks have ended.
    logs = wait_until(
        lambda: (
            out
            if f"=== {cell} done" in (out := main("logs", sweep, cell, "--root", root).out)
            else ""
        )
    )
    assert f"=== {cell} stopped" in logs
    assert (
        main(
            "sweep", sweep, "--root", local, "--on", "local", "--workers", 1, "--ranks", 2, *RUN
        ).code
        == 0
    )
    assert science(root) == science(local)
    assert {each[cell]["provenance"]["ranks"] for each in (records(root), records(local))} == {2}
