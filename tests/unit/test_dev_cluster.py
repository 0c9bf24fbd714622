"""The parts of slurm/dev_cluster.sh that need no cluster."""

import os
import subprocess

from vlpeft.benchmark.core.registry import REPOSITORY

TAKE_OUT = """eval "$(sed -n '/^close_others() /,/^}/p' slurm/dev_cluster.sh)"
(close_others; echo /proc/$BASHPID/fd/*)"""


def test_daemons_inherit_nothing_of_the_caller() -> None:
    read, write = os.pipe()
    more = os.dup2(write, 77)
    said = subprocess.run(
        ["bash", "-euc", TAKE_OUT],
        cwd=REPOSITORY,
        pass_fds=(write, more),
        capture_output=True,
        text=True,
        check=True,
    )
    for each in (read, write, more):
        os.close(each)
    open_ = {int(path.rpartition("/")[2]) for path in said.stdout.split()}
    assert open_ <= {0, 1, 2, 3}  # 3 is the descriptor of the listed folder
    assert open_ >= {0, 1, 2}
    assert said.stderr == ""
