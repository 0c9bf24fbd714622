"""Typed configuration: read YAML into frozen dataclasses.

An unknown key or a wrong type raises an error that names the place. pydantic validates the values
in strict mode: `"8"` is not a number, and `1e-4` is one, as in YAML 1.2.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.core.paths import YAML
from vlpeft.benchmark.core.plain_yaml import parse_yaml
from vlpeft.benchmark.core.reading import read_bounded

T = TypeVar("T")
JSON = Any  # any value that json.dumps accepts
ADDED = "added"
LARGEST_YAML = 2**20  # bytes; the largest shipped file has 1 % of it
UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")  # pydantic's error types
MISSING_KEY = ("missing", "missing_argument")
WRITE = {
    "too_short": "write at least one value",
    "string_too_short": "write some text",
    "dict_type": "write a mapping, such as {key: value}",
}  # what to write in place of a value that does not fit

# pydantic's types of errors, and what to write; then how it names types in the place of an error.
KINDS = {
    "string_type": "a text",
    "dict_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}
TYPES = ("str", "dict", "list", "tuple", "int", "float", "bool", "constrained-str")

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range that every random generator accepts


class Config:
    """Base of every configuration dataclass; it forbids unknown keys, NaN and infinity."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


def added_field(default: T) -> T:
    """Declare a field that was added after cells had been given ids.

    Ids leave such a field out while it has its default, so a new setting keeps every old id.
    To change the default later, raise `vlpeft.benchmark.cells.cell.SCIENCE`.
    """
    made: T = field(default=default, metadata={ADDED: True})
    return made


def parse(cls: type[T], values: Mapping[str, JSON], where: str) -> T:
    """Build the dataclass `cls` from plain values, in strict mode.

    Args:
        cls: The dataclass.
        values: Plain JSON values, for instance those of a YAML file.
        where: The file or setting, for error messages.

    Raises:
        UserError: A value does not fit; the message names `where`, the key and the fix.
    """
    try:
        text = json.dumps(values)
    except TypeError as error:
        raise UserError(f"{where}: {error}; quote the value if it is meant as text") from error
    except (ValueError, RecursionError) as error:  # values of a program that contain themselves
        raise UserError(f"{where}: {error}; write plain values") from error
    return parse_json(cls, text, where)


def parse_json(cls: type[T], text: str | bytes, where: str) -> T:
    """Build the dataclass `cls` from the text of a JSON file, like `parse`.

    pydantic parses the text itself: for 10,000 cells that saves a second over `json.loads`.

    Raises:
        UserError: The text is not JSON, or a value does not fit.
    """
    try:
        parsed: T = _adapter(cast("Hashable", cls)).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, cls)}") from error
    return parsed


def dump(config: object) -> dict[str, JSON]:
    """Return a configuration dataclass as plain JSON values, including all defaults."""
    adapter = _adapter(cast("Hashable", type(config)))
    plain: dict[str, JSON] = adapter.dump_python(config, mode="json")
    return plain


def dump_identity(config: Any) -> dict[str, JSON]:
    """Return `dump` without those `added_field`s that have their default."""
    plain = dump(config)
    for key, value in _added_defaults(cast("Hashable", type(config))).items():
        if plain[key] == value:
            del plain[key]
    return plain


def dump_defaults(config: Any) -> dict[str, JSON]:
    """Return the defaults of the `added_field`s of a dataclass, as plain JSON values."""
    return dict(_added_defaults(cast("Hashable", type(config))))


@cache
def _added_defaults(cls: Hashable) -> Mapping[str, JSON]:
    declared = fields(cast("type[Any]", cls))
    defaults = {f.name: f.default for f in declared if f.metadata.get(ADDED)}
    plain: dict[str, JSON] = json.loads(json.dumps(defaults))
    return plain


def is_number(value: JSON) -> bool:
    """Return whether a plain value is a number; for Python true and false are, too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def yaml_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the YAML files in a folder, without their ending, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def load_yaml(path: Path) -> dict[str, JSON]:
    """Read a YAML 1.2 file that holds one mapping of plain values.

    Raises:
        UserError: The file cannot be read or is not such a mapping; names the file and line.
    """
    return decode_yaml(read_yaml(path), path)


def read_yaml(path: Path) -> bytes:
    """Return the bytes of a YAML file. Raises UserError if it cannot be read or is too large."""
    return read_bounded(path, LARGEST_YAML, YAML)


def decode_yaml(data: bytes, path: Path) -> dict[str, JSON]:
    """Return the mapping in the bytes of a YAML file. Raises UserError with the file and line."""
    try:
        values = parse_yaml(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8"
        ) from error
    except ValueError as error:
        line, _, rest = str(error).partition(": ")
        if line.isdigit():
            raise UserError(f"{path}:{line}: not valid YAML: {rest}") from error
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        found = _describe_content(values)
        raise UserError(f"{path}: expected `key: value` lines at the top level, found {found}")
    return values


def _describe_content(value: JSON) -> str:
    """Return what a YAML file holds in place of a mapping, in words of YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "a list"
    return f"only {json.dumps(value, default=str)[:60]}"


def merge(*layers: Mapping[str, JSON]) -> dict[str, JSON]:
    """Merge mappings key by key; later layers win, and nested mappings are merged, too."""
    out: dict[str, JSON] = {}
    for layer in layers:
        for key, value in layer.items():
            old = out.get(key)
            if isinstance(old, Mapping) and isinstance(value, Mapping):
                out[key] = merge(old, value)
            else:
                out[key] = value
    return out


@cache
def _adapter(cls: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("type[Any]", cls))


def _explain(error: ValidationError, cls: type[Any]) -> str:
    """Return the first problem in one line, with the key and the fix."""
    problems = error.errors()
    # Report a misspelt key first: it explains why a required key is missing.
    unknown = [problem for problem in problems if problem["type"] in UNKNOWN_KEY]
    first = (unknown or problems)[0]
    key = _dotted(first["loc"])
    if unknown:
        return f"unknown key '{key}'{did_you_mean(str(first['loc'][-1]), _keys_at(cls, first))}"
    if first["type"] in MISSING_KEY:
        return f"'{key}' is required"
    got = json.dumps(first["input"], default=str)[:80]
    if choices := _choices(problems, first):
        return f"{_dotted(first['loc'][:-1])}: write {' or '.join(choices)}, got {got}"
    message = first["msg"].removeprefix("Value error, ")
    message = f"{message[0].lower()}{message[1:]}"
    if first["type"] in ("tuple_type", "list_type"):
        example = "[0, 1, 2]" if key == "seeds" else f"[{got}]"
        message = f"write a list, such as {example}"
    message = WRITE.get(first["type"], message)
    if not first["loc"]:  # a check of several keys together, from __post_init__
        return message
    return f"{key}: {message}, got {got}"


def _keys_at(cls: type[Any], problem: Any) -> list[str]:
    """Return the keys that are known where a problem is: those of the class at its place."""
    kinds: list[Any] = [cls]
    for step in problem["loc"][:-1]:
        kinds = [inner for kind in kinds for inner in _inside(kind, step)]
    found = [kind for kind in kinds if is_dataclass(kind)] or [cls]
    return list(dict.fromkeys(each.name for kind in found for each in fields(kind)))


def _inside(kind: Any, step: int | str) -> Iterator[Any]:
    """Yield the types that may stand at a step below a type, without Annotated and unions."""
    if not is_dataclass(kind):
        items = get_args(kind)  # of a list, or of a mapping: the values are last
        if items:
            yield from _members(items[0] if isinstance(step, int) else items[-1])
    elif step == getattr(kind, "__name__", ""):  # how pydantic names a member of a union
        yield kind
    else:
        yield from _members(get_type_hints(kind).get(str(step)))


def _members(hint: Any) -> Iterator[Any]:
    """Yield a type, or the members of a union."""
    if get_origin(hint) in (Union, UnionType):
        for each in get_args(hint):
            yield from _members(each)
    elif hint is not None:
        yield hint


def _choices(problems: Sequence[Any], first: Any) -> list[str]:
    """Return the kinds of values that a key accepts, in words, if it accepts several.

    pydantic reports each kind as a problem of its own, at a place that ends with its type.
    """
    place = first["loc"][:-1]
    kinds = [
        KINDS[problem["type"]]
        for problem in problems
        if problem["type"] in KINDS and problem["loc"][:-1] == place and _is_type(problem["loc"])
    ]
    return list(dict.fromkeys(kinds))


def _is_type(place: tuple[int | str, ...]) -> bool:
    """Return whether a place ends with the name of a type, not of a key."""
    return bool(place) and str(place[-1]).partition("[")[0] in TYPES


def _dotted(place: tuple[int | str, ...]) -> str:
    """Write a pydantic location as people do: ("tasks", 0, "name") is tasks[0].name."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}"
    return text.removeprefix(".")
