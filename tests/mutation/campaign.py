"""Try mutants in a copy of the repository: one process, forked once per mutant."""

from __future__ import annotations

import compileall
import importlib
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

from tests.mutation.operators import Mutant, list_mutants
from tests.mutation.targets import tests_of

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmark", "baselines", "methods", "results", "slurm", "tests", "vlpeft")
# Imported before the forks, because each takes seconds. Nothing of ours and no plugin of pytest.
LIBRARIES = (
    "torch",
    "torch.distributed",
    "torchvision.transforms.v2",
    "numpy",
    "scipy.stats",
    "pandas",
    "pydantic",
    "ruamel.yaml",
    "sklearn.metrics",
    "datasets",
    "evaluate",
    "timm",
    "open_clip",
    "peft",
    "transformers",
    "transformers.models.bart.modeling_bart",
    "transformers.models.blip.modeling_blip",
    "transformers.models.clip.modeling_clip",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.roberta.modeling_roberta",
    "transformers.models.vit.modeling_vit",
)
SLOWER = 4.0  # a mutant has timed out after this multiple of the time of the unchanged code


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: killed, survived or timed out."""

    mutant: Mutant
    outcome: str
    seconds: float


def copy_repository(folder: Path) -> Path:
    """Copy what the tests read, compiled so that only a changed file is compiled again."""
    tree = folder / "tree"
    tree.mkdir()
    hidden = shutil.ignore_patterns("__pycache__", ".*_cache")
    for path in sorted(REPOSITORY.iterdir()):
        if path.name in FOLDERS or path.name == "docs":
            shutil.copytree(path, tree / path.name, symlinks=True, ignore=hidden)
        elif path.is_file():
            shutil.copy2(path, tree / path.name)
    mode = PycInvalidationMode.CHECKED_HASH
    for name in FOLDERS:
        compileall.compile_dir(tree / name, quiet=2, invalidation_mode=mode)
    return tree


def find_mutants(rooms: Sequence[str]) -> list[Mutant]:
    """Return every mutant of these rooms."""
    return [
        mutant
        for room in rooms
        for path in sorted((REPOSITORY / room).glob("*.py"))
        if tests_of(name := path.relative_to(REPOSITORY).as_posix())
        for mutant in list_mutants(name, path.read_bytes())
    ]


def sample_mutants(rooms: Sequence[str], number: int, seed: int) -> list[Mutant]:
    """Draw about `number` mutants, the same share from each room."""
    chosen = []
    for room in rooms:
        every = find_mutants([room])
        share = min(len(every), round(number / len(rooms)))
        drawn = random.Random(f"{seed} {room}").sample(range(len(every)), share)
        chosen += [every[index] for index in sorted(drawn)]
    return chosen


def room_of(mutant: Mutant) -> str:
    """Return the room of the changed file."""
    return mutant.path.rpartition("/")[0]


def import_libraries() -> None:
    """Import what the tests import, once."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for name in LIBRARIES:
        importlib.import_module(name)


def run_campaign(mutants: Sequence[Mutant], tree: Path) -> Iterator[Verdict]:
    """Yield the verdict about each mutant, after its tests have passed on the unchanged code.

    Raises:
        RuntimeError: if these tests fail on the unchanged code.
    """
    usual: dict[tuple[str, ...], float] = {}
    for mutant in mutants:
        tests = tests_of(mutant.path)
        if tests not in usual:
            usual[tests] = run_unchanged(tree, tests)
        outcome, seconds = run_mutant(tree, mutant, tests, 30 + SLOWER * usual[tests])
        yield Verdict(mutant, outcome, seconds)


def run_mutant(tree: Path, mutant: Mutant, tests: Sequence[str], limit: float) -> tuple[str, float]:
    """Run tests on a mutant; return the outcome and the seconds that it took."""
    path = tree / mutant.path
    source = path.read_bytes()
    path.write_bytes(mutant.apply(source))
    try:
        return run_tests(tree, tests, limit)
    finally:
        path.write_bytes(source)


def run_unchanged(tree: Path, tests: Sequence[str]) -> float:
    """Return the seconds that tests take on the unchanged code, where they must pass."""
    outcome, seconds = run_tests(tree, tests, limit=3600)
    if outcome != "survived":
        log = (tree.parent / "log").read_text(encoding="utf-8")
        raise RuntimeError(f"{' '.join(tests)}: {outcome} without a mutant\n{log[-4000:]}")
    print(f"unchanged: {seconds:.0f} s for {' '.join(tests)}", flush=True)
    return seconds


def run_tests(tree: Path, tests: Sequence[str], limit: float) -> tuple[str, float]:
    """Run tests in a forked process; return the outcome and the seconds that it took."""
    start = time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        _run_as_child(tree, tests)
    os.setpgid(child, child)  # with the processes that it starts
    status = None
    try:
        while status is None and time.monotonic() - start < limit:
            done, code = os.waitpid(child, os.WNOHANG)
            if done:
                status = code
            time.sleep(0.05)
    finally:
        # After its time, or if this process is interrupted.
        if status is None:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if status is None:
        return "timed out", limit
    outcome = "survived" if status == 0 else "killed"
    return outcome, time.monotonic() - start


def _run_as_child(tree: Path, tests: Sequence[str]) -> None:
    """Become a process that runs tests of the copy, and never return."""
    code = 70
    try:
        log = os.open(tree.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        sys.path[:] = [str(tree), *(path for path in sys.path if not _is_ours(path))]
        for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "vlpeft")]:
            del sys.modules[name]
        sys.dont_write_bytecode = True
        import pytest

        options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider"]
        code = pytest.main([*options, f"--basetemp={tree.parent / 'pytest'}", *tests])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(int(code))


def _is_ours(path: str) -> bool:
    return Path(path or ".").resolve() == REPOSITORY
