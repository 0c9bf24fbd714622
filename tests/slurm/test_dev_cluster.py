"""The cluster that the other tests run on is a real one: it schedules, accounts, and is not brought up twice."""

import time

import pytest

from tests.slurm.conftest import NODES, dev_cluster, output

pytestmark = pytest.mark.slurm


def test_up_again_changes_nothing(cluster) -> None:
    before = output("scontrol", "show", "config").split("BOOT_TIME", 1)[1].splitlines()[0]
    said = dev_cluster("up", NODES)
    assert said.returncode == 0, said.stderr
    assert f"already up with {NODES} nodes" in said.stdout
    assert output("scontrol", "show", "config").split("BOOT_TIME", 1)[1].splitlines()[0] == before


def test_what_jobs_leave_is_accounted(cluster) -> None:
    job = output("sbatch", "--parsable", "--wait", "--output=/dev/null", "--wrap", "hostname")
    end = time.monotonic() + 20
    while (state := output("sacct", "-XnPo", "State", "-j", job)) != "COMPLETED":
        assert time.monotonic() < end, state


def test_misuse_is_told(cluster) -> None:
    said = dev_cluster("up", "many")
    assert said.returncode == 1
    assert "'many' is no number of nodes" in said.stderr
    assert dev_cluster("sideways").returncode == 2
