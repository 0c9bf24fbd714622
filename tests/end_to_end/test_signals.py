"""Launchers that are ended by signals, closed terminals and SIGKILL leave no process behind.

`python -m tests.fuzz.signals` does the same at many random moments.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.conftest import COMMAND, RUN, cells, environment, main, write_one
from tests.processes import Started, wait_until
from vlpeft.benchmark.cells.records import Store

__all__ = ["main"]
LONG = "{lr: 1e-3, steps: 1000000, batch_size: 4, train_limit: 8, eval_limit: 4}"
LEFT_SECONDS = 15


def trains(root: Path) -> bool:
    """Return whether a cell has begun to train."""
    files = list(root.glob("cells/*/progress.json"))
    return any(json.loads(file.read_text())["phase"] == "train" for file in files)


def start(folder: Path, way: str, *, terminal: bool = False, **variables: str) -> Started:
    """Start a sweep of one long cell, and return once it trains."""
    path, root = write_one(folder, protocol=LONG), folder / "root"
    command = (COMMAND, "sweep", str(path), "--root", str(root), "--on", way)
    command = (*command, "--checkpoint-seconds", "1e6", *RUN)
    if way == "local":
        command = (*command, "--workers", "1")
    started = Started(command, folder / "log", {**environment(), **variables}, terminal=terminal)
    if not wait_until(lambda: trains(root) or started.process.poll() is not None, 180):
        started.clean_up()
    assert started.process.poll() is None, (folder / "log").read_text()
    return started


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        ("local", "SIGTERM"),
        ("local", "group SIGTERM"),
        ("local", "SIGHUP"),
        ("local", "terminal"),
        ("local", "SIGKILL"),
        ("inline", "SIGTERM"),
        ("inline", "terminal"),
    ],
)
def test_the_end_of_a_launcher_ends_its_workers(tmp_path, way, kind) -> None:
    """Long before a checkpoint is due, the cell is saved, and its lock is free."""
    started = start(tmp_path, way, terminal=kind == "terminal")
    try:
        started.end(kind)
        assert started.is_gone_within(LEFT_SECONDS), started.left()
        if kind not in ("terminal", "SIGKILL"):
            assert started.process.wait() == 130
    finally:
        started.clean_up()
    (folder,) = cells(tmp_path / "root")
    assert {file.name for file in folder.iterdir()} == {"cell.json", "checkpoint.pt", "lock"}
    assert not Store(tmp_path / "root").is_held(folder.name)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_an_ignored_hangup_stays_ignored_and_a_suspended_worker_ends(tmp_path) -> None:
    """As under nohup. Then the worker is suspended, and its launcher killed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    path, root = write_one(tmp_path, protocol=LONG), tmp_path / "root"
    command = [COMMAND, "sweep", str(path), "--root", str(root), "--workers", "1", *RUN]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(), start_new_session=True
        )
    signal.signal(signal.SIGHUP, before)
    try:
        assert wait_until(lambda: trains(root) or process.poll() is not None, 180)
        os.killpg(process.pid, signal.SIGHUP)
        assert not wait_until(lambda: process.poll() is not None, 2)
        (worker,) = psutil.Process(process.pid).children()
        assert worker.is_running()
        worker.suspend()
        process.kill()
        process.wait()
        psutil.wait_procs([worker], timeout=LEFT_SECONDS)
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    finally:
        for each in psutil.process_iter():
            if each.pid != os.getpid() and os.getsid(each.pid) == process.pid:
                each.kill()
        process.wait()


def test_cancel_ends_a_worker_without_a_launcher(tmp_path, main) -> None:
    """A process that holds a cell is found by the cell, not by its parent."""
    path, root = write_one(tmp_path, protocol=LONG), tmp_path / "root"
    code = (
        "import sys; from pathlib import Path; from vlpeft.benchmark.launch import worker\n"
        "from vlpeft.benchmark.launch.local_worker import LocalPolicy\n"
        "from vlpeft.benchmark.run.runtime import Runtime\n"
        "from vlpeft.benchmark.cells.records import Store\n"
        "root = Path(sys.argv[1]); stop = worker.StopSignal()\n"
        "runtime = Runtime(device='cpu', threads=1)\n"
        "worker.run_cells(sys.argv[2:], root, runtime, LocalPolicy(Store(root)), stop)\n"
    )
    made = json.loads(main("plan", path, "--json").out)
    assert main("status", path, "--root", root).code == 2
    from vlpeft.benchmark.plan.check import plan, save_plan
    from vlpeft.benchmark.plan.sweep import SweepHandle

    save_plan(plan(SweepHandle(str(path)), need_data=True), root)
    command = (sys.executable, "-c", code, str(root), made[0]["id"])
    started = Started(command, tmp_path / "log", environment(), terminal=False)
    try:
        assert wait_until(lambda: trains(root) or started.process.poll() is not None, 180)
        said = main("cancel", path, "--root", root).out
        assert said.startswith(
            "0 jobs cancelled, 0 local launchers interrupted, "
            "1 processes without a launcher stopped; "
        )
        assert started.is_gone_within(LEFT_SECONDS)
    finally:
        started.clean_up()
    assert (cells(root)[0] / "checkpoint.pt").exists()


def test_a_worker_that_dies_before_its_first_cell_says_why(tmp_path, main, monkeypatch) -> None:
    """The message, `status` and `logs` have the cause."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'vlpeft.benchmark.launch.local_worker' in sys.orig_argv:\n"
        "    print('libexample.so.1: cannot open shared object file', file=sys.stderr)\n"
        "    sys.stderr.flush()\n"
        "    os._exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    path, root = write_one(tmp_path, seeds="[0, 1]"), tmp_path / "root"
    found = main("sweep", path, "--root", root, "--workers", 1, *RUN)
    assert found.code == 1
    (log,) = root.glob("jobs/*/*/1_log.err")
    cause = (
        f"worker failed: its worker ended with exit code 3; {log} ends: "
        "libexample.so.1: cannot open shared object file"
    )
    assert f"vlpeft: failed: 2 cells: {cause}" in found.lines
    cell = cells(root)[0].name
    assert f"--> {log}\nlibexample.so.1: cannot" in main("logs", path, cell, "--root", root).out
    states = json.loads(main("status", path, "--root", root, "--json").out)
    assert {(each["state"], each["reason"]) for each in states} == {("failed", cause)}
