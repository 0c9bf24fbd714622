"""From a sweep to its cells: methods crossed with backbones, tasks and seeds.

`benchmark/plan/sweep.py` reads the file, and `benchmark/plan/recipes.py` works out the recipe
that each cell follows. What is here puts both together: it resolves the settings of every
entry, then builds one cell for each combination.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Cell, Choice, Part, Planned
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.core.config import JSON, dump, dump_identity, parse
from vlpeft.benchmark.core.errors import UserError, did_you_mean, error_context
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.datasets import DatasetSpec, dataset_path, dataset_settings
from vlpeft.benchmark.plan.entries import (
    SweepEntry,
    TaskPlace,
    Tasks,
    parse_tasks,
    refuse_protocol_keys,
)
from vlpeft.benchmark.plan.recipes import Layer, resolve, sweep_layers
from vlpeft.benchmark.plan.scale import Scale, load_scale
from vlpeft.benchmark.plan.sweep import Sweep, SweepHandle


@dataclass(frozen=True)
class Crossed:
    """A cell of a sweep, with the layers of settings that it was made from."""

    planned: Planned
    data: tuple[tuple[Layer, ...], ...]  # for the dataset of each task
    method: tuple[Layer, ...]
    backbone: tuple[Layer, ...]
    protocols: tuple[tuple[Layer, ...], ...]  # for the recipe of each task


@dataclass(frozen=True)
class Resolved:
    """A method or backbone of a sweep: its entry, and its choice with all settings filled in."""

    entry: SweepEntry
    choice: Choice


@dataclass(frozen=True)
class _Grid:
    """A sweep with every entry resolved, ready to be crossed."""

    sweep: Sweep
    where: str  # the sweep's file, for messages
    methods: list[Resolved]
    backbones: list[Resolved]
    tasks: list[Tasks]
    size: Scale | None


def expand(sweep: SweepHandle) -> list[Planned]:
    """Return all cells of a sweep in its order, resolved but not yet checked.

    Raises UserError for the first bad setting.
    """
    return [each.planned for each in cross_layers(sweep)]


def cross_layers(sweep: SweepHandle) -> list[Crossed]:
    """Return the cells of `expand`, each with the layers of its settings."""
    grid = _read_grid(sweep)
    _check_on(grid)
    _check_by_task(grid)
    return list(_cross(grid))


def _read_grid(handle: SweepHandle) -> _Grid:
    """Read a sweep file and resolve its entries."""
    sweep, where = handle.sweep, str(handle.path)
    methods = [_resolve_method(entry, where) for entry in sweep.entries("methods", where)]
    size = None
    if handle.scale:
        size = load_scale(handle.scale)
    backbones = [
        _resolve_backbone(entry, size, where) for entry in sweep.entries("backbones", where)
    ]
    return _Grid(sweep, where, methods, backbones, _read_tasks(sweep, handle.path), size)


def _resolve_method(entry: SweepEntry, where: str) -> Resolved:
    """Resolve a method."""
    where = f"{where}: method '{entry.label}'"
    entry = _assign(METHODS, entry, where)
    return Resolved(entry, _resolve_choice(METHODS, entry, where))


def _resolve_backbone(entry: SweepEntry, size: Scale | None, where: str) -> Resolved:
    """Resolve a backbone; a scale replaces some of its settings."""
    entry = _assign(BACKBONES, entry, f"{where}: backbone '{entry.label}'")
    scaled = entry
    if size is not None:
        settings = {**entry.settings, **size.scaled_settings(entry.name)}
        scaled = replace(entry, settings=settings)
    where = f"{where}: backbone '{entry.label}'"
    return Resolved(entry, _resolve_choice(BACKBONES, scaled, where))


def _read_tasks(sweep: Sweep, path: Path) -> list[Tasks]:
    """Read the `tasks:` entries."""
    found: list[Tasks] = []
    for i, item in enumerate(sweep.tasks):
        found += parse_tasks(item, path, f"{path}: tasks[{i}]")
    files: dict[str, Path] = {}
    for place in (place for tasks in found for place in tasks.places):
        file = dataset_path(place.source)
        other = files.setdefault(file.stem, file)
        if other != file:
            raise UserError(
                f"{path}: {other} and {file} are two datasets with one name, '{file.stem}', which"
                " tables could not distinguish; rename one of the files"
            )
    return found


def _assign(registry: Registry[Any], entry: SweepEntry, where: str) -> SweepEntry:
    """Look up an entry's name and assign what varies. Raises UserError."""
    # An unknown name is part of the message already, so the place need not repeat it.
    place = where.removesuffix(f": {registry.kind} '{entry.name}'")
    with error_context(place):
        registry.entry(entry.name)
    return entry.assign(registry.load(entry.name), where)


def _resolve_choice(registry: Registry[Any], entry: SweepEntry, where: str) -> Choice:
    """Fill in the settings of an entry whose name is known. Raises UserError."""
    cls = registry.load(entry.name)
    refuse_protocol_keys(entry.settings, cls, where, "as `protocol: {{{key}: ...}}` in this entry")
    return Choice(entry.name, dump_identity(parse(cls, entry.settings, where)))


def _check_on(grid: _Grid) -> None:
    """Raise UserError for an `on:` that names no backbone of the sweep, or is misplaced."""
    labels = [label for backbone in grid.backbones for label in _names(backbone)]
    for method in grid.methods:
        where = f"{grid.where}: method '{method.entry.label}'"
        _check_labels(method.entry.on, labels, where)
    for i, tasks in enumerate(grid.tasks):
        _check_labels(tasks.on, labels, f"{grid.where}: tasks[{i}]")
    for backbone in grid.backbones:
        if backbone.entry.on:
            raise UserError(
                f"{grid.where}: backbone '{backbone.entry.label}': "
                "`on` belongs to a method or a task; remove it"
            )


def _check_labels(on: Iterable[str], labels: Sequence[str], where: str) -> None:
    """Raise UserError for a label that no backbone of the sweep has."""
    for label in on:
        if label not in labels:
            hint = did_you_mean(label, labels)
            raise UserError(f"{where}: on: no backbone '{label}' here{hint}")


def _check_by_task(grid: _Grid) -> None:
    """Raise UserError for a `by_task:` that names no task of the sweep, or is misplaced."""
    # A joint cell has one method for all its tasks, so `by_task` does not apply to it.
    known = {tasks.places[0].task for tasks in grid.tasks if len(tasks.places) == 1}
    for method in grid.methods:
        for task in method.entry.by_task:
            if task not in known:
                raise UserError(
                    f"{grid.where}: method '{method.entry.label}': "
                    f"by_task: no task '{task}' alone here{did_you_mean(task, known)}"
                )
    for backbone in grid.backbones:
        if backbone.entry.by_task:
            raise UserError(
                f"{grid.where}: backbone '{backbone.entry.label}': "
                "`by_task` belongs to a method; remove it"
            )


def _cross(grid: _Grid) -> Iterator[Crossed]:
    """Build the cells of every combination that `on:` allows."""
    # The layers of a dataset are the same in all its cells, so they are read once.
    data = [tuple(_data_layers(place, grid.size) for place in tasks.places) for tasks in grid.tasks]
    for backbone, number, method in product(grid.backbones, range(len(grid.tasks)), grid.methods):
        tasks = grid.tasks[number]
        if _allows(tasks.on, backbone) and _allows(method.entry.on, backbone):
            yield from _cells(grid, backbone, tasks, method, data[number])


def _allows(on: tuple[str, ...], backbone: Resolved) -> bool:
    """True if an `on:` includes this backbone; an empty one includes all."""
    return not on or any(label in on for label in _names(backbone))


def _names(backbone: Resolved) -> tuple[str, str]:
    """Return what `on:` may call a backbone: its label, or that of all that its entry varies."""
    return backbone.entry.label, backbone.entry.family


def _cells(
    grid: _Grid,
    backbone: Resolved,
    tasks: Tasks,
    method: Resolved,
    data: tuple[tuple[Layer, ...], ...],
) -> Iterator[Crossed]:
    """Build the cells of one combination, one for each seed."""
    alone = ""
    if len(tasks.places) == 1:
        alone = tasks.places[0].task
    if alone in method.entry.by_task:
        where = f"{grid.where}: method '{method.entry.label}'"
        method = Resolved(method.entry, _resolve_choice(METHODS, method.entry.at(alone), where))
    where = f"{grid.where}: protocol"
    layers = tuple(_recipe_layers(grid, place, method, backbone, where) for place in tasks.places)
    parts = tuple(
        Part(place.task, _scaled_dataset(place, grid.size), resolve(recipe, where))
        for place, recipe in zip(tasks.places, layers, strict=True)
    )
    method_layers = method.entry.layers("method", alone)
    backbone_layers = _backbone_layers(backbone.entry, grid.size)
    for planned in _planned(method, backbone, tasks, parts, grid.sweep.seeds):
        yield Crossed(planned, data, method_layers, backbone_layers, layers)


def _scaled_dataset(place: TaskPlace, size: Scale | None) -> DatasetSpec:
    """Return a task's dataset, or the one that replaces it at a scale."""
    if size is None:
        return place.spec
    return size.drawn_dataset(place.spec)


def _backbone_layers(entry: SweepEntry, size: Scale | None) -> tuple[Layer, ...]:
    """Return the layers of a backbone's settings; those of a scale come last."""
    own = entry.layers("backbone")
    if size is None:
        return own
    return (*own, Layer(size.origin, size.scaled_settings(entry.name)))


def _planned(
    method: Resolved,
    backbone: Resolved,
    tasks: Tasks,
    parts: tuple[Part, ...],
    seeds: Sequence[int],
) -> Iterator[Planned]:
    """Build the cells of one combination, with their place in the table."""
    first, *also = parts
    base = Cell(
        method.choice,
        backbone.choice,
        first.task,
        first.dataset,
        first.protocol,
        seeds[0],
        tuple(also),
    )
    task = _join(part.task for part in parts)
    dataset = _join(part.dataset.name for part in parts)
    varied = {**backbone.entry.varied, **tasks.places[0].varied, **method.entry.varied}
    families = _families(method, backbone, tasks)
    for cell_id, cell in base.with_seeds(seeds):
        yield Planned(
            cell_id,
            method.entry.label,
            backbone.entry.label,
            task,
            dataset,
            cell.seed,
            cell,
            varied=varied,
            families=families,
        )


def _families(method: Resolved, backbone: Resolved, tasks: Tasks) -> dict[str, str]:
    """Return the labels without what varies, of those sides that vary something."""
    families = {}
    if method.entry.varied:
        families["method"] = method.entry.family
    if backbone.entry.varied:
        families["backbone"] = backbone.entry.family
    if tasks.places[0].varied:
        families["dataset"] = Path(tasks.places[0].source).stem
    return families


def _join(names: Iterable[str]) -> str:
    """Join the names of a joint cell's tasks or datasets by "+", each once."""
    return "+".join(dict.fromkeys(names))


def _recipe_layers(
    grid: _Grid, place: TaskPlace, method: Resolved, backbone: Resolved, where: str
) -> tuple[Layer, ...]:
    """Return the recipe's layers for one task of a method and a backbone, lowest first."""
    spec = place.spec
    facts = _facts(place, method, backbone)
    layers = [
        Layer(f"dataset {spec.name}", spec.protocol),
        *sweep_layers(grid.sweep.protocol, facts, where),
        Layer(f"backbone '{backbone.entry.label}'", backbone.entry.protocol),
        Layer(f"method '{method.entry.label}'", method.entry.protocol),
    ]
    if grid.size is not None:
        layers += grid.size.layers(facts)
    return tuple(layers)


def _facts(place: TaskPlace, method: Resolved, backbone: Resolved) -> dict[str, JSON]:
    """Return what the `when:` conditions of protocols may ask for.

    These are the names, and the settings of method and backbone as `method.KEY` and
    `backbone.KEY`, defaults included.
    """
    facts: dict[str, JSON] = {
        "backbone": backbone.entry.name,
        "task": place.task,
        "dataset": place.spec.name,
        "method": method.entry.name,
    }
    kinds: tuple[tuple[str, Registry[Any], Choice], ...] = (
        ("method", METHODS, method.choice),
        ("backbone", BACKBONES, backbone.choice),
    )
    for kind, registry, choice in kinds:
        settings = dump(parse(registry.load(choice.name), choice.settings, kind))
        facts |= {f"{kind}.{key}": value for key, value in settings.items()}
    return facts


def _data_layers(place: TaskPlace, size: Scale | None) -> tuple[Layer, ...]:
    """Return the layers of a dataset's settings, or of what replaces it at a scale."""
    name = Path(place.source).stem
    own: tuple[Layer, ...] = (Layer(f"dataset {name}", dataset_settings(place.source)),)
    if place.varied:
        own += (Layer(f"task {place.task}/{place.spec.name}", place.varied),)
    if size is None:
        return own
    return size.data_layers(place.spec) or own
