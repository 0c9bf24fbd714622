"""Read and check JSON records. Every error names the file, the record and a fix."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.datasets.sources import unreadable_error

DataRow = dict[str, Any]
Types = Mapping[str, type | tuple[type, ...]]  # field -> its allowed types
# The types of an identifier: official files use numbers, converted ones often use text.
ID = (int, str)


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises DataError if it is missing, unreadable or truncated."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable_error(path, error) from error
    return _parse_json(content, str(path))


def read_rows(path: Path, key: str, **types: type | tuple[type, ...]) -> list[DataRow]:
    """Read the list of records under a top-level key.

    Args:
        path: A file that holds one JSON object.
        key: The key of the list.
        **types: The fields that each record must have, with their types.

    Raises:
        DataError: The file or a record is not like that, or the list is empty.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        found = type(content).__name__
        if isinstance(content, dict):
            found = f"keys {', '.join(sorted(content)[:9])}"
        raise DataError(
            f"{path}: expected an object with a list '{key}', found {found};"
            " is this the right file?"
        )
    if not content[key]:
        raise DataError(f"{path}: '{key}' is empty; fetch the file again")
    return _checked_rows(content[key], types, f"{path}: {key}")


def read_list(path: Path, **types: type | tuple[type, ...]) -> list[DataRow]:
    """Read a JSON file that is one list of records, each with at least the fields in `types`.

    Raises:
        DataError: The file or a record is not like that, or the list is empty.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        found = type(content).__name__
        if content == []:
            found = "an empty list"
        raise DataError(
            f"{path}: expected a list of records, found {found}; is this the right file?"
        )
    return _checked_rows(content, types, f"{path}: record")


def read_mapping(path: Path, **types: type | tuple[type, ...]) -> dict[str, DataRow]:
    """Read a JSON file that is one object of id -> record, each with the fields in `types`.

    Raises:
        DataError: The file or a record is not like that, or the object is empty.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        found = type(content).__name__
        if content == {}:
            found = "an empty object"
        raise DataError(
            f"{path}: expected an object of records by id, found {found}; is this the right file?"
        )
    for identifier, row in content.items():
        check_row(row, types, f"{path}: {identifier}")
    return content


def read_lines(path: Path, **types: type | tuple[type, ...]) -> list[DataRow]:
    """Read a file of one JSON record per line; keep only the fields in `types`.

    Raises:
        DataError: A record does not have these fields; names the line.
    """
    rows: list[DataRow] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                row = _parse_json(line, f"{path}: line {number}")
                check_row(row, types, f"{path}: line {number}")
                # The other fields of SNLI-VE are most of its half gigabyte.
                rows.append({field: row[field] for field in types})
    except OSError as error:
        raise unreadable_error(path, error) from error
    if not rows:
        raise DataError(f"{path} is empty; fetch the file again")
    return rows


def _parse_json(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: wrong JSON, or wrong UTF-8
        raise DataError(
            f"{where} is not valid JSON ({error}): cut short or damaged; fetch the file again"
        ) from error


def _checked_rows(rows: list[DataRow], types: Types, where: str) -> list[DataRow]:
    for index, row in enumerate(rows):
        check_row(row, types, f"{where}[{index}]")
    return rows


def check_row(row: object, types: Types, where: str) -> None:
    """Raise DataError unless `row` is an object with these fields of these types.

    Args:
        row: A record.
        types: Field -> its allowed types.
        where: The file and the record, for error messages.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {type(row).__name__}; fix the record")
    for field, wanted in types.items():
        allowed = wanted
        if not isinstance(allowed, tuple):
            allowed = (allowed,)
        if field not in row:
            raise DataError(f"{where}: '{field}' is missing; add it or remove the record")
        found = type(row[field])
        if found not in allowed:  # the exact type: isinstance would take JSON's true for an int
            expected = " or ".join(kind.__name__ for kind in allowed)
            raise DataError(
                f"{where}: '{field}' must be {expected}, found {found.__name__}; fix the record"
            )


def index_by_id(rows: Iterable[DataRow], field: str, path: Path) -> dict[str, DataRow]:
    """Return identifier -> record, in the order of the records.

    Raises:
        DataError: An identifier occurs twice.
    """
    out: dict[str, DataRow] = {}
    for row in rows:
        identifier = str(row[field])
        if identifier in out:
            raise DataError(
                f"{path}: {field} {identifier} occurs twice; keep one of the two records"
            )
        out[identifier] = row
    return out


def answer_texts(row: DataRow, where: str) -> tuple[str, ...]:
    """Return the texts of a list `answers` of objects with `answer`, as in VQA v2 and VizWiz.

    Raises:
        DataError: The list is empty, or an answer has no text.
    """
    if not row["answers"]:
        raise DataError(
            f"{where}: has no answers; remove the question and its annotation, or add an answer"
        )
    for answer in row["answers"]:
        check_row(answer, {"answer": str}, f"{where}: answers")
    return tuple(answer["answer"] for answer in row["answers"])


def texts(row: DataRow, field: str, where: str) -> tuple[str, ...]:
    """Return the list of texts in a field of a record.

    Raises:
        DataError: The list is empty, or holds something that is not a text.
    """
    values = row[field]
    if not values or not all(isinstance(value, str) for value in values):
        raise DataError(
            f"{where}: '{field}' must be a list of texts that is not empty,"
            f" found {str(values)[:60]}; fix the record"
        )
    return tuple(values)
