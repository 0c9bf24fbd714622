"""What was submitted from a result folder: ROOT/slurm/<submission>/submission.json, beside submitit's scripts, pickles and logs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from vlpeft.benchmark.cells.records import read_json, to_json, write_atomically, write_errors
from vlpeft.benchmark.core.config import Config, dump, parse
from vlpeft.benchmark.core.errors import UserError


@dataclass(frozen=True)
class Submission(Config):
    """One sbatch: a job, or an array of several; `cells` are those of each job."""

    job: str
    cells: tuple[tuple[str, ...], ...]

    def jobs(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Job id and its cells."""
        for index, cells in enumerate(self.cells):
            yield self.job if len(self.cells) == 1 else f"{self.job}_{index}", cells


class Sent(NamedTuple):
    """The job that a cell is in, and where its log is."""

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
        """Held while it is decided what to submit, and submitted: of two launchers the second one sees what the first has sent."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write {self.folder}: {error.strerror}; choose a writable --root"
            ) from error
        return FileLock(self.folder / "lock")

    def new(self) -> Path:
        """A fresh folder for one submission; names sort by time. Call it with the lock held. Raises UserError on a full disk."""
        number = len(list(self.folder.glob("*-*/")))
        folder = self.folder / f"{number:05d}-{time.strftime('%Y%m%d-%H%M%S')}"
        with write_errors(folder):
            folder.mkdir()
        return folder

    def write(self, folder: Path, submission: Submission) -> None:
        """Note what was submitted from a folder."""
        write_atomically(folder / "submission.json", to_json(dump(submission)))

    def submitted_jobs(self) -> dict[str, list[Sent]]:
        """For each cell the jobs that it was in, the last one last."""
        found: dict[str, list[Sent]] = {}
        for path in sorted(self.folder.glob("*/submission.json")):
            for job, cells in _read(path).jobs():
                for cell in cells:
                    found.setdefault(cell, []).append(Sent(job, path.parent / f"{job}_0_log.out"))
        return found


@cache
def _read(path: Path) -> Submission:
    return parse(Submission, read_json(path) or {}, str(path))
