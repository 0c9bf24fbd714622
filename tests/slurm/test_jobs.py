"""The life of jobs on a real cluster: killed, cancelled, requeued or out of time.

Their cells take time but do no work.
"""

import json
import subprocess
import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.end_to_end.conftest import leftovers, records, start_vlpeft
from tests.slurm.conftest import (
    BLOWS,
    job_of,
    output,
    processes,
    running,
    strike,
    trace,
    wait_until,
    write_fake_sweep,
    write_profile,
)
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.launch.tries import LIMIT
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results.status import add_cluster_notes, has_begun, status
from vlpeft.slurm.ledger import Ledger
from vlpeft.slurm.states import notes

pytestmark = pytest.mark.slurm
# fake cells compute nothing that needs verification
FAKE = ("--on", "slurm", "--device", "cpu", "--unverified")


@pytest.fixture
def launch(cluster, main, tmp_path):
    """Run `vlpeft sweep --on slurm` with fake cells, and `meanwhile` at the same time."""

    def call(
        *more: object,
        number: int = 4,
        cells: dict | None = None,
        meanwhile=None,
        root: Path = tmp_path / "root",
        **settings: object,
    ) -> SimpleNamespace:
        sweep, profile = (
            write_fake_sweep(tmp_path, number),
            write_profile(tmp_path, cells=cells or {}, **settings),
        )
        failed: list[BaseException] = []

        def run_with() -> None:
            try:
                meanwhile()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run_with if meanwhile else lambda: None)
        thread.start()
        said = main("sweep", sweep, "--root", root, "--profile", profile, *FAKE, *more)
        thread.join()
        assert not failed, failed
        return said

    return call


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "root"


def failures(root: Path) -> dict[str, dict]:
    return {
        path.parent.name: json.loads(path.read_text()) for path in root.glob("cells/*/failure.json")
    }


def sbatches(root: Path) -> int:
    return len(list(root.glob("slurm/*/submission.json")))


def test_cells_run_once(launch, root) -> None:
    said = launch(number=9, cells_per_job=2)
    assert said.code == 0, said.err
    assert len(records(root)) == 9
    assert all(trace(root, cell) == [1, 2, 3, 4, 5] for cell in records(root))
    assert sbatches(root) == 1
    assert leftovers(root / "cells") == []
    assert launch(number=9).lines == [
        "one: 9 cells, 9 done before, 0 to run; 0 skipped (see `vlpeft plan`)"
    ]


def test_a_failing_cell_blocks_no_other_cell(launch, root, main, tmp_path) -> None:
    """One cell raises, one kills its process; both share one job with others."""
    rows = json.loads(main("plan", write_fake_sweep(tmp_path, 6), "--json").out)
    raising, crashing = rows[0]["id"], rows[2]["id"]
    said = launch(
        number=6,
        cells={raising: {"does": "raise"}, crashing: {"does": "segfault"}},
        cells_per_job=6,
    )
    assert said.code == 1
    assert len(records(root)) == 4
    assert failures(root)[raising]["cause"] == "RuntimeError"
    assert failures(root)[crashing]["cause"] == "killed"
    assert (
        f"killed by SIGSEGV, {LIMIT} times without getting further"
        in failures(root)[crashing]["message"]
    )
    assert "about to crash | " in failures(root)[crashing]["message"]
    assert len(trace(root, raising)) == 1
    assert len(trace(root, crashing)) == LIMIT
    assert sum(line.startswith("vlpeft: failed:") for line in said.lines) == 2
    states = {
        row["id"]: row
        for row in json.loads(main("status", tmp_path / "one.yaml", "--root", root, "--json").out)
    }
    assert states[crashing]["state"] == "failed"
    assert states[crashing]["reason"].startswith("killed: killed by SIGSEGV")


def test_cells_of_a_job_run_at_once(launch, root, main, tmp_path) -> None:
    """Three cells run at a time in one job, and one crashes without the others.

    When the job is asked to stop, each cell is saved, and continues in the requeued job.
    """
    rows = json.loads(main("plan", write_fake_sweep(tmp_path, 6), "--json").out)
    crashing = rows[1]["id"]
    seen: list[int] = []

    def stop() -> None:
        seen.append(len(wait_until(lambda: (found := running(root)) and len(found) >= 2 and found)))
        strike(root, set(), BLOWS["asked to stop"])

    cells = {"": {"steps": 20, "seconds": 0.3}, crashing: {"does": "segfault"}}
    said = launch(
        number=6,
        cells=cells,
        cells_per_job=6,
        cells_at_once=3,
        cpus=3,
        signal_seconds=20,
        meanwhile=stop,
    )
    assert said.code == 1
    assert seen[0] >= 2
    assert {cell: failure["cause"] for cell, failure in failures(root).items()} == {
        crashing: "killed"
    }
    assert len(records(root)) == 5
    assert all(
        trace(root, cell) == list(range(1, 21)) for cell in records(root)
    )  # all were saved at the step at which they were stopped
    assert sbatches(root) == 1


def test_disturbed_cells_end_well(launch, root) -> None:
    """Forty cells on four nodes: jobs are stopped, requeued and killed, and a node crashes."""

    def disturb() -> None:
        struck: set[str] = set()
        for name, blow in BLOWS.items():
            if name != "cancelled":
                strike(root, struck, blow)
        kill_node("n2")

    said = launch(
        number=40,
        cells={"": {"steps": 12, "seconds": 0.25}},
        cells_per_job=2,
        signal_seconds=10,
        array_parallelism=5,
        meanwhile=disturb,
    )
    assert said.code == 0, said.err
    assert len(records(root)) == 40
    for cell in records(root):
        steps = trace(root, cell)
        assert steps[-1] == 12
        assert sorted(set(steps)) == list(range(1, 13))
        assert all(after <= before + 1 for before, after in pairwise(steps))  # no step is missing
    assert leftovers(root / "cells") == []
    assert not list(root.glob("cells/*/tries.json"))


def kill_node(node: str) -> None:
    """Kill a slurmd and restart it."""
    here = processes(f"slurmd -N {node} ")
    assert here
    for each in here:
        each.kill()
    wait_until(
        lambda: (
            not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in here)
        )
    )
    subprocess.run(["slurmd", "-N", node, "-c"], check=True)


def test_out_of_time(launch, root, tmp_path) -> None:
    """Of two cells that exceed the time limit, one is requeued and one killed and resubmitted.

    No step is lost.
    """
    slow, killed = {"": {"steps": 95, "seconds": 1.0}}, tmp_path / "killed"
    unwarned = {
        "number": 1,
        "cells": {"": {**slow[""], "does": "unwarned"}},
        "time": 1,
        "signal_seconds": 1,
        "root": killed,
    }
    assert launch("--detach", **unwarned).code == 0
    said = launch(number=1, cells=slow, time=1, signal_seconds=20)
    assert said.code == 0, said.err
    said = launch(**unwarned)
    assert said.code == 0, said.err
    for each in (root, killed):
        (cell,) = records(each)
        assert trace(each, cell) == list(range(1, 96))
    assert (sbatches(root), sbatches(killed)) == (1, 2)


def test_cancelled_jobs_are_not_tried_again(launch, root) -> None:
    def cancel() -> None:
        cell = wait_until(lambda: next(iter(running(root)), None))
        output("scancel", job_of(root, cell))

    slow = {"": {"steps": 15, "seconds": 0.3}}
    said = launch(cells=slow, meanwhile=cancel)
    assert said.code == 1
    ((cell, failure),) = failures(root).items()
    assert failure["cause"] == "cancelled"
    assert sbatches(root) == 1
    assert len(records(root)) == 3
    before = trace(root, cell)
    assert launch(cells=slow).code == 0  # the same command again
    assert trace(root, cell) == [
        *before,
        *range(before[-1] + 1, 16),
    ]  # it was saved when it was cancelled


def test_refused_requeueing(launch, root) -> None:
    """If jobs may not be requeued, the launcher resubmits them; the cell continues at its step."""

    def stop() -> None:
        cell = wait_until(lambda: next(iter(running(root)), None))
        output("scancel", "--signal=USR2", job_of(root, cell))

    said = launch(
        number=1, cells={"": {"steps": 20, "seconds": 0.2}}, requeue=False, meanwhile=stop
    )
    assert said.code == 0, said.err
    (cell,) = records(root)
    assert trace(root, cell) == list(range(1, 21))
    assert sbatches(root) == 2


@pytest.mark.parametrize("partition", ["preemptible", "cancelling"])
def test_preempted(launch, root, tmp_path, partition) -> None:
    """A more urgent job takes the node: SLURM requeues the job, or cancels it for good."""

    def press() -> None:
        wait_until(lambda: running(root))
        urgent = output(
            "sbatch",
            "-p",
            "urgent",
            "--parsable",
            "--exclusive",
            "-N",
            4,
            "-t",
            1,
            "--output=/dev/null",
            "--wrap",
            "sleep 15",
        )
        wait_until(lambda: output("squeue", "-h", "-j", urgent, "-t", "RUNNING"))
        wait_until(look)
        output("scancel", urgent)

    def look() -> bool:
        plan, store = SweepHandle(str(tmp_path / "one.yaml"), root=root).read_plan(), Store(root)
        cells = status(plan, store)
        found = add_cluster_notes(
            cells,
            notes(
                root, [cell.id for cell in cells], [cell.id for cell in cells if has_begun(cell)]
            ),
        )
        seen.update(cell.state for cell in found)
        return "preempted" in seen

    seen: set[str] = set()
    said = launch(
        number=2, cells={"": {"steps": 40, "seconds": 0.25}}, partition=partition, meanwhile=press
    )
    assert said.code == 0, said.err
    assert len(records(root)) == 2
    for cell in records(root):
        steps = trace(root, cell)
        assert sorted(set(steps)) == list(range(1, 41))
        assert all(after <= before + 1 for before, after in pairwise(steps))  # no step is missing
    assert (sbatches(root) > 1) == (partition == "cancelling")
    assert "preempted" in seen


def test_out_of_memory(launch, root) -> None:
    said = launch(number=1, cells={"": {"does": "eat"}}, mem_gb=0.5)
    assert said.code == 1
    ((cell, failure),) = failures(root).items()
    assert failure["cause"] == "out of memory"  # SLURM itself reports FAILED
    assert 1 < len(trace(root, cell)) <= LIMIT + 1


def test_jobs_that_cannot_start(launch, root) -> None:
    said = launch(number=2, python="/nowhere/python", cells_per_job=2)
    assert said.code == 1
    causes = {failure["cause"] for failure in failures(root).values()}
    assert causes == {"job failed"}
    assert "/nowhere/python" in next(iter(failures(root).values()))["message"]
    assert "FAILED, exit code" in said.err


def test_submissions_that_slurm_refuses(launch, root) -> None:
    for settings, word in (
        ({"partition": "nowhere"}, "invalid partition"),
        ({"sbatch": {"gpus-per-node": 99}}, "not available"),
    ):
        said = launch(number=1, **settings)
        assert said.code == 2
        assert said.lines[-1].startswith("vlpeft: error: SLURM refuses the jobs: ")
        assert word in said.lines[-1]
    assert sbatches(root) == 0


def test_a_full_disk(launch, disk, main, tmp_path) -> None:
    """Full at submission: the launch fails with one line. Filled by a cell: the cause is reported.

    With free space again the same command finishes.
    """
    root = disk.path / "root"
    disk.fill()
    refused = launch(number=4, root=root)
    assert refused.code == 2
    assert "No space left on device; choose a writable --root with free space" in refused.lines[-1]
    disk.free()
    rows = json.loads(main("plan", tmp_path / "one.yaml", "--json").out)
    said = launch(number=4, cells={rows[1]["id"]: {"does": "fill"}}, root=root)
    assert said.code in (1, 2)
    assert "disk full" in said.err or "No space left on device" in said.err
    wait_until(
        lambda: not output("squeue", "-h")
    )  # the launcher itself may be the first that finds the disk full
    states = {
        row["id"]: row
        for row in json.loads(main("status", tmp_path / "one.yaml", "--root", root, "--json").out)
    }
    assert states[rows[1]["id"]]["reason"].startswith("disk full: ")
    disk.free()
    again = launch(number=4, root=root)
    assert again.code == 0, again.err
    assert len(records(root)) == 4


def test_two_launchers_started_at_once_run_each_cell_once(cluster, root, tmp_path) -> None:
    """Both processes together submit each cell once, and both end well."""
    sweep = write_fake_sweep(tmp_path, 12)
    profile = write_profile(tmp_path, cells={"": {"steps": 10, "seconds": 0.2}}, cells_per_job=2)
    command = ("sweep", sweep, "--root", root, "--profile", profile, *FAKE)
    logs = [tmp_path / name for name in ("a", "b")]
    both = [start_vlpeft(*command, log=log) for log in logs]
    codes = [process.wait(timeout=300) for process in both]
    assert codes == [0, 0], [log.read_text() for log in logs]
    sent = Ledger(root).submitted_jobs()
    assert len(sent) == 12
    assert all(len(jobs) == 1 for jobs in sent.values())
    assert all(trace(root, cell) == list(range(1, 11)) for cell in records(root))
    assert len(records(root)) == 12


def test_two_launchers_submit_each_cell_once(launch, root, main) -> None:
    slow = {"": {"steps": 20, "seconds": 0.2}}
    assert launch("--detach", number=6, cells=slow).code == 0
    said = launch(number=6, cells=slow)
    assert said.code == 0, said.err
    assert said.lines[1] == "0 cells submitted, 6 were in the queue"
    assert all(trace(root, cell) == list(range(1, 21)) for cell in records(root))
    assert len(records(root)) == 6
