"""The code as it is when jobs are submitted, copied to ROOT/slurm/code/<hash>: what is edited while they wait does not reach them.

Not submitit's RsyncSnapshot: it clones the whole repository and rsyncs what is checked in, so that it needs a repository
(a wheel has none) and rsync, leaves new files out, and copies everything again for each launch, into a folder that a
launch which is killed leaves half made.
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
from vlpeft.benchmark.cells.records import to_json
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import REPOSITORY


@dataclass(frozen=True)
class Snapshot:
    """The packages' files, path -> content, with snapshot.json, which tells their commit.

    One rule for checkouts, editable installs and wheels: the folders that the packages are imported from are copied.
    """

    files: Mapping[str, bytes]

    @classmethod
    def take(cls, folder: Path = REPOSITORY) -> Snapshot:
        """Read them. A launch that submits again, days later, still has the code that it began with."""
        found = {name: (folder / name).read_bytes() for name in codebase.files(folder)}
        about = dump(codebase.code(folder))
        del about["snapshot"]  # of the snapshot that this one is taken from, if it is
        return cls({**found, codebase.NOTE: to_json(about)})

    @cached_property
    def name(self) -> str:
        """Hash of the content: the same code is copied once."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()[:16]

    def setup(self, folder: Path) -> list[str]:
        """Lines of shell that make a job import from the copy in `folder`, and not from where it was submitted."""
        return [
            f"export PYTHONPATH={shlex.quote(str(folder / self.name))}${{PYTHONPATH:+:$PYTHONPATH}}",
            "export PYTHONSAFEPATH=1  # `python -m` would look into the current folder first: the checkout, often",
        ]

    def write(self, folder: Path) -> None:
        """Make the copy folder/NAME unless it is there. Raises UserError where it cannot be written or was changed.

        Nobody else may be writing into `folder`: hold the ledger's lock.
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
        for torn in folder.glob(".*"):  # what a killed launch has left
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
                    f"{path} is not what was copied there; when no job needs it any more, remove {target} and run again"
                )
