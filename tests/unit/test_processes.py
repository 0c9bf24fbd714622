"""How programs end."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time
from vlpeft.benchmark.core.processes import QuickExit

class Left:
    def __del__(self):
        print("freed")

left = Left()

def wait():
    time.sleep(0.2)
    print("thread")

with QuickExit():
    atexit.register(lambda: print("at exit"))
    threading.Thread(target=wait).start()
    print("unflushed", end=" ")
    sys.exit(CODE)
"""


@pytest.mark.parametrize(("given", "code"), [("3", 3), ("0", 0), ("None", 0)])
def test_a_quick_exit_frees_nothing_and_forgets_nothing(given: str, code: int) -> None:
    done = run(PROGRAM.replace("CODE", given))
    assert (done.returncode, done.stdout) == (code, "unflushed thread\nat exit\n")
    assert done.stderr == ""


def test_other_ends_are_as_always() -> None:
    done = run(PROGRAM.replace("CODE", "'a message'"))
    assert (done.returncode, done.stderr) == (1, "a message\n")
    assert done.stdout.endswith("freed\n")
    done = run(PROGRAM.replace("sys.exit(CODE)", "1 / 0"))
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_output_that_cannot_be_written_sets_the_exit_code() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("CODE", "0")],
        stdout=writer,
        stderr=subprocess.DEVNULL,
        env=buffered(),
        check=False,
    )
    os.close(writer)
    assert done.returncode == 120


def test_full_exits_can_be_asked_for() -> None:
    variables = {**buffered(), "VLPEFT_SLOW_EXIT": "1"}
    command = [sys.executable, "-c", PROGRAM.replace("CODE", "3")]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 3
    assert done.stdout.endswith("freed\n")


@pytest.mark.parametrize("module", ["cli.main", "launch.local_worker", "launch.worker"])
def test_no_import_of_a_program_registers_an_end(module: str) -> None:
    """Functions of `atexit` that are registered before the context would not run."""
    code = f"import sys, vlpeft.benchmark.{module}; print('multiprocessing.util' in sys.modules)"
    assert run(code).stdout == "False\n"


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=buffered(),
        check=False,
    )


def buffered() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
