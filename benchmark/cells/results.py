"""What readers of results need: tables, tests, reports and comparisons never write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from vlpeft.benchmark.cells.records import Record
from vlpeft.benchmark.cells.scores import ImageScores


class Results(Protocol):
    """Finished cells that can be read: a result folder (`Store`), or a file of evidence."""

    def folder(self, cell_id: str) -> Path:
        """Return the folder of a cell. It does not exist where only records are kept."""

    def has_record(self, cell_id: str) -> bool:
        """Return True if the cell is finished."""

    def record(self, cell_id: str) -> Record:
        """Return one record."""

    def records(self) -> Iterator[Record]:
        """Yield all records, sorted by id."""

    def scores(self, cell_id: str) -> tuple[ImageScores, ...]:
        """Return a cell's scores by image, one entry for each task; nothing if none were kept."""
