"""Records: the immutable JSON files that finished cells leave.

A record is written once and atomically, so a reader never sees half of one.

Layout of a result folder:

    ROOT/cells/<id>/cell.json         the cell with all settings resolved, written at launch
                    record.json       the result: absent or complete
                    predictions.jsonl one line for each test example, written before the record
                    scores.json       the same scores, by image (`vlpeft.benchmark.cells.scores`)
                    answers.json      for each task, the closed answer list
                    trained.safetensors  what was trained
                    failure.json      why the last attempt failed, until one succeeds
                    progress.json     how far a running attempt is
                    tries.json        attempts on a cluster that ended without an error message
                    checkpoint.pt     where an interrupted attempt continues
                    lock              held by the process that runs the cell
    ROOT/sweeps/<name>.json           the plan of a launched sweep
    ROOT/slurm/<submission>/          a submission: script, pickles, logs, which job has which cells
    ROOT/slurm/code/<hash>/           the code that jobs run, copied when they were submitted
    ROOT/diffs/<hash>.diff            how code that was not committed differs from its commit
    ROOT/launchers/                   which launchers run, see benchmark/launch/presence.py
    ROOT/reserve                      room for failure.json files, released when the disk is full
    ROOT/features/<key>/              cached features of frozen vision towers
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vlpeft.benchmark.cells.scores import NAME, ImageScores, read_scores
from vlpeft.benchmark.core.config import Config, dump
from vlpeft.benchmark.core.errors import UserError, disk_trouble
from vlpeft.benchmark.core.files import (
    read_bytes,
    to_json,
    write_atomically,
    write_errors,
    write_quickly,
)
from vlpeft.benchmark.core.paths import hide_folders
from vlpeft.benchmark.core.versioned import parse_versioned

RECORD_SCHEMA = 1
PROVENANCE: dict[str, type] = {  # the types of what `provenance` notes
    **dict.fromkeys(("python", "system", "device", "instructions", "finished"), str),
    **dict.fromkeys(("packages", "git"), dict),
}
RESERVE_BYTES = 2**18


@dataclass(frozen=True)
class Selected(Config):
    """Which epoch's weights were tested, and why.

    Attributes:
        epoch: The chosen epoch; the first is 1.
        split: The split on which epochs were compared.
        metric: The metrics whose values were added up.
        scores: That sum for each epoch.
    """

    epoch: int
    split: str
    metric: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Record(Config):
    """One finished cell.

    Attributes:
        id: The cell's id.
        cell: The cell with all settings.
        metrics: For each metric, its value or {"absent": reason}. Values are in percent units,
            such as CIDEr and BLEU times 100.
        cost: Parameters: trainable, head, vision, total. Time: steps, train_seconds,
            eval_seconds, cpu_seconds, step_ms (median), gpu_hours (0 on a CPU). Memory:
            peak_memory_mb, delta_bytes. Of the first step's batch, in the median time of a
            step: flops_per_step, tokens_per_second, images_per_second. Older records lack
            gpu_hours and these last three. With several ranks, cpu_seconds, gpu_hours and what
            a step does are sums; peak_memory_mb is the largest of one rank.
        curve: Pairs of step and training loss.
        provenance: Versions, git commit and dirty flag, hardware, ranks, data fingerprint,
            time; `verified`: whether the environment was. For a dirty tree `git.diff` names
            ROOT/diffs/<diff>.diff, and on a cluster `snapshot` names
            ROOT/slurm/code/<snapshot>.
        schema: The version of this file's format.
        scalars: What a method follows during training, such as a learnable p in each layer: for
            each name, pairs of step and value.
        selection: Which epoch was tested; None if it was the last.
        files: For each file next to the record, its SHA-256.
        cut: For each task, how many of its training `inputs` and `targets` had more tokens than
            the protocol allows, and how many there were. Older records lack it.
    """

    id: str
    cell: dict[str, Any]
    metrics: dict[str, float | dict[str, str]]
    cost: dict[str, float]
    curve: list[tuple[int, float]]
    provenance: dict[str, Any]
    schema: int = RECORD_SCHEMA
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    selection: Selected | None = None
    files: dict[str, str] = field(default_factory=dict)
    cut: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)


def shareable_metrics(
    metrics: Mapping[str, float | dict[str, str]],
) -> dict[str, float | dict[str, str]]:
    """Return metrics whose reasons for being absent name no folders of this machine."""
    made: dict[str, float | dict[str, str]] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            made[name] = {key: hide_folders(text) for key, text in value.items()}
        else:
            made[name] = value
    return made


@dataclass(frozen=True)
class Store:
    """A result folder."""

    root: Path

    def folder(self, cell_id: str) -> Path:
        """Return the folder of a cell."""
        return self.root.joinpath("cells", cell_id)

    def file(self, cell_id: str, name: str) -> Path:
        """Return a file of a cell, in half the time of `folder(...) / name`.

        Commands build thousands of these paths.
        """
        return self.root.joinpath("cells", cell_id, name)

    def has_record(self, cell_id: str) -> bool:
        """Return True if the cell is finished."""
        return self.file(cell_id, "record.json").exists()

    def is_held(self, cell_id: str) -> bool:
        """Return True while a process runs the cell."""
        return is_locked(self.folder(cell_id) / "lock")

    def record(self, cell_id: str) -> Record:
        """Read one record.

        Raises UserError with the path if it is truncated, foreign or of a newer schema.
        """
        return read_record(self.file(cell_id, "record.json"))

    def records(self) -> Iterator[Record]:
        """Read all records, sorted by id."""
        cells = self.root / "cells"
        if not cells.is_dir():
            return
        # `glob` would silently skip folders that may not be read.
        for cell_id in sorted(path.name for path in cells.iterdir()):
            if self.has_record(cell_id):
                yield self.record(cell_id)

    def scores(self, cell_id: str) -> tuple[ImageScores, ...]:
        """Read a cell's scores by image, one entry for each task; nothing if none were kept.

        Raises UserError for a damaged file.
        """
        return read_scores(self.file(cell_id, NAME))

    def write_cell(self, cell_id: str, cell: Mapping[str, Any]) -> None:
        """Write cell.json, unless it exists with the same content.

        A launch may write 10,000 of them, so each is written without fsync.
        """
        path, data = self.folder(cell_id) / "cell.json", to_json(cell)
        with write_errors(path):
            if path.is_file() and path.read_bytes() == data:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
        write_quickly(path, data)

    def write_failure(self, cell_id: str, failure: Mapping[str, Any]) -> None:
        """Write failure.json. On a full disk, use the room that `reserve` took.

        Raises UserError if that is not enough either.
        """
        path, data = self.folder(cell_id) / "failure.json", to_json(failure)
        try:
            write_atomically(path, data)
        except UserError as error:
            if disk_trouble(error) != "disk full":
                raise
            (self.root / "reserve").unlink(missing_ok=True)
            write_atomically(path, data)

    def reserve(self) -> None:
        """Reserve room for many failure.json files, so that a full disk can be reported."""
        if not (self.root / "reserve").exists():
            write_atomically(self.root / "reserve", bytes(RESERVE_BYTES))

    def publish(self, record: Record) -> bool:
        """Write a record, unless the cell has one. Return True if this call wrote it.

        If several processes do this at once, exactly one wins.
        """
        path = self.folder(record.id) / "record.json"
        return write_atomically(path, to_json(dump(record)), exclusive=True)


def is_locked(lock: Path) -> bool:
    """Return True while a process holds a lock file.

    On a disk that cannot be written the lock cannot be tested, but nothing can start there
    either: return False.
    """
    if not os.path.lexists(lock):
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", 0) not in (errno.EROFS, errno.EACCES):
            raise UserError(f"{lock}: cannot be locked ({error}); delete it") from error
        return False


def check_provenance(record: Record, where: str) -> None:
    """Raise UserError unless the values of the provenance that tables read have their types."""
    for key, kind in PROVENANCE.items():
        found = record.provenance.get(key)
        if found is not None and not isinstance(found, kind):
            raise UserError(
                f"{where}: provenance.{key}: not readable, a {type(found).__name__} "
                f"in place of a {kind.__name__}; restore the file, or delete it"
            )
    packages: dict[str, object] = record.provenance.get("packages") or {}
    for name, version in packages.items():
        if not isinstance(version, str):
            raise UserError(
                f"{where}: provenance.packages.{name}: not a version; "
                "restore the file, or delete it"
            )


def read_record(path: Path) -> Record:
    """Read and check one record file.

    Raises UserError with the path if it is truncated, foreign or of a newer schema.
    """
    damaged = "not a readable record ({}); delete it to run the cell again"
    try:
        text = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: {damaged.format(error)}") from error
    record = parse_versioned(Record, text, path, RECORD_SCHEMA, "record", damaged)
    check_provenance(record, str(path))
    if record.id != path.parent.name:
        raise UserError(
            f"{path}: holds the record of cell {record.id}; move it to cells/{record.id}/"
        )
    return record
