"""Records: the immutable JSON a finished cell leaves. Written atomically and once; a reader never sees half of one.

Layout of a result folder:

    ROOT/cells/<id>/cell.json         the cell, all settings resolved (written at launch)
                    record.json       the result: absent or complete
                    predictions.jsonl one line a test example, written before the record
                    trained.safetensors  what was trained
                    failure.json      why the last attempt failed, until one succeeds
                    progress.json     where a running attempt is
                    tries.json        attempts on a cluster that ended without a word
                    checkpoint.pt     where an interrupted attempt goes on
                    lock              held by the process that runs the cell
    ROOT/slurm/<submission>/          what was submitted: script, pickles, logs, and which job has which cells
    ROOT/features/<key>/              cached features of frozen vision towers
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmark.config import Config, dump, parse
from benchmark.errors import UserError

RECORD_SCHEMA = 1


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
    peak_memory_mb; delta_bytes. Of several ranks cpu_seconds is the sum, peak_memory_mb the largest of one.
    curve: [step, training loss] pairs.
    scalars: name -> [step, value] pairs of what a method follows during training, such as a learnable p in each layer.
    provenance: versions, git sha and dirty flag, hardware, ranks, data fingerprint, time.
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
        return self.root / "cells" / cell_id

    def has_record(self, cell_id: str) -> bool:
        """True once the cell is finished."""
        return (self.folder(cell_id) / "record.json").exists()

    def is_held(self, cell_id: str) -> bool:
        """True while some process runs the cell."""
        path = self.folder(cell_id) / "lock"
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True

    def record(self, cell_id: str) -> Record:
        """Read one record. Raises UserError naming the file if it is truncated, foreign or of a newer schema."""
        return read_record(self.folder(cell_id) / "record.json")

    def records(self) -> Iterator[Record]:
        """All records, by id."""
        for path in sorted(self.root.glob("cells/*/record.json")):
            yield read_record(path)

    def publish(self, record: Record) -> bool:
        """Write the record unless one stands already; True if this call wrote it. Of several writers exactly one wins."""
        return write_atomically(self.folder(record.id) / "record.json", to_json(dump(record)), exclusive=True)


def read_record(path: Path) -> Record:
    """Read and check one record file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a readable record ({error}); delete it to run the cell again") from error
    if not isinstance(values, dict) or values.get("schema") != RECORD_SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise UserError(f"{path}: record schema {found}, this version reads {RECORD_SCHEMA}; use a matching version of vlpeft")
    record = parse(Record, values, str(path))
    if record.id != path.parent.name:
        raise UserError(f"{path}: holds the record of cell {record.id}; move it to cells/{record.id}/")
    return record


def to_json(values: Mapping[str, Any]) -> bytes:
    """Pretty JSON with sorted keys; equal values give equal bytes."""
    return (json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any] | None:
    """A small status file, or None where there is none."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return values


def write_atomically(path: Path, data: bytes, *, exclusive: bool = False) -> bool:
    """Write so that `kill -9` and power cuts leave the old file or the whole new one.

    With `exclusive`, an existing file is kept and False returned. Raises UserError where the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _write(path, data, exclusive)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose a writable --root with free space") from error


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
