"""A user's files may have the name of any module: nothing is imported from the current folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import RUN, environment, write_one
from vlpeft.benchmark.core.registry import REPOSITORY

OWN = (
    "results.py",
    "benchmark.py",
    "slurm.py",
    "methods/__init__.py",
    "baselines/__init__.py",
    "re.py",
    "json.py",
    "torch.py",
)
# as pip writes the `vlpeft` command
SCRIPT = """import sys
from vlpeft.benchmark.cli.main import main
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """Make a folder of a user with files of their own, and the command next to it."""
    made = tmp_path / "project"
    for name in OWN:
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise RuntimeError('{name} was imported')\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "vlpeft").write_text(SCRIPT)
    write_one(made, name="mine.yaml")
    return made


def vlpeft(folder: Path, *words: object) -> str:
    """Return what the command prints in that folder."""
    variables = {key: value for key, value in environment().items() if key != "PYTHONSAFEPATH"} | {
        "PYTHONPATH": str(REPOSITORY)
    }
    command = [sys.executable, str(folder.parent / "bin" / "vlpeft"), *map(str, words)]
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "was imported" not in done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "way",
    [("--on", "inline"), ("--on", "local", "--workers", 1), ("--on", "inline", "--ranks", 2)],
    ids=str,
)
def test_a_sweep_next_to_a_users_own_modules(folder, way) -> None:
    assert vlpeft(folder, "plan", "mine.yaml")
    vlpeft(folder, "sweep", "mine.yaml", "--root", "out", *way, *RUN)
    assert list(folder.glob("out/cells/*/record.json"))
    assert vlpeft(folder, "table", "mine.yaml", "--root", "out")
    vlpeft(folder, "report", "mine.yaml", "--root", "out", "--out", "page")
    assert list(folder.glob("page/*.html"))


def test_as_a_module(folder) -> None:
    """`python -m vlpeft` removes the current folder, which Python put on the path.

    Python itself imports `re` before that, so no project can help a user with a file re.py here.
    """
    (folder / "re.py").unlink()
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "vlpeft", "list", "methods"],
        cwd=folder,
        env=variables,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", [False, True])
def test_a_current_folder_that_was_deleted_is_one_line(folder, script) -> None:
    start = [str(folder.parent / "bin" / "vlpeft")] if script else ["-m", "vlpeft"]
    gone = folder.parent / "gone"
    gone.mkdir()
    command = [sys.executable, *start, "plan", "quickstart"]
    done = subprocess.run(
        ["bash", "-c", 'rmdir "$PWD" && exec "$0" "$@"', *command],
        cwd=gone,
        env={**environment(), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "vlpeft: error: the current folder was deleted; change to another folder\n"
    )
