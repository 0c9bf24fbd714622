"""Datasets: one YAML names a file format and its files.

A dataset is the name of a YAML in this folder (`vqav2`) or the path of the user's own YAML. Its
keys are the fields of the format's class and these:

* `format`: the name of the file format, the only one that is required;
* `summary`, `licence`, `homepage`: shown by `vlpeft list` and `vlpeft data`;
* `protocol`: settings that every recipe on this data starts from, such as `{eval_split: val}`;
* `cut`: a validation split to cut out of another one, where the files have none;
* `expected`, `downloads`, `by_hand`: used by `vlpeft data`.

The files are in the folder `root`:

* a dataset NAME of this folder: `$VLPEFT_DATA/NAME`, or `~/.cache/vlpeft/data/NAME` if the variable
  is not set;
* the user's own YAML: its `root`, relative to the folder of the YAML; without `root` that folder;
* `root: ""`: no folder, for data that is generated or comes with a package.

`load_spec` resolves a dataset without opening its data.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from vlpeft.benchmark.core.config import (
    JSON,
    Config,
    NonNegative,
    dump_identity,
    load_yaml,
    parse,
    yaml_names,
)
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.core.paths import YAML, expand_home, resolve_path
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.datasets.base import DataFormat
from vlpeft.benchmark.datasets.cut import Cut
from vlpeft.benchmark.datasets.sources import ByHand, Download

FORMATS: Registry[DataFormat] = Registry("format", "vlpeft/benchmark/datasets")
FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Card(Config):
    """The description of a dataset, from its YAML and the registry alone."""

    name: str
    format: str
    summary: str = ""
    licence: str = ""
    homepage: str = ""
    # Split -> published numbers, under the names that `DataFormat.counts` uses.
    expected: Mapping[str, Mapping[str, NonNegative]] = field(default_factory=dict)
    downloads: tuple[Download, ...] = ()
    by_hand: tuple[ByHand, ...] = ()
    protocol: Mapping[str, JSON] = field(default_factory=dict)
    cut: Cut | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the dataset's format serves."""
        return _tasks(self.format)


# The keys of a dataset YAML that are not fields of its format.
ABOUT = tuple(f.name for f in fields(Card) if f.name != "name")


@dataclass(frozen=True)
class DatasetSpec(Config):
    """A resolved dataset.

    `settings` are all fields of its format but `root`, including defaults. `root` is an absolute
    path, or "". `protocol` is the lowest layer of every recipe on this data.
    """

    name: str
    format: str
    settings: Mapping[str, JSON]
    root: str
    protocol: Mapping[str, JSON] = field(default_factory=dict)
    cut: Cut | None = None  # part of the id of cells that use its splits, see `Part.identity`

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the dataset's format serves."""
        return _tasks(self.format)

    def identity(self) -> dict[str, JSON]:
        """Return the part of a cell's id that names the data.

        It leaves out `root`, and `protocol`, which the cell's own protocol contains. It includes
        the name, because two folders may hold different data under the same file names.
        """
        return {"name": self.name, "format": self.format, "settings": dict(self.settings)}

    def splits(self) -> tuple[str, ...]:
        """Return the names of all splits, those of a cut included. Reads no file."""
        own = self.open().splits()
        if self.cut is None:
            return own
        return (*own, *self.cut.names())

    def open(self) -> DataFormat:
        """Build the object of the format. It reads no file before its methods are called."""
        values = {**self.settings, "root": self.root}
        return parse(FORMATS.load(self.format), values, f"dataset '{self.name}'")


def dataset_names() -> tuple[str, ...]:
    """Return the names of the shipped datasets, sorted."""
    return yaml_names(FOLDER)


def load_card(name_or_path: str) -> Card:
    """Read the description of a dataset; import no format and open no data.

    Raises:
        UserError: The name is unknown, or the YAML is wrong.
    """
    path = dataset_path(name_or_path)
    return _card(load_yaml(path), path)


def load_spec(name_or_path: str) -> DatasetSpec:
    """Resolve the name of a shipped dataset or the path of a dataset YAML.

    Raises:
        UserError: The name is unknown, or the YAML is wrong; names the file, the key and the fix.
    """
    path = dataset_path(name_or_path)
    values = load_yaml(path)
    card = _card(values, path)
    own = _format_settings(values)
    data = parse(FORMATS.load(card.format), own, str(path))
    if card.cut is not None:
        _check_cut(card.cut, data.splits(), path)
    settings = dump_identity(data)
    root = settings.pop("root")
    if "root" not in own:
        root = _default_root(path)
    place = _absolute(root, path)
    return DatasetSpec(card.name, card.format, settings, place, card.protocol, card.cut)


def change_settings(
    spec: DatasetSpec, name: str, changes: Mapping[str, JSON], where: str
) -> DatasetSpec:
    """Return a dataset with other settings of its format, under another name.

    Raises UserError, which begins with `where`, for a bad setting.
    """
    values = {**spec.settings, **changes, "root": spec.root}
    settings = dump_identity(parse(FORMATS.load(spec.format), values, where))
    settings.pop("root")
    return replace(spec, name=name, settings=settings)


def dataset_settings(name_or_path: str) -> dict[str, JSON]:
    """Return the settings of the format that a dataset YAML itself contains."""
    return _format_settings(load_yaml(dataset_path(name_or_path)))


def dataset_path(name_or_path: str) -> Path:
    """Return the path of a dataset's YAML. Raises UserError for an unknown name."""
    if name_or_path.endswith(YAML):
        return resolve_path(name_or_path)
    if name_or_path not in dataset_names():
        raise UserError(
            f"unknown dataset '{name_or_path}'{did_you_mean(name_or_path, dataset_names())}"
        )
    return FOLDER / f"{name_or_path}.yaml"


def _format_settings(values: Mapping[str, JSON]) -> dict[str, JSON]:
    return {key: value for key, value in values.items() if key not in ABOUT}


def _card(values: Mapping[str, JSON], path: Path) -> Card:
    about = {key: values[key] for key in ABOUT if key in values}
    card = parse(Card, {"name": path.stem, **about}, str(path))
    if card.format not in FORMATS.entries:
        near = did_you_mean(card.format, FORMATS.entries)
        raise UserError(f"{path}: unknown data format '{card.format}'{near}")
    known = {f.name for f in fields(Protocol)} - {"name"}
    unknown = set(card.protocol) - known
    if unknown:
        near = did_you_mean(min(unknown), known)
        raise UserError(f"{path}: protocol: unknown key '{min(unknown)}'{near}")
    return card


def _check_cut(cut: Cut, known: Sequence[str], path: Path) -> None:
    """Raise UserError if a cut names a split that the files have, or lacks the split it cuts."""
    if cut.of not in known:
        raise UserError(f"{path}: cut: of: no split '{cut.of}'{did_you_mean(cut.of, known)}")
    if cut.name in known:
        raise UserError(f"{path}: cut: name: the files have a split '{cut.name}'; rename the cut")


def _default_root(path: Path) -> str:
    """Return the `root` of a dataset whose YAML sets none."""
    if path.parent != FOLDER:
        return "."
    return str(data_folder() / path.stem)


def data_folder() -> Path:
    """Return the folder of the shipped datasets' files."""
    return expand_home(os.environ.get("VLPEFT_DATA") or "~/.cache/vlpeft/data").absolute()


def _absolute(root: str, path: Path) -> str:
    """Return `root` relative to the folder of the YAML; "" means no folder."""
    if root == "":
        return ""
    return str(path.parent / expand_home(root))


def _tasks(name: str) -> tuple[str, ...]:
    entry = FORMATS.entry(name)
    if "tasks" in entry.options:
        return tuple(entry.options["tasks"])
    # The entry point of another package: its options are known only after the import.
    return tuple(entry.load().tasks)
