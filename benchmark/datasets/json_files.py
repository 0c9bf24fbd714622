"""Read and check JSON records. Every error names the file, the record and a fix."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from reprlib import Repr
from typing import Any

from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.datasets.sources import open_file, shorten, unreadable_error

DataRow = dict[str, Any]
Types = Mapping[str, type | tuple[type, ...]]  # field -> its allowed types
# The types of an identifier: official files use numbers, converted ones often use text.
ID = (int, str)
# Unlike `repr`, it shows lists of any length and depth.
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 60


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises DataError if it is missing, unreadable or truncated."""
    try:
        with open_file(path) as file:
            content = file.read()
    except OSError as error:
        raise unreadable_error(path, error) from error
    return parse_json(content, str(path))


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
            found = f"keys {', '.join(map(shorten, sorted(content)[:9]))}"
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

    Blank lines are left out.

    Raises:
        DataError: A record does not have these fields; names the line.
    """
    rows: list[DataRow] = []
    try:
        with open_file(path) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                row = parse_json(line, f"{path}: line {number}")
                check_row(row, types, f"{path}: line {number}")
                # The other fields of SNLI-VE are most of its half gigabyte.
                rows.append({field: row[field] for field in types})
    except OSError as error:
        raise unreadable_error(path, error) from error
    if not rows:
        raise DataError(f"{path} is empty; fetch the file again")
    return rows


def parse_json(text: bytes, where: str) -> Any:
    """Parse JSON in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        DataError: It is not JSON, or a key occurs twice in an object with different values, of
            which the last one would count.
    """
    try:
        # Strict: json.loads itself would accept bytes of half a character.
        decoded = text.decode(json.detect_encoding(text))
        return json.loads(decoded, object_pairs_hook=unique_keys)
    except RepeatedKey as error:
        raise DataError(f"{where}: {error}; keep one of them") from error
    except RecursionError as error:
        raise DataError(f"{where} is nested too deep to be read; fetch the file again") from error
    except ValueError as error:  # wrong JSON, or wrong UTF-8
        raise DataError(
            f"{where} is not valid JSON ({error}): cut short or damaged; fetch the file again"
        ) from error


class RepeatedKey(ValueError):
    """A key occurs twice in an object, with different values."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of a JSON file, for `json.loads`. Raises RepeatedKey."""
    found = dict(pairs)
    if len(found) != len(pairs):
        for key, value in pairs:
            if found[key] != value:
                raise RepeatedKey(
                    f"key '{shorten(key)}' occurs twice in one object, with"
                    f" {show(value)} and {show(found[key])}{_identifier(found, key)}"
                )
    return found


def _identifier(row: DataRow, key: str) -> str:
    """Return the fields of an object that are probably its name, for an error message."""
    names = [name for name in row if name != key and name.lower().endswith("id")]
    if not names:
        return ""
    return f" ({', '.join(f'{name} {show(row[name])}' for name in names[:3])})"


def show(value: object) -> str:
    """Return a value for an error message, cut if it is long."""
    return _REPR.repr(value)


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
                f"{path}: {field} {shorten(identifier)} occurs twice; keep one of the two records"
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


def kind_text(value: object, where: str) -> str:
    """Return the type of a question as a text. Raises DataError for a list or an object."""
    if isinstance(value, list | dict):
        raise DataError(f"{where}: its type must be a text, found {show(value)}; fix the record")
    return str(value)


def texts(row: DataRow, field: str, where: str) -> tuple[str, ...]:
    """Return the list of texts in a field of a record.

    Raises:
        DataError: The list is empty, or holds something that is not a text.
    """
    values = row[field]
    if not values or not all(isinstance(value, str) for value in values):
        raise DataError(
            f"{where}: '{field}' must be a list of texts that is not empty,"
            f" found {show(values)}; fix the record"
        )
    return tuple(values)
