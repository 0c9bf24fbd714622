"""JSON files that name their schema, so that each version of vlpeft reads only its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol, TypeVar

from vlpeft.benchmark.core.config import parse_json
from vlpeft.benchmark.core.errors import UserError


class Versioned(Protocol):
    """The content of a file that has a schema number."""

    @property
    def schema(self) -> int: ...


V = TypeVar("V", bound=Versioned)


def parse_versioned(
    cls: type[V], text: bytes, path: Path, schema: int, kind: str, damaged: str
) -> V:
    """Parse a JSON file and check its schema.

    Args:
        cls: The dataclass to build.
        text: The content of the file.
        path: The file, for error messages.
        schema: The schema number that this version reads.
        kind: The kind of file, for error messages.
        damaged: The message for a file that is not JSON; {} is replaced by the error.

    Raises:
        UserError: The file is damaged, has another schema, or does not fit `cls`. A truncated
            file or a foreign schema is reported first, because it explains wrong keys.
    """
    try:
        parsed = parse_json(cls, text, str(path))
    except UserError as error:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as broken:
            raise UserError(f"{path}: {damaged.format(broken)}") from error
        found = _schema_of(values)
        if found == schema:
            raise
    else:
        found = parsed.schema
        if found == schema:
            return parsed
    raise UserError(
        f"{path}: {kind} schema {found}, this version reads {schema};"
        " use a matching version of vlpeft"
    )


def _schema_of(values: object) -> object:
    """Return the schema of plain JSON values, or the type of values that cannot have one."""
    if isinstance(values, dict):
        return values.get("schema")
    return type(values).__name__
