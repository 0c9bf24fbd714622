"""Real cells on a disturbed cluster: the same command again finishes the sweep, and its tables are those of a local run."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from slurm.ledger import Ledger
from tests.end_to_end.conftest import RUN, records, science, write_one, write_sweep
from tests.slurm.conftest import HARDER, HUNG, output, running, strike, trace, wait_until, write_profile

pytestmark = pytest.mark.slurm
SEEDS = "seeds: [0, 1, 2, 3, 4, 5]"
CELLS = 42


def test_a_disturbed_sweep_gives_the_same_table(cluster, main, tmp_path) -> None:
    """A job hangs until its time is over; others are asked to stop, requeued, killed, cancelled, pre-empted; a node crashes."""
    sweep = write_sweep(tmp_path, steps=6)
    profile = write_profile(tmp_path, partition="preemptible", cells_per_job=3, cpus=2, mem_gb=3, signal_seconds=20, array_parallelism=5)
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
    assert history(root) >= {"TIMEOUT", "CANCELLED", "PREEMPTED", "NODE_FAIL", "REQUEUED", "COMPLETED"}
    assert first.code == 1
    assert "cancelled" in first.err
    assert 0 < len(records(root)) < CELLS
    cancelled = [row for row in json.loads(main("status", sweep, "--root", root, "--json").out) if row["state"] == "failed"]
    assert {row["reason"].split(":")[0] for row in cancelled} == {"cancelled"}

    again = main(*command)
    assert again.code == 0, again.err
    assert len(records(root)) == CELLS
    assert main("sweep", sweep, "--root", local, "--on", "local", "--workers", 2, *RUN).code == 0
    assert science(root) == science(local)
    for more in (("text",), ("md",), ("latex",), ("csv",), ("json",), ("text", "--details")):
        tables = [main("table", sweep, "--root", folder, "--format", *more).out for folder in (root, local)]
        assert tables[0] == tables[1]


def history(root: Path) -> set[str]:
    """In which states jobs of a folder have ended, also those that were requeued."""
    arrays = sorted({sent.job.split("_")[0] for all_ in Ledger(root).sent().values() for sent in all_})
    return {line.split(" ")[0] for line in output("sacct", "-XDnPo", "State", "-j", ",".join(arrays)).splitlines()}


def test_ctrl_c_leaves_the_jobs(cluster, main, tmp_path) -> None:
    """The command says how to watch them; `logs` shows what they say, `cancel` stops them, the same command goes on."""
    sweep, root = write_one(tmp_path, seeds="[0, 1]"), tmp_path / "root"
    where, cells = (sweep, "--root", root), {"": {"steps": 60, "seconds": 0.25}}
    command = ("sweep", *where, "--on", "slurm", "--profile", write_profile(tmp_path, cells=cells, cells_per_job=2), *RUN)

    def interrupt() -> None:
        wait_until(lambda: running(root))
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run unheard (nohup)
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        said = main(*command)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert said.code == 130
    assert "jobs that are submitted go on; watch them with `vlpeft status" in said.err
    assert {row["state"] for row in json.loads(main("status", *where, "--json").out)} <= {"running", "pending"}
    assert main("cancel", *where).out.startswith("1 jobs cancelled, 0 local launchers interrupted")
    wait_until(lambda: not output("squeue", "-h"))  # saved, and gone
    rows = json.loads(main("status", *where, "--json").out)
    assert {row["state"] for row in rows} == {"missing"}
    assert all("ended as CANCELLED" in row["reason"] for row in rows)
    assert f"=== {rows[0]['id']} starts" in main("logs", sweep, rows[0]["id"][:8], "--root", root).out
    assert main("status", *where, "--watch").out == "2 missing\n"  # and ends, since nothing comes by itself
    assert main(*command).code == 0
    assert all(trace(root, row["id"]) == list(range(1, 61)) for row in rows)
    assert main("status", *where, "--watch").out == "2 done\n"
    assert "nothing to retry" in main("retry", *where, "--failed").err
    wait_until(lambda: not output("squeue", "-h"))
    assert main("cancel", *where).out.startswith("0 jobs cancelled")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that works")
def test_a_gpu_that_does_not_work_is_told(cluster, main, tmp_path) -> None:
    """The cluster gives out a GPU, which nothing can compute on: the cell fails and says so, and does not run on the CPU."""
    sweep, profile = write_one(tmp_path), write_profile(tmp_path, mem_gb=3, gpus=1)
    said = main("sweep", sweep, "--root", tmp_path / "root", "--on", "slurm", "--profile", profile)
    assert said.code == 1
    assert "no CUDA GPU is visible here" in said.err
    (row,) = json.loads(main("status", sweep, "--root", tmp_path / "root", "--json").out)
    assert (row["state"], row["reason"].split(":")[0]) == ("failed", "settings")
    assert records(tmp_path / "root") == {}
