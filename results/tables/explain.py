"""What `vlpeft plan --explain` shows: every setting of a cell, resolved, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.contract.method import METHODS
from vlpeft.benchmark.core.config import JSON, dump, parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.datasets import DatasetSpec
from vlpeft.benchmark.plan.grid import Crossed, cross_layers
from vlpeft.benchmark.plan.recipes import DEFAULT, Layer, origins
from vlpeft.results.tables.listing import flow
from vlpeft.results.tables.table import Block, Table, Text, one_line


@dataclass(frozen=True)
class SettingsSection:
    """Settings of one kind: each value, and in words where it comes from."""

    title: str
    values: Mapping[str, JSON]
    origins: Mapping[str, str]


def find(name_or_path: str, beginning: str, scale: str = "") -> Crossed:
    """The cell of a sweep, runnable or not, whose id starts so. Raises UserError for none or several."""
    found: dict[str, Crossed] = {}  # at another scale two cells may be one
    for each in cross_layers(name_or_path, scale):
        if each.planned.id.startswith(beginning):
            found.setdefault(each.planned.id, each)
    if not beginning or len(found) != 1:
        raise UserError(
            f"--explain {beginning}: {len(found) or 'no'} cells have an id that starts so; see `vlpeft plan {name_or_path}`"
        )
    return next(iter(found.values()))


def sections(cell: Crossed) -> Iterator[SettingsSection]:
    """Method and backbone, then dataset and recipe of each task."""
    model, way = cell.planned.cell.backbone, cell.planned.cell.method
    yield _choice("method", way.name, way.settings, cell.method, METHODS)
    yield _choice("backbone", model.name, model.settings, cell.backbone, BACKBONES)
    for part, data, layers in zip(cell.planned.cell.parts, cell.data, cell.protocols, strict=True):
        several = f"{part.name}: " if cell.planned.cell.also else ""
        yield _dataset(part.dataset, data, several)
        recipe = dump(part.protocol)
        yield SettingsSection(
            f"{several}protocol {part.protocol.name}", recipe, origins(layers, recipe, DEFAULT)
        )


def _choice(
    kind: str,
    name: str,
    settings: Mapping[str, JSON],
    layers: Sequence[Layer],
    registry: Registry[Any],
) -> SettingsSection:
    values = dump(parse(registry.load(name), settings, f"{kind} {name}"))
    return SettingsSection(f"{kind} {name}", values, origins(layers, values, f"default of {name}"))


def _dataset(spec: DatasetSpec, layers: Sequence[Layer], several: str) -> SettingsSection:
    values = {**dump(spec.open()), "root": spec.root}
    found = origins(layers, values, f"default of format {spec.format}")
    if not any("root" in layer.values for layer in layers):
        found["root"] = "$VLPEFT_DATA, or where data lies without it"
    return SettingsSection(f"{several}dataset {spec.name}", values, found)


def explain_rows(cell: Crossed) -> dict[str, Any]:
    """The same for scripts."""
    told = [
        {
            "title": s.title,
            "settings": {
                key: {"value": value, "from": s.origins[key]} for key, value in s.values.items()
            },
        }
        for s in sections(cell)
    ]
    planned = cell.planned
    about = {
        key: getattr(planned, key) for key in ("id", "row", "backbone", "task", "dataset", "seed")
    }
    return {**about, "sections": told}


def explain_table(cell: Crossed) -> Table:
    """For people: a block a section, a row a setting."""
    planned = cell.planned
    title = f"{planned.id}: {planned.row} on {planned.backbone}, {planned.task}/{planned.dataset}, seed {planned.seed}"
    blocks, data = [], []
    for section in sections(cell):
        lines = [(key, flow(value), section.origins[key]) for key, value in section.values.items()]
        rows = tuple(tuple(Text(one_line(text)) for text in line) for line in lines)
        blocks.append(Block(section.title, "lll", (("setting", "value", "from"),), rows))
        data += [
            {"section": section.title, "setting": key, "value": value, "from": origin}
            for key, value, origin in lines
        ]
    return Table(one_line(title), (), tuple(blocks), tuple(data))
