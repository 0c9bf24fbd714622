"""A real SLURM cluster on this machine for the tests marked `slurm`; where there can be none, they are skipped and say why."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "slurm" / "dev_cluster.sh"
NODES = 4


def dev_cluster(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="session")
def cluster():
    """Four nodes. A cluster that was up before is used and left up."""
    possible = dev_cluster("possible")
    if possible.returncode:
        pytest.skip(f"no SLURM cluster can be made here: {possible.stdout.strip()}")
    said = dev_cluster("up", NODES)
    assert said.returncode == 0, said.stderr
    yield
    if "already up" not in said.stdout:
        dev_cluster("down")


def output(*command: object) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=True).stdout.strip()
