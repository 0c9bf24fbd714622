"""A sweep at another scale.

`--scale tiny` keeps a table's grid and replaces its towers, its data and its schedule. The
plan and its default folder below runs/ are then called NAME@SCALE.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from vlpeft.benchmark.core.config import JSON, Config, dump_identity, load_yaml, parse, yaml_names
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.datasets import FORMATS, DatasetSpec, dataset_settings, load_spec
from vlpeft.benchmark.plan.recipes import Layer, Rule, matching_rules

FOLDER = Path(__file__).resolve().parents[1] / "scales"


@dataclass(frozen=True)
class Scale(Config):
    """A file of `benchmark/scales/`."""

    name: str  # of the file
    summary: str
    backbones: dict[str, dict[str, JSON]]  # backbone name -> settings that replace its own
    dataset: str  # the shipped dataset that replaces all others
    settings: dict[str, JSON]  # settings of that dataset
    protocol: dict[str, JSON]  # keys that override every recipe
    rules: tuple[Rule, ...] = ()

    @property
    def origin(self) -> str:
        """The origin of its settings, in words."""
        return f"scale {self.name}"

    def scaled_settings(self, backbone: str) -> Mapping[str, JSON]:
        """Return the settings that replace a backbone's own.

        Raises UserError for a backbone that the scale does not know.
        """
        if backbone not in self.backbones:
            known = ", ".join(self.backbones)
            raise UserError(
                f"--scale: it does not cover the backbone '{backbone}'; it covers: {known}"
            )
        return self.backbones[backbone]

    def layers(self, facts: Mapping[str, JSON]) -> Iterator[Layer]:
        """Return what it sets in the recipe of a cell with these facts."""
        yield Layer(self.origin, self.protocol)
        yield from matching_rules(self.rules, facts, self.origin, str(scale_path(self.name)))

    def drawn_dataset(self, spec: DatasetSpec) -> DatasetSpec:
        """Return the drawn data that replaces a dataset.

        Each dataset gets its own seed, so that two datasets do not become the same one.
        """
        base = load_spec(self.dataset)
        if spec.format == base.format:
            return spec
        settings = {**base.settings, **self._settings(spec)}
        where = f"scale: dataset '{self.dataset}'"
        made = dump_identity(parse(FORMATS.load(base.format), settings, where))
        made.pop("root")
        return DatasetSpec(f"{spec.name} ({base.name})", base.format, made, base.root)

    def data_layers(self, spec: DatasetSpec) -> tuple[Layer, ...]:
        """Return the layers of the settings that replace a dataset's; none if it stays."""
        if spec.format == load_spec(self.dataset).format:
            return ()
        return (
            Layer(f"dataset {self.dataset}", dataset_settings(self.dataset)),
            Layer(self.origin, self._settings(spec)),
        )

    def _settings(self, spec: DatasetSpec) -> dict[str, JSON]:
        return {**self.settings, "seed": crc32(spec.name.encode())}


def scale_names() -> tuple[str, ...]:
    """Return the names of the shipped scales."""
    return yaml_names(FOLDER)


def scale_path(name: str) -> Path:
    """Return the file of a shipped scale. Raises UserError for an unknown one."""
    known = scale_names()
    if name not in known:
        raise UserError(f"--scale: unknown scale '{name}'{did_you_mean(name, known)}")
    return FOLDER / f"{name}.yaml"


def load_scale(name: str) -> Scale:
    """Read a shipped scale. Raises UserError for an unknown one."""
    path = scale_path(name)
    return parse(Scale, {"name": name, **load_yaml(path)}, str(path))
