"""Records are written once and completely, by any process and even if it is killed.

A file that is not a valid record is refused by name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from vlpeft.benchmark.cells.records import Record, Store, read_record
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import to_json, write_atomically
from vlpeft.benchmark.plan.check import plan, save_plan
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.run.runner import run_cell
from vlpeft.benchmark.run.runtime import Runtime

SWEEP = """
protocol:
  {steps: 2, batch_size: 4, lr: 1e-3, train_limit: 8, eval_limit: 4, metrics: [vqa_accuracy]}
tasks: [{task: vqa, dataset: ./scenes.yaml}]
backbones: [{name: vit_roberta, text: tiny, vision: tiny}]
methods: [lora]
"""
SCENES = "{format: shapes, root: '', train_scenes: 20, val_scenes: 1, test_scenes: 20}\n"
PUBLISH = """
import sys, time
from pathlib import Path
from vlpeft.benchmark.cells.records import Record, Store

root, who, go = sys.argv[1:]
curve = [(i, float(who)) for i in range(5000)]
metrics = {"who": float(who)}
record = Record(id="cell", cell={}, metrics=metrics, cost={}, curve=curve, provenance={})
print("ready", flush=True)
while not Path(go).exists():
    time.sleep(0.001)
print(Store(Path(root)).publish(record), flush=True)
"""
# A child writes records and one file repeatedly. Its parent kills it at a random moment, many
# times.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from vlpeft.benchmark.cells.records import Record, Store
from vlpeft.benchmark.core.files import write_atomically

root = Path(sys.argv[1])
moments = random.Random(0)
SIZE = 4_000_000
for round in range(30):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b".")
        for i in range(1000):
            curve = [(j, 0.1 * j) for j in range(4000)]
            id = f"{round:02}-{i:03}"
            record = Record(id=id, cell={}, metrics={}, cost={}, curve=curve, provenance={})
            Store(root).publish(record)
            for letter in b"abcde":
                write_atomically(root / "state", bytes([letter]) * SIZE)
        os._exit(0)
    os.read(reading, 1)
    time.sleep(moments.uniform(0, 0.12))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    state = (root / "state").read_bytes() if (root / "state").exists() else b""
    assert len(set(state)) <= 1 and len(state) in (0, SIZE), "half of one write, half of another"
    for left in root.glob(".state.*"):
        left.unlink()
"""
RUN = """
import sys
from pathlib import Path
from vlpeft.benchmark.run.runtime import Runtime
from vlpeft.benchmark.run.runner import run_cell

print("ready", flush=True)
sys.stdin.readline()
print(run_cell(sys.argv[2], Path(sys.argv[1]), Runtime(device="cpu", threads=1)))
"""


def record(name: str = "cell", **changes: Any) -> Record:
    values = {
        "id": name,
        "cell": {"seed": 0},
        "metrics": {"a": 1.5},
        "cost": {},
        "curve": [(1, 0.5)],
        "provenance": {},
    }
    return Record(**{**values, **changes})


def launch(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not store.has_record("cell")
    written = record(
        metrics={"a": 1.5, "b": {"absent": "no Java"}}, files={"predictions.jsonl": "0" * 64}
    )
    assert store.publish(written)
    assert store.has_record("cell")
    assert store.record("cell") == written
    assert list(store.records()) == [written]


def test_a_second_record_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.publish(record())
    before = (store.folder("cell") / "record.json").read_bytes()
    assert not store.publish(record(metrics={"a": 2.0}))
    assert (store.folder("cell") / "record.json").read_bytes() == before
    assert [path.name for path in store.folder("cell").iterdir()] == ["record.json"], (
        "a temporary file is left"
    )


def test_of_many_writers_exactly_one_wins(tmp_path: Path) -> None:
    root, go = tmp_path / "root", tmp_path / "go"
    writers = [launch(PUBLISH, root, who, go) for who in range(5)]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 5
    go.touch()
    answers = [writer.communicate(timeout=60)[0].strip() for writer in writers]
    assert sorted(answers) == ["False"] * 4 + ["True"]
    found = Store(root).record("cell")
    winner = float(answers.index("True"))
    assert found.metrics == {"who": winner}
    assert found.curve == [(i, winner) for i in range(5000)]


def test_a_killed_writer_leaves_a_record_absent_or_complete(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = list(Store(tmp_path).records())  # reads and checks every record
    assert found  # the number depends on the machine; none would mean that nothing was ever written
    assert all(len(r.curve) == 4000 for r in found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable record"),
        (to_json({"id": "cell"})[:-8], "not a readable record"),
        (b"\xff\xfe", "not a readable record"),
        (b"[1, 2]", "record schema list"),
        (b"{}", "record schema None"),
        (to_json({"schema": 99, "id": "cell"}), "record schema 99, this version reads 1"),
        (to_json({"schema": 1, "id": "cell"}), "is required"),
    ],
)
def test_a_damaged_or_foreign_record_is_refused_by_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "cells" / "cell" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        Store(tmp_path).record("cell")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.publish(record())
    path = store.folder("cell") / "record.json"
    whole = path.read_bytes()
    for length in range(len(whole) - 1):  # the last byte is the newline
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="not a readable record"):
            read_record(path)


def test_unknown_keys_and_wrong_types_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells" / "cell" / "record.json"
    Store(tmp_path).publish(record())
    values = json.loads(path.read_text())
    for change, message in (
        ({"metric": {}}, "unknown key 'metric'"),
        ({"metrics": {"a": "high"}}, "metrics"),
    ):
        path.write_bytes(to_json({**values, **change}))
        with pytest.raises(UserError, match=message) as caught:
            read_record(path)
        assert str(path) in str(caught.value)


def test_a_record_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.publish(record())
    store.folder("cell").rename(store.folder("other"))
    with pytest.raises(
        UserError,
        match=r"other/record\.json: holds the record of cell cell; move it to cells/cell/",
    ):
        store.record("other")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*record\.json.*choose a writable --root"):
        Store(tmp_path).publish(record())


def test_writing_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    assert write_atomically(path, b"one")
    assert write_atomically(path, b"two")
    assert not write_atomically(path, b"three", exclusive=True)
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


# Two workers on one cell.


@pytest.fixture
def cell(tmp_path: Path) -> str:
    (tmp_path / "scenes.yaml").write_text(SCENES)
    (tmp_path / "one.yaml").write_text(SWEEP)
    planned = plan(SweepHandle(str(tmp_path / "one.yaml")), need_data=True)
    save_plan(planned, tmp_path)
    return planned.runnable()[0].id


def test_of_two_workers_one_runs_the_cell(cell: str, tmp_path: Path) -> None:
    workers = [launch(RUN, tmp_path, cell) for _ in range(2)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 2
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    outcomes = sorted(worker.communicate(timeout=120)[0].strip() for worker in workers)
    assert outcomes in (["done", "running elsewhere"], ["already done", "done"])
    assert Store(tmp_path).record(cell).cost["steps"] == 2


def test_a_held_cell_runs_elsewhere_and_a_finished_one_is_done(cell: str, tmp_path: Path) -> None:
    inner: list[str] = []

    def meanwhile(phase: str, step: int, total: int) -> None:
        if (phase, step) == ("train", 1):
            inner.append(run_cell(cell, tmp_path, Runtime(device="cpu")))
            assert Store(tmp_path).is_held(cell)

    assert run_cell(cell, tmp_path, Runtime(device="cpu", threads=1), meanwhile) == "done"
    assert inner == ["running elsewhere"]
    assert not Store(tmp_path).is_held(cell)
    assert run_cell(cell, tmp_path, Runtime(device="cpu")) == "already done"


def test_reading_the_state_of_a_cell_does_not_block_a_worker(cell: str, tmp_path: Path) -> None:
    """`is_held` takes the lock for a moment.

    A worker that starts then must wait for it instead of leaving the cell undone.
    """
    looking, looked = threading.Event(), threading.Event()

    def look() -> None:
        with FileLock(Store(tmp_path).folder(cell) / "lock", timeout=0):
            looking.set()
            looked.wait(0.1)

    watcher = threading.Thread(target=look)
    watcher.start()
    looking.wait()
    try:
        assert run_cell(cell, tmp_path, Runtime(device="cpu", threads=1)) == "done"
    finally:
        watcher.join()
