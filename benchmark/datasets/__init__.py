"""Datasets: one YAML names a file format and its files; `load_spec` resolves it without opening any data.

A dataset is given by the name of a shipped YAML of this folder (`vqav2`) or by the path of one's own. Its keys are
`format`, optionally `summary`, `licence`, `homepage`, `protocol` (what any recipe starts from on this data, such as
`{eval_split: val}`), `expected`, `downloads` and `by_hand` (for `vlpeft data`), and the fields of the format's class. The
files lie in `root`:

* a shipped dataset NAME: `$VLPEFT_DATA/NAME`, or `~/.cache/vlpeft/data/NAME` where the variable is not set;
* one's own YAML: its `root`, taken from that YAML's folder if relative, or that folder itself if there is none;
* `root: ""`: no folder at all, for data that is generated or comes inside a package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from vlpeft.benchmark.core.config import (
    JSON,
    Config,
    NonNegative,
    Protocol,
    dump_identity,
    load_yaml,
    parse,
)
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.datasets.base import DataFormat
from vlpeft.benchmark.datasets.sources import ByHand, Download

FORMATS: Registry[DataFormat] = Registry("format", "vlpeft/benchmark/datasets")
FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Card(Config):
    """What is known of a dataset from its YAML and the registry alone.

    `expected` holds published numbers by split, in the words of `DataFormat.counts`.
    """

    name: str
    format: str
    summary: str = ""
    licence: str = ""
    homepage: str = ""
    expected: Mapping[str, Mapping[str, NonNegative]] = field(default_factory=dict)
    downloads: tuple[Download, ...] = ()
    by_hand: tuple[ByHand, ...] = ()
    protocol: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks the dataset's format serves."""
        return _tasks(self.format)


ABOUT = tuple(
    f.name for f in fields(Card) if f.name != "name"
)  # the keys of a dataset YAML that are no fields of its format


@dataclass(frozen=True)
class DatasetSpec(Config):
    """A dataset, resolved: `settings` are all fields of its format but `root`, defaults spelled out; `root` is absolute or ""."""

    name: str
    format: str
    settings: Mapping[str, JSON]
    root: str
    protocol: Mapping[str, JSON] = field(
        default_factory=dict
    )  # the lowest layer of any recipe on this data

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks the dataset's format serves."""
        return _tasks(self.format)

    def identity(self) -> dict[str, JSON]:
        """What names the data, for a cell's id: everything but `root`, and `protocol`, which the cell's own holds.

        The name is part of it because two folders may hold different data under the same file names.
        """
        return {"name": self.name, "format": self.format, "settings": dict(self.settings)}

    def open(self) -> DataFormat:
        """Build the format's object. No file is read before its methods are called."""
        return parse(
            FORMATS.load(self.format),
            {**self.settings, "root": self.root},
            f"dataset '{self.name}'",
        )


def dataset_names() -> tuple[str, ...]:
    """Names of the shipped datasets, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_card(name_or_path: str) -> Card:
    """Read what a list shows of a dataset; neither its format is imported nor its data opened. Raises UserError."""
    path = dataset_path(name_or_path)
    return _card(load_yaml(path), path)


def load_spec(name_or_path: str) -> DatasetSpec:
    """Resolve a shipped name or the path of a dataset YAML. Raises UserError naming the file, the key and the fix."""
    path = dataset_path(name_or_path)
    values = load_yaml(path)
    card = _card(values, path)
    own = {key: value for key, value in values.items() if key not in ABOUT}
    settings = dump_identity(parse(FORMATS.load(card.format), own, str(path)))
    root = settings.pop("root")
    return DatasetSpec(
        card.name,
        card.format,
        settings,
        _root(path, root if "root" in own else None),
        card.protocol,
    )


def dataset_settings(name_or_path: str) -> dict[str, JSON]:
    """The format's settings that a dataset's YAML itself holds."""
    return {
        key: value
        for key, value in load_yaml(dataset_path(name_or_path)).items()
        if key not in ABOUT
    }


def dataset_path(name_or_path: str) -> Path:
    """The YAML of a shipped name, or a path of one's own. Raises UserError for an unknown name."""
    if name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path).expanduser().resolve()
    if name_or_path not in dataset_names():
        raise UserError(
            f"unknown dataset '{name_or_path}'{did_you_mean(name_or_path, dataset_names())}"
        )
    return FOLDER / f"{name_or_path}.yaml"


def _card(values: Mapping[str, JSON], path: Path) -> Card:
    about = {key: values[key] for key in ABOUT if key in values}
    card = parse(Card, {"name": path.stem, **about}, str(path))
    if card.format not in FORMATS.entries:
        raise UserError(
            f"{path}: unknown data format '{card.format}'{did_you_mean(card.format, FORMATS.entries)}"
        )
    known = {f.name for f in fields(Protocol)} - {"name"}
    if unknown := set(card.protocol) - known:
        raise UserError(
            f"{path}: protocol: unknown key '{min(unknown)}'{did_you_mean(min(unknown), known)}"
        )
    return card


def _root(path: Path, given: str | None) -> str:
    if given is None and path.parent == FOLDER:
        given = str(
            Path(os.environ.get("VLPEFT_DATA") or "~/.cache/vlpeft/data").expanduser().absolute()
            / path.stem
        )
    return "" if given == "" else str(path.parent / Path(given or ".").expanduser())


def _tasks(name: str) -> tuple[str, ...]:
    entry = FORMATS.entry(
        name
    )  # one from another package is known in full only once it is imported
    return tuple(entry.options["tasks"] if "tasks" in entry.options else entry.load().tasks)
