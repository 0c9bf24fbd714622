"""JSON files that say which versions of vlpeft read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol, TypeVar

from vlpeft.benchmark.core.config import parse_json
from vlpeft.benchmark.core.errors import UserError


class Versioned(Protocol):
    """What a file with a schema holds."""

    @property
    def schema(self) -> int: ...


V = TypeVar("V", bound=Versioned)


def parse_versioned(
    cls: type[V], text: bytes, path: Path, schema: int, kind: str, damaged: str
) -> V:
    """`parse_json` of a file of that schema. Raises UserError; that it is truncated or of another schema is said before details.

    damaged: what to say of a file that is no JSON, {} standing for the error.
    """
    try:
        parsed = parse_json(cls, text, str(path))
    except UserError as error:
        try:
            values = json.loads(text)
        except ValueError as broken:
            raise UserError(f"{path}: {damaged.format(broken)}") from error
        found: object = values.get("schema") if isinstance(values, dict) else type(values).__name__
        if found == schema:
            raise
    else:
        found = parsed.schema
        if found == schema:
            return parsed
    raise UserError(
        f"{path}: {kind} schema {found}, this version reads {schema}; use a matching version of vlpeft"
    )
