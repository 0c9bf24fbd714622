"""The code at the time of a submission, copied to ROOT/slurm/code/<hash>.

Edits made while jobs wait do not reach them.

submitit's RsyncSnapshot does not fit: it needs a repository (a wheel has none) and rsync. It leaves
out new files, copies everything again for each launch, and leaves a torn folder if it is killed.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vlpeft.benchmark.cells import code as codebase
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import to_json
from vlpeft.benchmark.core.registry import REPOSITORY


@dataclass(frozen=True)
class Snapshot:
    """The packages' files, path -> content, and snapshot.json, which holds their commit.

    For checkouts, editable installs and wheels alike, the folders are copied that the packages are
    imported from.
    """

    files: Mapping[str, bytes]

    @classmethod
    def take(cls, folder: Path = REPOSITORY) -> Snapshot:
        """Read the files, so that a launch which submits again days later sends the same code."""
        found = {name: (folder / name).read_bytes() for name in codebase.files(folder)}
        about = dump(codebase.code(folder))
        del about["snapshot"]  # where this code is itself a snapshot
        return cls({**found, codebase.NOTE: to_json(about)})

    @cached_property
    def name(self) -> str:
        """The hash of the content: the same code is copied once."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()[:16]

    def setup(self, folder: Path) -> list[str]:
        """Return the lines of shell that make a job import from the copy in `folder`."""
        path = shlex.quote(str(folder / self.name))
        return [
            f"export PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}}",
            # `python -m` would search the current folder first, which is often the checkout.
            "export PYTHONSAFEPATH=1",
        ]

    def write(self, folder: Path) -> None:
        """Make the copy folder/NAME unless it exists. Hold the ledger's lock meanwhile.

        Raises UserError if it cannot be written, or was changed since.
        """
        target = folder / self.name
        try:
            if target.exists():
                self._check(target)
            else:
                self._make(folder, target)
        except OSError as error:
            raise UserError(
                f"cannot write {target}: {error.strerror}; choose a writable --root with free space"
            ) from error

    def _make(self, folder: Path, target: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob(".*"):  # left by a launch that was killed
            shutil.rmtree(torn)
        with tempfile.TemporaryDirectory(
            dir=folder, prefix=".", ignore_cleanup_errors=True
        ) as temporary:
            copy = Path(temporary) / self.name
            for name, content in self.files.items():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(content)
            copy.replace(target)

    def _check(self, target: Path) -> None:
        for name, content in self.files.items():
            path = target / name
            if not path.is_file() or path.read_bytes() != content:
                raise UserError(
                    f"{path} was changed after it was copied; when no job needs {target} "
                    "any more, remove it and run again"
                )
