"""The test cluster is real: it schedules, accounts, and does not start twice."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.slurm.conftest import NODES, dev_cluster, output, processes

pytestmark = pytest.mark.slurm


def test_up_again_changes_nothing(cluster) -> None:
    before = output("scontrol", "show", "config").split("BOOT_TIME", 1)[1].splitlines()[0]
    said = dev_cluster("up", NODES)
    assert said.returncode == 0, said.stderr
    assert f"already up with {NODES} nodes" in said.stdout
    assert output("scontrol", "show", "config").split("BOOT_TIME", 1)[1].splitlines()[0] == before


def test_up_from_a_half_dead_cluster(cluster) -> None:
    """An interrupted run leaves some daemons and wrong pid files, which `up` removes.

    Processes of others keep running.
    """
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        for each in (*processes("slurmctld"), *processes("slurmd -N n2 ")):
            each.kill()
        run = Path("/var/tmp/vlpeft-cluster/run")
        (run / "slurmd.n3.pid").unlink()  # its process keeps running
        (run / "slurmctld.pid").write_text(f"{bystander.pid}\n")
        before = {p.pid for p in processes("slurmd -N n3 ")}
        said = dev_cluster("up", NODES)
        assert said.returncode == 0, said.stderr
        assert f"up with {NODES} nodes" in said.stdout
        assert "already" not in said.stdout
        assert bystander.poll() is None
        assert before
        assert not before & {p.pid for p in processes("slurmd -N n3 ")}
    finally:
        bystander.kill()
        bystander.wait()


def test_jobs_are_accounted(cluster) -> None:
    job = output("sbatch", "--parsable", "--wait", "--output=/dev/null", "--wrap", "hostname")
    end = time.monotonic() + 20
    while (state := output("sacct", "-XnPo", "State", "-j", job)) != "COMPLETED":
        assert time.monotonic() < end, state


def test_misuse_is_reported(cluster) -> None:
    said = dev_cluster("up", "many")
    assert said.returncode == 1
    assert "'many' is not a number of nodes" in said.stderr
    assert dev_cluster("sideways").returncode == 2
