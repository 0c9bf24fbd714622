"""Which code runs: a commit and how the files differ from it, or a snapshot.

A snapshot (`slurm/snapshot.py`) is a copy without a git repository. Its snapshot.json holds
what was known about the code where it was copied.
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

from vlpeft.benchmark.core.config import Config, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import read_json, write_atomically
from vlpeft.benchmark.core.registry import REPOSITORY

# The package vlpeft, and the folders that it holds in a wheel.
PACKAGES = ("vlpeft", "benchmark", "baselines", "methods", "results", "slurm")
NOTE = "snapshot.json"
# Endings of new files that belong to the code. Others may be data, keys or passwords (`.env`).
SOURCES = (".py", ".pyi", ".yaml", ".yml", ".sh", ".j2", ".css", ".js")


@dataclass(frozen=True)
class Code(Config):
    """The state of the packages.

    Attributes:
        version: The version of vlpeft.
        sha: The commit; "" outside a checkout.
        dirty: True if a file of the packages differs from the commit, or is new.
        diff: The name of the difference, which `keep_diff` writes to a result folder.
        snapshot: The name of the snapshot's folder; "" if this is not one.
    """

    version: str
    sha: str = ""
    dirty: bool = False
    diff: str = ""
    snapshot: str = ""

    def git(self) -> dict[str, str | bool]:
        """Return what a record holds about the commit; empty outside a checkout."""
        if not self.sha:
            return {}
        noted: dict[str, str | bool] = {"sha": self.sha, "dirty": self.dirty}
        if self.dirty:
            noted["diff"] = self.diff
        return noted


@functools.cache
def code(folder: Path = REPOSITORY) -> Code:
    """Return the state of the packages in `folder` when a process first asks.

    A process does not run what is edited later, so the answer is cached.
    """
    noted = read_json(folder / NOTE)
    if noted is not None:
        return parse(Code, {**noted, "snapshot": folder.name}, str(folder / NOTE))
    diff = _difference(folder)
    return Code(version("vlpeft"), commit(folder), bool(diff), _name(diff))


def keep_diff(root: Path, folder: Path = REPOSITORY) -> None:
    """Write the difference that `code` names to ROOT/diffs/NAME.diff.

    For a snapshot nothing is written: that was done when the snapshot was made.
    """
    if code(folder).snapshot:
        return
    diff = _difference(folder)
    if diff:
        write_atomically(root / "diffs" / f"{_name(diff)}.diff", diff, exclusive=True)


def commit(folder: Path) -> str:
    """Return HEAD of the checkout that the packages are part of.

    Return "" if git does not track them, for instance in a virtual environment inside another
    checkout.
    """
    try:
        if not _git(folder, "ls-files", "--", f"{PACKAGES[0]}/__init__.py"):
            return ""
        return _git(folder, "rev-parse", "HEAD").decode().strip()
    except (FileNotFoundError, UserError):  # no git, no repository, or one without a commit
        return ""


def files(folder: Path) -> list[str]:
    """Return the packages' files, relative to `folder` and sorted.

    In a checkout these are tracked files and new sources, elsewhere all but byte code. They
    are named as they are imported, vlpeft/benchmark/..., which in a checkout leads through the
    links in vlpeft/.
    """
    if commit(folder):
        return _tracked_files(folder)
    vlpeft = folder / "vlpeft"
    found = list(vlpeft.glob("*"))
    for package in PACKAGES[1:]:
        found += (vlpeft / package).rglob("*")
    named = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    return sorted(path.relative_to(folder).as_posix() for path in named)


def _tracked_files(folder: Path) -> list[str]:
    """Return the files of a checkout that git tracks, and its new sources."""
    names = [*_list_files(folder, "--cached"), *_new_sources(folder)]
    # Anything else is a link to a folder, or was deleted.
    return sorted({_import_path(name) for name in names if (folder / name).is_file()})


def _new_sources(folder: Path) -> list[str]:
    """Return the sources that git neither tracks nor ignores.

    Other new files are not copied: what a result folder holds is shared and published.
    """
    new = _list_files(folder, "--others", "--exclude-standard")
    return [name for name in new if _is_source(name)]


def _is_source(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return name.endswith(SOURCES) and not hidden


def _list_files(folder: Path, *options: str) -> list[str]:
    """Return files of the packages in a checkout, as `git ls-files` lists them."""
    listed = os.fsdecode(_git(folder, "ls-files", "-z", *options, "--", *PACKAGES))
    return [name for name in listed.split("\0") if name]


def _import_path(name: str) -> str:
    """Return the path that a file of a checkout is imported by."""
    if name.startswith("vlpeft/"):
        return name
    return f"vlpeft/{name}"


@functools.cache
def _difference(folder: Path) -> bytes:
    """Return how the packages differ from the commit, new sources included; empty if they do not.

    The format is the one that `git apply` reads.
    """
    if not commit(folder):
        return b""
    where = _git(folder, "rev-parse", "--git-path", "index", "--git-path", "objects")
    # The paths may be relative to the folder, or absolute.
    index, objects = (folder / path for path in os.fsdecode(where).splitlines())
    # New files are added to a copy of the index, so the user's own repository stays as it is.
    with tempfile.TemporaryDirectory() as temporary:
        own = {
            "GIT_INDEX_FILE": f"{temporary}/index",
            "GIT_OBJECT_DIRECTORY": temporary,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects),
        }
        shutil.copyfile(index, own["GIT_INDEX_FILE"])
        new = Path(temporary) / "new"
        new.write_bytes(b"\0".join(map(os.fsencode, _new_sources(folder))))
        listed = (f"--pathspec-from-file={new}", "--pathspec-file-nul")
        # Git must not read names as patterns: a file may be called `*.py`.
        _git(folder, "--literal-pathspecs", "add", "--intent-to-add", *listed, environment=own)
        options = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv")
        return _git(folder, "diff", *options, "HEAD", "--", *PACKAGES, environment=own)


def _name(diff: bytes) -> str:
    """Return the name of a difference, a hash of its content; "" for none."""
    if not diff:
        return ""
    return hashlib.sha256(diff).hexdigest()[:12]


def _git(folder: Path, *words: str, environment: Mapping[str, str] | None = None) -> bytes:
    """Run a git command in `folder` and return its output. Raises UserError if it fails."""
    command = ["git", "-C", str(folder), *words]
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(command, capture_output=True, check=False, env=variables)
    if done.returncode:
        message = " ".join(done.stderr.decode(errors="replace").split())
        raise UserError(f"`{' '.join(command)}` failed: {message}")
    return done.stdout
