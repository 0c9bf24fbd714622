"""The committed values: expected/PART.json maps the names of checks to what a CPU computed in float32."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from vlpeft.benchmark.cells.records import read_json, to_json, write_atomically
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.verify.check import FLOAT32, Value

FOLDER = Path(__file__).parent / "expected"
DIGITS = 7  # that float32 has; EXACT values and those of float64 are kept whole


@cache
def committed(part: str) -> dict[str, Any]:
    """The values of a part. Raises UserError where the file is missing or damaged."""
    path = FOLDER / f"{part}.json"
    values = read_json(path)
    if values is None:
        raise UserError(f"{path} is missing; reinstall vlpeft, or restore the file")
    return values


def write(part: str, values: dict[str, Any]) -> None:
    """Replace the values of a part."""
    path = FOLDER / f"{part}.json"
    write_atomically(path, to_json(values))
    path.chmod(0o644)  # it is shipped: everyone may read it
    committed.cache_clear()


def rounded(value: Value, tolerance: float) -> Value:
    """A value as it is committed."""
    kept = json.loads(json.dumps(value))
    return _rounded(kept) if tolerance >= FLOAT32 else kept


def _rounded(value: Value) -> Value:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
