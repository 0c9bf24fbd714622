"""The committed values: expected/PART.json maps names of checks to float32 results of a CPU."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import read_json, to_json, write_atomically
from vlpeft.benchmark.plan.verify.check import FLOAT32, JSONValue

FOLDER = Path(__file__).parent / "expected"
DIGITS = 7  # as many as float32 has; exact values and those in float64 keep all digits


@cache
def committed(part: str) -> dict[str, Any]:
    """Return the values of a part, by name.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = FOLDER / f"{part}.json"
    values = read_json(path)
    if values is None:
        raise UserError(f"{path} is missing; reinstall vlpeft, or restore the file")
    return values


def write(part: str, values: dict[str, Any]) -> None:
    """Replace the values of a part."""
    path = FOLDER / f"{part}.json"
    write_atomically(path, to_json(values))
    committed.cache_clear()


def rounded(value: JSONValue, tolerance: float) -> JSONValue:
    """Return a value as it is committed."""
    # The round trip through JSON turns tuples into lists, as in a value that is read.
    kept = json.loads(json.dumps(value))
    if tolerance < FLOAT32:
        return kept
    return _round(kept)


def _round(value: JSONValue) -> JSONValue:
    if isinstance(value, dict):
        return {key: _round(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_round(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return value
