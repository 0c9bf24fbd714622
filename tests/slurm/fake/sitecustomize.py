"""Replaces `vlpeft.benchmark.run.runner` in workers whose PYTHONPATH starts here.

Cells then take time but do no work. FAKE_CELLS is JSON: {prefix of an id: {steps, seconds (of a
step), does}}, where "" matches all others. Every step adds a line to ROOT/cells/<id>/trace, so that
tests see repeated steps. Every fifth step is saved.
"""

import json
import os
import signal
import sys
import time
import types
from dataclasses import dataclass

CHECKPOINT_STEPS = 5


class Stopped(BaseException):
    pass


@dataclass(frozen=True)
class Runtime:
    device: str
    threads: int
    micro_batch: int | None
    eval_batch: int | None
    checkpoint_seconds: float
    compile: bool
    ranks: int
    verified: bool = False


def behaviour(cell_id):
    behaviours = json.loads(os.environ["FAKE_CELLS"])
    for key in sorted(behaviours, reverse=True):
        if cell_id.startswith(key):
            return behaviours[key]
    return {}


def run_cell(cell_id, root, runtime, progress=None, asked=lambda: False, begin=lambda: True):
    from filelock import FileLock, Timeout

    from vlpeft.benchmark.cells.records import Store

    store = Store(root)
    try:
        with FileLock(store.folder(cell_id) / "lock", timeout=0.5):
            if store.has_record(cell_id):
                return "already done"
            if not begin():
                return "left alone"
            attempt(
                store,
                cell_id,
                asked,
                **{"steps": 5, "seconds": 0.1, "does": "", **behaviour(cell_id)},
            )
    except Timeout:
        return "running elsewhere"
    return "done"


def attempt(store, cell_id, asked, steps, seconds, does):
    from vlpeft.benchmark.cells.records import Record
    from vlpeft.benchmark.core.errors import disk_trouble
    from vlpeft.benchmark.core.files import read_json, to_json, write_atomically

    folder = store.folder(cell_id)
    saved = folder / "checkpoint.pt"
    step = int(saved.read_text()) if saved.exists() else 0
    try:
        while step < steps:
            time.sleep(seconds)
            step += 1
            with (folder / "trace").open("a") as file:
                file.write(f"{step}\n")
            where = {
                "phase": "train",
                "step": step,
                "total": steps,
                "updated": time.time(),
                "pid": os.getpid(),
            }
            write_atomically(folder / "progress.json", to_json(where))
            misbehave(does, store.root)
            stop = asked() and does != "deaf"
            if stop or step % CHECKPOINT_STEPS == 0:
                write_atomically(saved, str(step).encode())
            if stop:
                raise Stopped
    except Exception as error:
        store.write_failure(
            cell_id,
            {
                "cause": disk_trouble(error) or type(error).__name__,
                "message": str(error),
                "user": False,
            },
        )
        raise
    finally:
        (folder / "progress.json").unlink(missing_ok=True)
    cost = dict.fromkeys(
        (
            "trainable",
            "head",
            "vision",
            "total",
            "steps",
            "train_seconds",
            "step_ms",
            "peak_memory_mb",
        ),
        1.0,
    )
    metrics = {"vqa_accuracy": int(cell_id, 16) % 1000 / 10}
    cell = read_json(folder / "cell.json")
    plan = read_json(next(store.root.glob("sweeps/*.json")))
    data = next(planned["data"] for planned in plan["cells"] if planned["id"] == cell_id)
    store.publish(
        Record(
            id=cell_id, cell=cell, metrics=metrics, cost=cost, curve=[], provenance={"data": data}
        )
    )
    saved.unlink(missing_ok=True)


def misbehave(does, root):
    if does == "fill":
        with (root.parent / "ballast").open("ab", buffering=0) as file:
            while file.write(bytes(2**12)):  # until the disk is full
                pass
    if does == "raise":
        raise RuntimeError("as the test asked")
    if does == "segfault":
        print("about to crash", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if does == "eat":
        kept = bytearray(2**30)
        kept[:: 2**12] = b"x" * 2**18  # touch the memory, so that it counts
        time.sleep(30)


def ignore_warnings():
    """Let a job whose cell does "unwarned", and its worker, ignore that time is nearly over."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    handle = signal.signal

    def handle_others(number, handler):
        if number == signal.SIGUSR2:
            return signal.SIG_IGN
        return handle(number, handler)

    signal.signal = handle_others


IN_JOBS = ("submitit.core._submit", "vlpeft.benchmark.launch.worker")
if set(IN_JOBS) & set(sys.orig_argv) and behaviour("").get("does") == "unwarned":
    ignore_warnings()

if sys.orig_argv[2:4] == ["-m", "vlpeft.benchmark.launch.worker"] or sys.orig_argv[1:3] == [
    "-m",
    "vlpeft.benchmark.launch.worker",
]:
    fake = types.ModuleType("vlpeft.benchmark.run.runner")
    fake.Stopped, fake.run_cell = Stopped, run_cell
    sys.modules["vlpeft.benchmark.run.runner"] = fake
    settings = types.ModuleType("vlpeft.benchmark.run.runtime")
    settings.Runtime = Runtime
    sys.modules["vlpeft.benchmark.run.runtime"] = settings
