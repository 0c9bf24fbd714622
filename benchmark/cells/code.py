"""Which code runs: the commit and how the files differ from it, or the snapshot that they were copied to.

A snapshot (`slurm/snapshot.py`) is no git repository: its snapshot.json says what was known where it was made.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from vlpeft.benchmark.cells.records import read_json, write_atomically
from vlpeft.benchmark.core.config import Config, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import REPOSITORY

PACKAGES = (
    "vlpeft",
    "benchmark",
    "baselines",
    "methods",
    "results",
    "slurm",
)  # vlpeft, and what it holds in a wheel
NOTE = "snapshot.json"


@dataclass(frozen=True)
class Code(Config):
    """State of the packages. `sha` is "" outside a checkout; `dirty`: a file of the packages differs from it, or is new.

    `diff` names the difference, which `keep_diff` leaves in a result folder; `snapshot` is the folder's name in one.
    """

    version: str
    sha: str = ""
    dirty: bool = False
    diff: str = ""
    snapshot: str = ""

    def git(self) -> dict[str, str | bool]:
        """What a record says of it; empty outside a checkout."""
        if not self.sha:
            return {}
        return {"sha": self.sha, "dirty": self.dirty, **({"diff": self.diff} if self.dirty else {})}


@functools.cache
def code(folder: Path = REPOSITORY) -> Code:
    """The state of the packages in `folder` when a process first asks: what is edited later, it does not run."""
    noted = read_json(folder / NOTE)
    if noted is not None:
        return parse(Code, {**noted, "snapshot": folder.name}, str(folder / NOTE))
    diff = _difference(folder)
    return Code(version("vlpeft"), commit(folder), bool(diff), _name(diff))


def keep_diff(root: Path, folder: Path = REPOSITORY) -> None:
    """Leave the difference that `code` names as ROOT/diffs/NAME.diff; where a snapshot runs, it was left when that was made."""
    if code(folder).snapshot or not (diff := _difference(folder)):
        return
    write_atomically(root / "diffs" / f"{_name(diff)}.diff", diff, exclusive=True)


def commit(folder: Path) -> str:
    """HEAD of the checkout that the packages are part of; "" where git does not know them: a virtual environment in one, say."""
    try:
        known = _git(folder, "ls-files", "--", f"{PACKAGES[0]}/__init__.py")
        return _git(folder, "rev-parse", "HEAD").decode().strip() if known else ""
    except (FileNotFoundError, UserError):  # no git, no repository, or one without a commit
        return ""


def files(folder: Path) -> list[str]:
    """The packages' files, relative to `folder`, sorted: in a checkout those that git does not ignore, else all but byte code.

    They are named as they are imported, vlpeft/benchmark/..., which in a checkout leads through the links in vlpeft/.
    """
    if commit(folder):
        listed = _git(
            folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES
        )
        known = (
            name for name in os.fsdecode(listed).split("\0") if (folder / name).is_file()
        )  # no links, no deleted files
        return sorted({name if name.startswith("vlpeft/") else f"vlpeft/{name}" for name in known})
    vlpeft = folder / "vlpeft"
    inside = (path for package in PACKAGES[1:] for path in (vlpeft / package).rglob("*"))
    found = (
        path
        for path in (*vlpeft.glob("*"), *inside)
        if path.is_file() and "__pycache__" not in path.parts
    )
    return sorted(path.relative_to(folder).as_posix() for path in found)


@functools.cache
def _difference(folder: Path) -> bytes:
    """From the commit to the packages' files, new ones included, as `git apply` reads it; empty where there is none."""
    if not commit(folder):
        return b""
    where = _git(folder, "rev-parse", "--git-path", "index", "--git-path", "objects")
    index, objects = (
        folder / path for path in os.fsdecode(where).splitlines()
    )  # relative or absolute
    with (
        tempfile.TemporaryDirectory() as temporary
    ):  # new files are added to an index of our own: nothing of the user's changes
        own = {"GIT_INDEX_FILE": f"{temporary}/index", "GIT_OBJECT_DIRECTORY": temporary}
        own["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = str(objects)
        shutil.copyfile(index, own["GIT_INDEX_FILE"])
        _git(folder, "add", "--intent-to-add", "--", *PACKAGES, environment=own)
        options = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv")
        return _git(folder, "diff", *options, "HEAD", "--", *PACKAGES, environment=own)


def _name(diff: bytes) -> str:
    return hashlib.sha256(diff).hexdigest()[:12] if diff else ""


def _git(folder: Path, *words: str, environment: Mapping[str, str] | None = None) -> bytes:
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(
        command, capture_output=True, check=False, env={**os.environ, **(environment or {})}
    )
    if done.returncode:
        raise UserError(
            f"`{' '.join(command)}` failed: {' '.join(done.stderr.decode(errors='replace').split())}"
        )
    return done.stdout
