"""Read and check one file of evidence, line by line. See `vlpeft.results.evidence`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import RECORD_SCHEMA, Record, check_provenance
from vlpeft.benchmark.cells.scores import ImageScores, check_lengths
from vlpeft.benchmark.core.config import Config, dump, parse
from vlpeft.benchmark.core.errors import UserError

EVIDENCE_SCHEMA = 1
RESTORE = "restore the file, evidence is never changed"


@dataclass(frozen=True)
class Evidence:
    """The `Results` in one file. Nothing runs, waits or has failed in it."""

    path: Path
    plan: Plan
    records_: Mapping[str, Record]
    scores_: Mapping[str, tuple[ImageScores, ...]]

    def folder(self, cell_id: str) -> Path:
        """Return a path at which nothing exists: files next to records are not kept."""
        return self.path / "cells" / cell_id

    def has_record(self, cell_id: str) -> bool:
        """Return True for a finished cell."""
        return cell_id in self.records_

    def record(self, cell_id: str) -> Record:
        """Return the record of a cell, without curves."""
        return self.records_[cell_id]

    def records(self) -> Iterator[Record]:
        """Yield all records, sorted by id."""
        return (self.records_[cell_id] for cell_id in sorted(self.records_))

    def scores(self, cell_id: str) -> tuple[ImageScores, ...]:
        """Return the scores of a cell by image."""
        return self.scores_.get(cell_id, ())


@dataclass(frozen=True)
class _Images(Config):
    """A line with a set of test images."""

    images: tuple[str, ...]
    examples: tuple[int, ...]


@dataclass(frozen=True)
class _KeptScores(Config):
    """The scores of one task of a cell. `set` is the index of a line of images, from 0."""

    task: str
    set: int
    sums: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class _CellLine(Config):
    """The line of a cell."""

    cell: Planned
    record: dict[str, Any] | None
    scores: tuple[_KeptScores, ...]


@dataclass
class EvidenceReader:
    """Collects the lines of one file and checks each.

    cell_count: how many cells the head promises; None in files of earlier versions.
    """

    path: Path
    plan: Plan | None = None
    cell_count: int | None = None
    images: list[_Images] = field(default_factory=list)
    cells: list[Planned] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    scores: dict[str, tuple[ImageScores, ...]] = field(default_factory=dict)

    def read_line(self, number: int, text: str) -> None:
        """Read one line; the first has number 1. Raises UserError if it is damaged."""
        where = f"{self.path}, line {number}"
        values = _parse_json(text, where)
        if number == 1:
            self._read_head(values, where)
        elif "images" in values:
            self.images.append(parse(_Images, values, where))
        else:
            self._read_cell(parse(_CellLine, values, where), where)

    def evidence(self) -> Evidence:
        """Return the content of all lines. Raises UserError if lines are missing."""
        if self.plan is None:
            raise UserError(f"{self.path}: empty; {RESTORE}")
        if self.cell_count not in (None, len(self.cells)):
            raise UserError(
                f"{self.path}: {len(self.cells)} of {self.cell_count} cells are here; {RESTORE}"
            )
        about = ", ".join(dict.fromkeys(_origin(record) for record in self.records.values()))
        source = f"From {self.path.name}: {about}."
        notes = "\n".join(filter(None, (self.plan.notes, source)))
        plan = replace(self.plan, notes=notes, cells=tuple(self.cells))
        return Evidence(self.path, plan, self.records, self.scores)

    def _read_head(self, values: dict[str, Any], where: str) -> None:
        schema = values.get("evidence")
        if schema != EVIDENCE_SCHEMA:
            raise UserError(
                f"{where}: evidence schema {schema}, this version reads {EVIDENCE_SCHEMA}; "
                "use a matching version"
            )
        plan = values.get("plan")
        if not isinstance(plan, dict):
            raise UserError(f"{where}: no plan; {RESTORE}")
        self.plan = parse(Plan, {**plan, "cells": []}, where)
        self.cell_count = values.get("cells")

    def _read_cell(self, line: _CellLine, where: str) -> None:
        cell = line.cell
        self.cells.append(cell)
        if line.record is None:
            return
        if cell.id in self.records:
            raise UserError(f"{where}: a second record of cell {cell.id}; {RESTORE}")
        schema = line.record.get("schema")
        if schema != RECORD_SCHEMA:
            raise UserError(
                f"{where}: record schema {schema}, this version reads {RECORD_SCHEMA}; "
                "use a matching version"
            )
        # `keep` leaves out what the plan repeats, and the curves. Put them back.
        left_out = {"id": cell.id, "cell": dump(cell.cell), "curve": []}
        record = parse(Record, {**line.record, **left_out}, where)
        check_provenance(record, where)
        self.records[cell.id] = record
        self.scores[cell.id] = tuple(self._image_scores(kept, where) for kept in line.scores)

    def _image_scores(self, kept: _KeptScores, where: str) -> ImageScores:
        if kept.set not in range(len(self.images)):
            raise UserError(
                f"{where}: refers to images of set {kept.set}, which no line above holds; "
                "restore the file"
            )
        images = self.images[kept.set]
        scores = ImageScores(kept.task, images.images, images.examples, kept.sums)
        check_lengths(scores, where)
        return scores


def _parse_json(text: str, where: str) -> dict[str, Any]:
    """Parse a line as a JSON object. Raises UserError for anything else."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not readable ({error}); {RESTORE}") from error
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise UserError(f"{where}: expected a mapping, found {kind}; {RESTORE}")
    return values


def _origin(record: Record) -> str:
    """Return the day, device and version of torch of a record."""
    about = record.provenance
    day = about.get("finished", "undated")[:10]
    device = about.get("device", "unknown device")
    torch = about.get("packages", {}).get("torch", "unknown")
    return f"{day}, {device}, torch {torch}"
