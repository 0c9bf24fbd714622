"""Records: the immutable JSON a finished cell leaves. Written atomically and once; a reader never sees half of one.

Layout of a result folder:

    ROOT/cells/<id>/cell.json         the cell, all settings resolved (written at launch)
                    record.json       the result: absent or complete
                    predictions.jsonl one line a test example, written before the record
                    scores.json       the same scores, added up by image (`vlpeft.benchmark.cells.scores`)
                    trained.safetensors  what was trained
                    failure.json      why the last attempt failed, until one succeeds
                    progress.json     where a running attempt is
                    tries.json        attempts on a cluster that ended without a word
                    checkpoint.pt     where an interrupted attempt goes on
                    lock              held by the process that runs the cell
    ROOT/slurm/<submission>/          what was submitted: script, pickles, logs, and which job has which cells
    ROOT/slurm/code/<hash>/           the code that jobs run, as it was when they were submitted
    ROOT/diffs/<hash>.diff            how code that was not committed differs from its commit
    ROOT/launchers/                   who is at work, see benchmark/launch/presence.py
    ROOT/reserve                      room for failure.json files, given up on a full disk
    ROOT/features/<key>/              cached features of frozen vision towers
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vlpeft.benchmark.cells.scores import NAME, ImageScores, read_scores
from vlpeft.benchmark.core.config import Config, dump
from vlpeft.benchmark.core.errors import UserError, disk_trouble
from vlpeft.benchmark.core.versioned import parse_versioned

RECORD_SCHEMA = 1
RESERVE_BYTES = 2**18


@dataclass(frozen=True)
class Selected(Config):
    """Which epoch's weights were tested, and why: the score of each epoch on a split, the sum of some metrics' values."""

    epoch: int  # the first is 1
    split: str
    metric: tuple[str, ...]
    scores: tuple[float, ...]  # one an epoch


@dataclass(frozen=True)
class Record(Config):
    """One finished cell.

    metrics: name -> value, or {"absent": reason}. In percent units (CIDEr, BLEU x 100).
    cost: trainable, head, vision, total (parameters); steps; train_seconds, eval_seconds, cpu_seconds; step_ms (median);
    peak_memory_mb; delta_bytes; flops_per_step, tokens_per_second, images_per_second (of the first step's batch, in the median
    time of a step) and gpu_hours (0 on a CPU), which older records lack. Of several ranks cpu_seconds, gpu_hours and what a
    step does are sums, peak_memory_mb is the largest of one.
    curve: [step, training loss] pairs.
    scalars: name -> [step, value] pairs of what a method follows during training, such as a learnable p in each layer.
    provenance: versions, git sha and dirty flag, hardware, ranks, data fingerprint, time; `verified`: the environment was; of a dirty
    tree `git.diff`, which names ROOT/diffs/<diff>.diff; on a cluster `snapshot`, which names ROOT/slurm/code/<snapshot>.
    """

    id: str
    cell: dict[str, Any]
    metrics: dict[str, float | dict[str, str]]
    cost: dict[str, float]
    curve: list[tuple[int, float]]
    provenance: dict[str, Any]
    schema: int = RECORD_SCHEMA
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    selection: Selected | None = None  # None: the last step's weights were tested
    files: dict[str, str] = field(default_factory=dict)  # file beside the record -> sha256


@dataclass(frozen=True)
class Store:
    """The result folder."""

    root: Path

    def folder(self, cell_id: str) -> Path:
        """Where everything of one cell lies."""
        return self.root.joinpath("cells", cell_id)

    def file(self, cell_id: str, name: str) -> Path:
        """One of its files; thousands of paths take time, and this takes half of it."""
        return self.root.joinpath("cells", cell_id, name)

    def has_record(self, cell_id: str) -> bool:
        """True once the cell is finished."""
        return self.file(cell_id, "record.json").exists()

    def is_held(self, cell_id: str) -> bool:
        """True while some process runs the cell."""
        return is_locked(self.folder(cell_id) / "lock")

    def record(self, cell_id: str) -> Record:
        """Read one record. Raises UserError naming the file if it is truncated, foreign or of a newer schema."""
        return read_record(self.file(cell_id, "record.json"))

    def records(self) -> Iterator[Record]:
        """All records, by id."""
        cells = self.root / "cells"
        for cell_id in (
            sorted(path.name for path in cells.iterdir()) if cells.is_dir() else ()
        ):  # a glob passes over what it may not read
            if self.has_record(cell_id):
                yield self.record(cell_id)

    def scores(self, cell_id: str) -> tuple[ImageScores, ...]:
        """Its scores by image, one a task; nothing where none were kept. Raises UserError for a damaged file."""
        return read_scores(self.file(cell_id, NAME))

    def write_cell(self, cell_id: str, cell: Mapping[str, Any]) -> None:
        """Write cell.json, unless it stands there. Every launch does so: 10,000 cells are not worth as many fsyncs."""
        path, data = self.folder(cell_id) / "cell.json", to_json(cell)
        with write_errors(path):
            if path.exists() and path.read_bytes() == data:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
        write_quickly(path, data)

    def write_failure(self, cell_id: str, failure: Mapping[str, Any]) -> None:
        """Write failure.json; where the disk is full, into the room that `reserve` took. Raises UserError if that is gone, too."""
        path, data = self.folder(cell_id) / "failure.json", to_json(failure)
        try:
            write_atomically(path, data)
        except UserError as error:
            if disk_trouble(error) != "disk full":
                raise
            (self.root / "reserve").unlink(missing_ok=True)
            write_atomically(path, data)

    def reserve(self) -> None:
        """Take room on the disk for the causes of failure of many cells, so that a full disk can be told."""
        if not (self.root / "reserve").exists():
            write_atomically(self.root / "reserve", bytes(RESERVE_BYTES))

    def publish(self, record: Record) -> bool:
        """Write the record unless one stands already; True if this call wrote it. Of several writers exactly one wins."""
        return write_atomically(
            self.folder(record.id) / "record.json", to_json(dump(record)), exclusive=True
        )


def is_locked(lock: Path) -> bool:
    """True while some process holds a lock file. On a disk that cannot be written nobody can begin, and what is seen is a guess: False."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        return False


def read_record(path: Path) -> Record:
    """Read and check one record file. Raises UserError naming it if it is truncated, foreign or of a newer schema."""
    damaged = "not a readable record ({}); delete it to run the cell again"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {damaged.format(error)}") from error
    record = parse_versioned(Record, text, path, RECORD_SCHEMA, "record", damaged)
    if record.id != path.parent.name:
        raise UserError(
            f"{path}: holds the record of cell {record.id}; move it to cells/{record.id}/"
        )
    return record


def to_json(values: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """Pretty JSON with sorted keys; equal values give equal bytes. Without indent it is written ten times as fast."""
    return (
        json.dumps(values, indent=indent, sort_keys=True, ensure_ascii=False, allow_nan=False)
        + "\n"
    ).encode()


def read_json(path: Path) -> dict[str, Any] | None:
    """A small status file, or None where there is none. Raises UserError for a damaged one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (
        FileNotFoundError,
        NotADirectoryError,
    ):  # where results are kept in one file, there are no status files
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}); restore or delete it") from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: a {type(values).__name__} where a mapping should be; restore or delete it"
        )
    return values


def write_atomically(path: Path, data: bytes, *, exclusive: bool = False) -> bool:
    """Write so that `kill -9` and power cuts leave the old file or the whole new one.

    With `exclusive`, an existing file is kept and False returned. Raises UserError where the folder cannot be written.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return _write(path, data, exclusive)


def write_quickly(path: Path, data: bytes) -> None:
    """The same for what can be written again: atomic, but without fsync, so that a power cut may leave an empty file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with write_errors(path):
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Say of an OSError inside what could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; choose a writable --root with free space"
        ) from error


def _write(path: Path, data: bytes, exclusive: bool) -> bool:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
        else:
            temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
