"""`vlpeft plan --explain`: every resolved setting of a cell, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.core.config import JSON, dump, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.datasets import DatasetSpec
from vlpeft.benchmark.plan.crossing import Crossed
from vlpeft.benchmark.plan.grid import cross_layers
from vlpeft.benchmark.plan.recipes import DEFAULT, Layer, origins
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results.tables.blocks import Block, Table, one_line, text_row
from vlpeft.results.tables.listing import flow

ABOUT = ("id", "row", "backbone", "task", "dataset", "seed")


@dataclass(frozen=True)
class SettingsSection:
    """Settings of one kind: their values, and in words where each comes from."""

    title: str
    values: Mapping[str, JSON]
    origins: Mapping[str, str]


def find(sweep: SweepHandle, beginning: str) -> Crossed:
    """Return the cell of a sweep, runnable or not, whose id starts with `beginning`.

    Raises UserError if there is none, or several.
    """
    found: dict[str, Crossed] = {}  # at another scale two cells may have the same id
    for each in cross_layers(sweep, Store(sweep.root)):
        if each.planned.id.startswith(beginning):
            found.setdefault(each.planned.id, each)
    if not beginning or len(found) != 1:
        raise UserError(
            f"--explain {beginning}: {len(found) or 'no'} cells have an id that starts with this; "
            f"see `vlpeft plan {sweep.named}`"
        )
    return next(iter(found.values()))


def sections(cell: Crossed) -> Iterator[SettingsSection]:
    """Yield method and backbone, then dataset and recipe of each task."""
    backbone, method = cell.planned.cell.backbone, cell.planned.cell.method
    yield _choice("method", method.name, method.settings, cell.method, METHODS)
    yield _choice("backbone", backbone.name, backbone.settings, cell.backbone, BACKBONES)
    for part, data, layers in zip(cell.planned.cell.parts, cell.data, cell.protocols, strict=True):
        prefix = f"{part.name}: " if cell.planned.cell.also else ""
        yield _dataset(part.dataset, data, prefix)
        recipe = dump(part.protocol)
        title = f"{prefix}protocol {part.protocol.name}"
        yield SettingsSection(title, recipe, origins(layers, recipe, DEFAULT))


def _choice(
    kind: str,
    name: str,
    settings: Mapping[str, JSON],
    layers: Sequence[Layer],
    registry: Registry[Any],
) -> SettingsSection:
    """Return the settings of a method or backbone."""
    values = dump(parse(registry.load(name), settings, f"{kind} {name}"))
    return SettingsSection(f"{kind} {name}", values, origins(layers, values, f"default of {name}"))


def _dataset(spec: DatasetSpec, layers: Sequence[Layer], prefix: str) -> SettingsSection:
    """Return the settings of a dataset, with the folder that it is read from."""
    values = {**dump(spec.open()), "root": spec.root}
    found = origins(layers, values, f"default of format {spec.format}")
    if not any("root" in layer.values for layer in layers):
        found["root"] = "$VLPEFT_DATA, or the default data folder without it"
    return SettingsSection(f"{prefix}dataset {spec.name}", values, found)


def explain_rows(cell: Crossed) -> dict[str, Any]:
    """Return the settings for scripts."""
    about = {key: getattr(cell.planned, key) for key in ABOUT}
    return {**about, "sections": [_plain(section) for section in sections(cell)]}


def _plain(section: SettingsSection) -> dict[str, Any]:
    settings = {}
    for key, value in section.values.items():
        settings[key] = {"value": value, "from": section.origins[key]}
    return {"title": section.title, "settings": settings}


def explain_table(cell: Crossed) -> Table:
    """Return the settings for people: a block a section, a row a setting."""
    planned = cell.planned
    task = f"{planned.task}/{planned.dataset}"
    title = f"{planned.id}: {planned.row} on {planned.backbone}, {task}, seed {planned.seed}"
    blocks, data = [], []
    for section in sections(cell):
        rows = []
        for key, value in section.values.items():
            text, origin = flow(value), section.origins[key]
            rows.append(text_row((key, text, origin)))
            data.append({"section": section.title, "setting": key, "value": text, "from": origin})
        blocks.append(Block(section.title, "lll", (("setting", "value", "from"),), tuple(rows)))
    return Table(one_line(title), (), tuple(blocks), tuple(data))
