"""The geometry of known weights, which plans and counts use where the weights are missing.

`geometry/` has one JSON file for each model. A file holds every value of the model's configuration,
and next to the values where they are published, so that nothing comes from memory.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from vlpeft.benchmark.backbones.files import AGAIN, library_errors, read_json
from vlpeft.benchmark.core.config import Config, parse
from vlpeft.benchmark.core.errors import UserError, WeightsError, error_context
from vlpeft.benchmark.core.libraries import open_clip
from vlpeft.benchmark.core.libraries.transformers import make_config

FOLDER = Path(__file__).parent / "geometry"

WeightsKind = Literal["hub", "blip", "open_clip"]
"""The folders: models by their id on the hub, files of BLIP's own code, models of open_clip."""
SourceText = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class SourcedValues(Config):
    """Values of a configuration.

    Args:
        source: Where they are published: a repository, its commit and a file, or the default of a
            library.
        values: The values by name; those of a part are in a mapping of their own.
    """

    source: SourceText
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Geometry(Config):
    """The configuration of one model.

    Args:
        model: Its name; the name of the file has `--` in the place of `/`.
        library: The library that builds it.
        type: The library's name for this kind of model.
        settings: Its values, by source.
    """

    model: SourceText
    library: Literal["transformers", "open_clip"]
    type: SourceText
    settings: tuple[SourcedValues, ...]

    def values(self) -> dict[str, Any]:
        """Return a copy of all values."""
        found: dict[str, Any] = {}
        for each in self.settings:
            _add(found, each.values)
        return copy.deepcopy(found)

    def __post_init__(self) -> None:
        """Refuse a value that has two sources."""
        names = [name for each in self.settings for name in _leaves(each.values)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} has two sources; keep one")


def known_models(kind: WeightsKind) -> tuple[str, ...]:
    """Return the names of the models whose geometry is known."""
    return _list_models(FOLDER / kind)


@cache
def _list_models(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem.replace("--", "/") for path in folder.glob("*.json")))


def find_geometry(kind: WeightsKind, model: str) -> Geometry | None:
    """Return the geometry of a model; None for a model that has no file.

    Raises:
        UserError: The file is damaged; the message names it and the key.
    """
    if model not in known_models(kind):
        return None
    return read_geometry(_path(kind, model))


@cache
def read_geometry(path: Path) -> Geometry:
    """Read a file of `geometry/`.

    Raises:
        UserError: The file is damaged, or is not a geometry.
    """
    geometry = parse(Geometry, read_json(path), str(path))
    expected = path.stem.replace("--", "/")
    if geometry.model != expected:
        raise UserError(f"{path}: model: {geometry.model} is not {expected}; rename the file")
    with error_context(str(path)):
        _check_values(geometry)
    return geometry


def _check_values(geometry: Geometry) -> None:
    if geometry.library == "open_clip":
        open_clip.check_settings(geometry.values())
    else:
        build_config(geometry)


def build_config(geometry: Geometry) -> Any:
    """Return the configuration of transformers.

    Raises:
        UserError: transformers does not have one of the values.
    """
    damaged = library_errors(lambda cause: WeightsError(f"{geometry.model}: {cause}; {AGAIN}"))
    with damaged:
        return make_config(geometry.type, geometry.values())


def _path(kind: WeightsKind, model: str) -> Path:
    return FOLDER / kind / f"{model.replace('/', '--')}.json"


def _add(found: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Add values; those of one part may have several sources."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            _add(found.setdefault(name, {}), value)
        else:
            found[name] = value


def _leaves(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of values; those of a part start with the part's name."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{each}" for each in _leaves(value))
        else:
            yield name
