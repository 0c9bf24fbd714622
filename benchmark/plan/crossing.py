"""The cells of one combination: a method on a backbone, with a task, for each seed.

Each carries the layers of settings that it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlpeft.benchmark.cells.cell import Cell, Part, Planned
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.core.config import JSON
from vlpeft.benchmark.core.errors import error_context
from vlpeft.benchmark.datasets import DatasetSpec, dataset_settings
from vlpeft.benchmark.plan.entries import (
    SweepEntry,
    TaskPlace,
    Tasks,
)
from vlpeft.benchmark.plan.recipes import Layer, resolve, sweep_layers
from vlpeft.benchmark.plan.resolved import (
    Grid,
    Resolved,
    resolve_entry,
)
from vlpeft.benchmark.plan.resources import join_resources
from vlpeft.benchmark.plan.scale import Scale
from vlpeft.benchmark.plan.tuning import Tuning


@dataclass(frozen=True)
class Crossed:
    """A cell of a sweep, with the layers of settings that it was made from."""

    planned: Planned
    data: tuple[tuple[Layer, ...], ...]  # for the dataset of each task
    method: tuple[Layer, ...]
    backbone: tuple[Layer, ...]
    protocols: tuple[tuple[Layer, ...], ...]  # for the recipe of each task


def build_cells(
    grid: Grid,
    backbone: Resolved,
    tasks: Tasks,
    method: Resolved,
    data: tuple[tuple[Layer, ...], ...],
    tuning: Tuning | None = None,
) -> Iterator[Crossed]:
    """Build the cells of one combination, one for each seed; with `tuning`, those of stage 1."""
    alone = ""
    if len(tasks.places) == 1:
        alone = tasks.places[0].task
    if alone in method.entry.by_task:
        where = f"{grid.where}: method '{method.entry.label}'"
        at_task = resolve_entry(METHODS, method.entry.at(alone), where)
        method = replace(at_task, entry=method.entry)
    where = f"{grid.where}: protocol"
    layers = tuple(_recipe_layers(grid, place, method, backbone, where) for place in tasks.places)
    seeds = grid.sweep.seeds
    if tuning is not None:
        seeds = tuning.options.seeds
        places = zip(layers, tasks.places, strict=True)
        layers = tuple(_tuning_layers(*each, tuning, where) for each in places)
    parts = tuple(
        Part(place.task, _scaled_dataset(place, grid.size), resolve(recipe, where))
        for place, recipe in zip(tasks.places, layers, strict=True)
    )
    method_layers = method.entry.layers("method", alone)
    backbone_layers = _backbone_layers(backbone.entry, grid.size)
    resources = {}
    if grid.size is None:  # they are what the full size needs
        resources = join_resources(method.entry.resources, backbone.entry.resources)
    plugins = grid.sweep.plugins
    for planned in _planned(method, backbone, tasks, parts, seeds, resources, plugins):
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
    resources: dict[str, JSON],
    plugins: tuple[str, ...],
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
        plugins,
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
            resources=resources,
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
    grid: Grid, place: TaskPlace, method: Resolved, backbone: Resolved, where: str
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


def _tuning_layers(
    layers: tuple[Layer, ...], place: TaskPlace, tuning: Tuning, where: str
) -> tuple[Layer, ...]:
    """Return the layers of a recipe for stage 1, which never reads the tested split."""
    recipe = resolve(layers, where)
    cut = place.spec.cut
    rest = ""
    if cut is not None and cut.name == tuning.options.on and recipe.train_split == cut.of:
        rest = cut.rest
    with error_context(where):
        return (*layers, Layer("tune", tuning.recipe(recipe.eval_split, rest)))


def _facts(place: TaskPlace, method: Resolved, backbone: Resolved) -> dict[str, JSON]:
    """Return what the `when:` conditions of protocols may ask for.

    These are the names, and the settings of method and backbone as `method.KEY` and
    `backbone.KEY`, defaults included.
    """
    return {
        "backbone": backbone.entry.name,
        "task": place.task,
        "dataset": place.spec.name,
        "method": method.entry.name,
        **{f"method.{key}": value for key, value in method.settings.items()},
        **{f"backbone.{key}": value for key, value in backbone.settings.items()},
    }


def data_layers(place: TaskPlace, size: Scale | None) -> tuple[Layer, ...]:
    """Return the layers of a dataset's settings, or of what replaces it at a scale."""
    name = Path(place.source).stem
    own: tuple[Layer, ...] = (Layer(f"dataset {name}", dataset_settings(place.source)),)
    if place.varied:
        own += (Layer(f"task {place.task}/{place.spec.name}", place.varied),)
    if size is None:
        return own
    return size.data_layers(place.spec) or own
