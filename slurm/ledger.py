"""What was submitted from a result folder.

ROOT/slurm/<submission>/ holds submission.json next to submitit's scripts, pickles and logs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from vlpeft.benchmark.core.config import Config, dump, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import read_json, to_json, write_atomically, write_errors


@dataclass(frozen=True)
class Submission(Config):
    """One call of sbatch: a job, or an array of jobs.

    cells: the cells of each job.
    """

    job: str
    cells: tuple[tuple[str, ...], ...]

    def jobs(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield each job's id and its cells."""
        if len(self.cells) == 1:
            yield self.job, self.cells[0]
            return
        for index, cells in enumerate(self.cells):
            yield f"{self.job}_{index}", cells


class Sent(NamedTuple):
    """A job that holds a cell, and the path of its log."""

    job: str
    log: Path


@dataclass(frozen=True)
class Ledger:
    """All submissions of a result folder."""

    root: Path

    @property
    def folder(self) -> Path:
        """ROOT/slurm."""
        return self.root / "slurm"

    def lock(self) -> FileLock:
        """Return the lock to hold while deciding what to submit, and submitting it.

        Of two launchers, the second one then sees what the first has submitted.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write {self.folder}: {error.strerror}; choose a writable --root"
            ) from error
        return FileLock(self.folder / "lock")

    def new(self) -> Path:
        """Make the folder of one submission; names sort by time. Call it with the lock held.

        Raises UserError on a full disk.
        """
        number = len(list(self.folder.glob("*-*/")))
        folder = self.folder / f"{number:05d}-{time.strftime('%Y%m%d-%H%M%S')}"
        with write_errors(folder):
            folder.mkdir()
        return folder

    def write(self, folder: Path, submission: Submission) -> None:
        """Write down what was submitted from a folder."""
        write_atomically(folder / "submission.json", to_json(dump(submission)))

    def submitted_jobs(self) -> dict[str, list[Sent]]:
        """Return the jobs that each cell was in, the latest last."""
        found: dict[str, list[Sent]] = {}
        for path in sorted(self.folder.glob("*/submission.json")):
            for job, cells in _read(path).jobs():
                for cell in cells:
                    found.setdefault(cell, []).append(Sent(job, path.parent / f"{job}_0_log.out"))
        return found


@cache
def _read(path: Path) -> Submission:
    return parse(Submission, read_json(path) or {}, str(path))
