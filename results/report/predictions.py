"""Reads the predictions of a cell for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import open_regular, sha256

# How many predictions of a cell are read, so that time stays bounded. The page says so.
LINES = 20_000
FIX = "delete the cell's folder and run it again, or use --examples 0"


@dataclass(frozen=True)
class PredictionLine:
    """A line of predictions.jsonl.

    score: of the first metric that scores single examples, NaN if there is none.
    """

    id: str
    kind: str
    text: str
    references: tuple[str, ...]
    score: float


def read_predictions(
    store: Results, cell: Planned, part: int, metric: str
) -> dict[str, PredictionLine]:
    """Read the first LINES predictions of one task of a cell, by example id.

    Raises UserError if the file is damaged, or is not the one that the run wrote.
    """
    path = store.folder(cell.id) / "predictions.jsonl"
    expected = store.record(cell.id).files.get(path.name)
    # A file that was cut at the end of a line can still be read, but would be miscounted.
    try:
        if expected and sha256(path) != expected:
            raise UserError(f"{path} differs from what the run wrote; {FIX}")
        return _read_lines(path, cell.cell.parts[part].name, metric)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {FIX}") from error


def _read_lines(path: Path, task: str, metric: str) -> dict[str, PredictionLine]:
    """Read the first LINES lines of one task, by example id."""
    found: dict[str, PredictionLine] = {}
    with open_regular(path) as file:
        for number, text in enumerate(file, start=1):
            try:
                row = json.loads(text)
                if row.get("task", task) != task:
                    continue
                found[row["id"]] = _prediction(row, metric)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise UserError(f"{path}: line {number} is damaged ({error}); {FIX}") from error
            if len(found) == LINES:
                break
    return found


def _prediction(row: Mapping[str, Any], metric: str) -> PredictionLine:
    score = float(row["scores"].get(metric, np.nan))
    references = tuple(row["references"])
    return PredictionLine(row["id"], row["kind"], row["prediction"], references, score)


def count_words(n: int) -> str:
    """Return a number of examples in words. Of LINES there may be more."""
    if n >= LINES:
        return f"the first {n:,} examples"
    return f"{n:,} examples"
