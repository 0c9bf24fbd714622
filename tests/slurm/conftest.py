"""A real SLURM cluster on this machine for the tests marked `slurm`.

On a machine that cannot have one, the tests are skipped with the reason.
"""

import json
import shlex
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from tests.disk import disk
from tests.end_to_end.conftest import main, write_one
from vlpeft.slurm import supervise
from vlpeft.slurm.ledger import Ledger

__all__ = ["disk", "main"]
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "slurm" / "dev_cluster.sh"
FAKE = Path(__file__).resolve().parent / "fake"
NODES = 4
CANNOT = 3  # exit code of dev_cluster.sh if packages cannot be fetched


def dev_cluster(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=900, check=False
    )


@pytest.fixture(scope="session")
def cluster():
    """Start four nodes. A cluster that was up before is used and stays up."""
    possible = dev_cluster("possible")
    if possible.returncode:
        pytest.skip(f"no SLURM cluster can be made here: {possible.stdout.strip()}")
    with FileLock(
        "/var/tmp/vlpeft-cluster-tests.lock"
    ):  # our failures must not disturb the tests of another checkout
        said = dev_cluster("up", NODES)
        if said.returncode == CANNOT:
            pytest.skip(f"no SLURM cluster can be made here: {said.stderr.strip()}")
        assert said.returncode == 0, said.stderr
        yield
        if "already up" not in said.stdout:
            dev_cluster("down")


def output(*command: object) -> str:
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch) -> None:
    monkeypatch.setattr(supervise, "POLL_SECONDS", 1.0)


def write_profile(
    folder: Path, *, cells: dict | None = None, name: str = "profile.yaml", **settings: object
) -> Path:
    """Write a profile whose jobs import this code; `cells` replaces their cells by fake ones."""
    search = f"{FAKE}:{ROOT}" if cells is not None else str(ROOT)
    setup = [f"export PYTHONPATH={search} HF_HUB_OFFLINE=1"]
    if cells is not None:
        setup.append(f"export FAKE_CELLS={shlex.quote(json.dumps(cells))}")
    path = folder / name
    path.write_text(
        json.dumps({"time": 10, "mem_gb": 1, "array_parallelism": 16, "setup": setup, **settings})
    )  # JSON is YAML
    return path


def write_fake_sweep(folder: Path, cells: int) -> Path:
    """Write a sweep of so many cells that are quick to plan."""
    return write_one(folder, seeds=str(list(range(cells))))


def wait_until(what, seconds: float = 180.0):
    """Return the first true value of `what`."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    return found


def trace(root: Path, cell: str) -> list[int]:
    """Return the steps that a fake cell has recorded."""
    return [int(line) for line in (root / "cells" / cell / "trace").read_text().split()]


def running(root: Path) -> dict[str, int]:
    """Return the running cells with the process ids of their workers."""
    found = {}
    for path in root.glob("cells/*/progress.json"):
        with suppress(FileNotFoundError):
            pid = json.loads(path.read_text())["pid"]
            if psutil.pid_exists(pid):
                found[path.parent.name] = pid
    return found


def job_of(root: Path, cell: str) -> str:
    """Return the last job of a cell."""
    return Ledger(root).submitted_jobs()[cell][-1].job


def strike(root: Path, struck: set[str], blow) -> None:
    """Call `blow(job, process id of its worker)` on a running job that was not struck before.

    A job that ends at that moment is skipped, and so is one for which `blow` returns False.
    """

    def hit() -> bool:
        for cell, pid in running(root).items():
            job = job_of(root, cell)
            if job not in struck:
                with suppress(subprocess.CalledProcessError, psutil.NoSuchProcess):
                    if blow(job, pid) is False:
                        continue
                    struck.add(job)
                    return True
                struck.add(job)
        return False

    wait_until(hit)


def processes(name: str) -> list[psutil.Process]:
    """Return the processes whose command line starts with this text: SLURM's daemons."""
    return [
        p
        for p in psutil.process_iter(["cmdline"])
        if " ".join(p.info["cmdline"] or []).startswith(name)
    ]


HUNG: set[str] = (
    set()
)  # nodes with a job that must run out of time: failures of a whole node spare them


def let_time_out(job: str, pid: int) -> None:
    """Let the job hang and ignore every warning, until its time limit of one minute."""
    HUNG.add(node_of(job))
    output("scontrol", "update", f"job={job}", "TimeLimit=1")
    hanging = (psutil.Process(pid).parent(), psutil.Process(pid))

    def hold() -> None:  # SLURM wakes a stopped job before it ends it
        with suppress(psutil.NoSuchProcess):
            while True:
                for process in hanging:
                    process.suspend()
                time.sleep(0.05)

    threading.Thread(target=hold, daemon=True).start()


def press(job: str, _: int) -> bool:
    """Submit a more urgent job that wants the node."""
    node = node_of(job)
    if node in HUNG:
        return False
    output(
        "sbatch",
        "-p",
        "urgent",
        "--exclusive",
        "-w",
        node,
        "-t",
        1,
        "--output=/dev/null",
        "--wrap",
        "sleep 1",
    )
    return True


def crash_node(job: str, pid: int) -> bool:
    """Kill every process of the job and of SLURM on its node, mark the node down, and restart it.

    SLURM would mark it down without help, but the delay depends on the load of the machine.
    """
    node, number = node_of(job), output("squeue", "-h", "-j", job, "-o", "%A")
    if node in HUNG:
        return False
    doomed = [
        *processes(f"slurmd -N {node} "),
        *processes(f"slurmstepd: [{number}."),
        psutil.Process(pid).parent(),
        psutil.Process(pid),
    ]
    for process in doomed:
        process.kill()
    output("scontrol", "update", f"nodename={node}", "state=down", "reason=crashed")
    subprocess.run(["slurmd", "-N", node, "-c"], check=True)
    output("scontrol", "update", f"nodename={node}", "state=resume")
    return True


def node_of(job: str) -> str:
    return output("squeue", "-h", "-j", job, "-o", "%N")


BLOWS = {
    # Like slurmstepd, signal every process of the job. `scancel --signal` retries for half a minute
    # if a job has just begun.
    "asked to stop": lambda _, pid: [
        p.send_signal(signal.SIGUSR2) for p in (psutil.Process(pid).parent(), psutil.Process(pid))
    ],
    "requeued": lambda job, _: output("scontrol", "requeue", job),
    "worker killed": lambda _, pid: psutil.Process(pid).kill(),
    "job killed": lambda _, pid: psutil.Process(pid).parent().kill(),
    "cancelled": lambda job, _: output("scancel", job),
}
HARDER = {"out of time": let_time_out, **BLOWS, "preempted": press, "node crashed": crash_node}
