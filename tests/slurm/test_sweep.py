"""Real cells on a disturbed cluster: the same command again finishes the sweep, and its tables are those of a local run."""

import json
import os
import signal
import threading

import psutil
import pytest
import torch

from tests.end_to_end.conftest import RUN, records, science, write_one, write_sweep
from tests.slurm.conftest import BLOWS, output, running, strike, wait_until, write_profile

pytestmark = pytest.mark.slurm
SEEDS = "seeds: [0, 1, 2, 3, 4, 5]"
CELLS = 42


def test_a_disturbed_sweep_gives_the_same_table(cluster, main, tmp_path) -> None:
    sweep, profile = write_sweep(tmp_path, steps=6), write_profile(tmp_path, cells_per_job=6, mem_gb=3, signal_seconds=20)
    sweep.write_text(sweep.read_text().replace("seeds: [0, 1]", SEEDS))
    root, local = tmp_path / "root", tmp_path / "local"
    done: list[str] = []

    def disturb() -> None:
        struck: set[str] = set()
        for blow in BLOWS.values():
            strike(root, struck, blow)
        done.append("all")

    thread = threading.Thread(target=disturb)
    thread.start()
    command = ("sweep", sweep, "--root", root, "--on", "slurm", "--profile", profile, *RUN)
    first = main(*command)
    thread.join()
    assert done
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


def test_ctrl_c_leaves_the_jobs(cluster, main, tmp_path) -> None:
    """The command says how to watch them; `logs` shows what they say, `cancel` stops them, `retry` goes on."""
    sweep = write_sweep(tmp_path, steps=6)
    sweep.write_text(sweep.read_text().replace("seeds: [0, 1]", "seeds: [0]").split("methods:")[0] + "methods: [{name: lora, rank: 4}]\n")
    where = (sweep, "--root", tmp_path / "root")
    profile = write_profile(tmp_path, mem_gb=3, cells_per_job=2)
    command = ("sweep", *where, "--on", "slurm", "--profile", profile, *RUN)

    def interrupt() -> None:
        wait_until(lambda: running(tmp_path / "root"))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    said = main(*command)
    thread.join()
    assert said.code == 130
    assert "jobs that are submitted go on; watch them with `vlpeft status" in said.err
    assert main("cancel", *where).out.startswith("1 jobs cancelled, 0 local launchers interrupted")
    wait_until(lambda: not output("squeue", "-h"))  # saved, and gone
    rows = json.loads(main("status", *where, "--json").out)
    waiting = [row for row in rows if row["state"] == "pending"]
    assert waiting
    assert all("ended as CANCELLED" in row["reason"] for row in waiting)
    first = next(row["id"] for row in rows if row["state"] != "skipped")
    assert f"=== {first} starts" in main("logs", sweep, first[:8], "--root", tmp_path / "root").out
    assert main(*command).code == 0
    watched = main("status", *where, "--watch")
    assert watched.out.splitlines()[-1].startswith("2 done")
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


def test_a_cell_of_two_ranks(cluster, main, tmp_path) -> None:
    """SLURM signals all processes of its job: the cell is saved, requeued, and ends with the bits of an undisturbed run."""
    recipe = {"protocol": "{lr: 1e-3, steps: 300, batch_size: 5, train_limit: 24, eval_limit: 9}"}
    sweep = write_one(tmp_path, **recipe, methods="[{name: lora, rank: 4, dropout: 0.2}]")
    root, local = tmp_path / "root", tmp_path / "local"
    profile = write_profile(tmp_path, mem_gb=4, cpus=2, ranks=2, signal_seconds=20)

    def announce_the_end() -> None:
        (worker,) = wait_until(lambda: [psutil.Process(pid) for pid in running(root).values()])
        wait_until(lambda: [each for each in worker.children(recursive=True) if each.cpu_times().user > 2])
        for each in (worker.parent(), worker, *worker.children(recursive=True)):
            each.send_signal(signal.SIGUSR2)

    thread = threading.Thread(target=announce_the_end)
    thread.start()
    said = main("sweep", sweep, "--root", root, "--on", "slurm", "--profile", profile, *RUN)
    thread.join()
    assert said.code == 0, said.err
    (cell,) = records(root)
    logs = main("logs", sweep, cell, "--root", root).out
    assert f"=== {cell} stopped" in logs
    assert f"=== {cell} done" in logs
    assert main("sweep", sweep, "--root", local, "--on", "local", "--workers", 1, "--ranks", 2, *RUN).code == 0
    assert science(root) == science(local)
    assert {each[cell]["provenance"]["ranks"] for each in (records(root), records(local))} == {2}
