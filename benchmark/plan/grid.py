"""Sweep -> cells: entries resolved, methods crossed with backbones, tasks and seeds.

The sweep's file is read in `benchmark/plan/sweep.py`; what recipe each cell follows is worked out in `benchmark/plan/recipes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Cell, Choice, Part, Planned
from vlpeft.benchmark.contract.method import METHODS
from vlpeft.benchmark.core.config import JSON, dump, dump_identity, parse
from vlpeft.benchmark.core.errors import UserError, did_you_mean, error_context
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.datasets import dataset_settings
from vlpeft.benchmark.plan.recipes import Layer, resolve, sweep_layers
from vlpeft.benchmark.plan.scale import Scale, load_scale
from vlpeft.benchmark.plan.sweep import (
    Sweep,
    SweepEntry,
    TaskPlace,
    Tasks,
    load_sweep,
    parse_tasks,
    refuse_protocol_keys,
    sweep_path,
)


@dataclass(frozen=True)
class Crossed:
    """A cell of a sweep beside what it was made from."""

    planned: Planned
    data: tuple[tuple[Layer, ...], ...]  # layers of the settings of each task's dataset
    method: tuple[Layer, ...]  # layers of the method's settings
    backbone: tuple[Layer, ...]
    protocols: tuple[tuple[Layer, ...], ...]  # layers of the recipe of each task


def expand(name_or_path: str, scale: str = "") -> list[Planned]:
    """All cells of a sweep, resolved but not yet checked, in the sweep's order. Raises UserError for the first bad setting."""
    return [each.planned for each in cross_layers(name_or_path, scale)]


def cross_layers(name_or_path: str, scale: str = "") -> list[Crossed]:
    """The same, each with the layers of its settings."""
    path = sweep_path(name_or_path)
    sweep, where = load_sweep(name_or_path), str(path)
    methods = [
        (e, _resolve(METHODS, e, f"{where}: method '{e.label}'"))
        for e in sweep.entries("methods", where)
    ]
    size = load_scale(scale) if scale else None
    backbones = [
        (e, _resolve(BACKBONES, _scaled(e, size), f"{where}: backbone '{e.label}'"))
        for e in sweep.entries("backbones", where)
    ]
    tasks = [parse_tasks(item, path, f"{where}: tasks[{i}]") for i, item in enumerate(sweep.tasks)]
    _check_on(methods, tasks, backbones, where)
    _check_by_task([entry for entry, _ in methods], [entry for entry, _ in backbones], tasks, where)
    return list(_cross(sweep, where, methods, backbones, tasks, size))


def _cross(
    sweep: Sweep,
    where: str,
    methods: list[tuple[SweepEntry, Choice]],
    backbones: list[tuple[SweepEntry, Choice]],
    tasks: list[Tasks],
    size: Scale | None,
) -> Iterator[Crossed]:
    given = {
        id(chosen): tuple(_data_layers(place, size) for place in chosen.places) for chosen in tasks
    }
    for (backbone, model), chosen, (method, way) in product(backbones, tasks, methods):
        if any(on and backbone.label not in on for on in (chosen.on, method.on)):
            continue
        alone = (
            chosen.places[0].task if len(chosen.places) == 1 else ""
        )  # `by_task` says nothing of joint cells
        if alone in method.by_task:
            way = _resolve(METHODS, method.at(alone), f"{where}: method '{method.label}'")  # noqa: PLW2901
        layers = tuple(
            _layers(sweep, place, ((method, way), (backbone, model)), size, f"{where}: protocol")
            for place in chosen.places
        )
        places = tuple(
            place if size is None else place._replace(spec=size.drawn_dataset(place.spec))
            for place in chosen.places
        )
        recipes = [resolve(each, f"{where}: protocol") for each in layers]
        parts = tuple(
            Part(place.task, place.spec, recipe)
            for place, recipe in zip(places, recipes, strict=True)
        )
        built = (
            *backbone.layers("backbone"),
            *(() if size is None else (Layer(size.origin, size.scaled_settings(backbone.name)),)),
        )
        for seed in sweep.seeds:
            planned = _planned((method.label, way), (backbone.label, model), parts, seed)
            yield Crossed(planned, given[id(chosen)], method.layers("method", alone), built, layers)


def _planned(
    method: tuple[str, Choice], backbone: tuple[str, Choice], parts: tuple[Part, ...], seed: int
) -> Planned:
    first, *also = parts
    cell = Cell(
        method[1], backbone[1], first.task, first.dataset, first.protocol, seed, tuple(also)
    )
    task, dataset = (
        "+".join(dict.fromkeys(names))
        for names in zip(*((p.task, p.dataset.name) for p in parts), strict=True)
    )
    return Planned(cell.id, method[0], backbone[0], task, dataset, seed, cell)


def _check_on(
    methods: list[tuple[SweepEntry, Choice]],
    tasks: list[Tasks],
    backbones: list[tuple[SweepEntry, Choice]],
    where: str,
) -> None:
    labels = [entry.label for entry, _ in backbones]
    users = [(f"method '{entry.label}'", entry.on) for entry, _ in methods] + [
        (f"tasks[{i}]", each.on) for i, each in enumerate(tasks)
    ]
    for user, on in users:
        for label in on:
            if label not in labels:
                raise UserError(
                    f"{where}: {user}: on: no backbone '{label}' here{did_you_mean(label, labels)}"
                )
    for entry, _ in backbones:
        if entry.on:
            raise UserError(
                f"{where}: backbone '{entry.label}': `on` belongs to a method or a task; remove it"
            )


def _check_by_task(
    methods: list[SweepEntry], backbones: list[SweepEntry], tasks: list[Tasks], where: str
) -> None:
    known = {chosen.places[0].task for chosen in tasks if len(chosen.places) == 1}
    for entry in methods:
        for task in entry.by_task:
            if task not in known:
                raise UserError(
                    f"{where}: method '{entry.label}': by_task: no task '{task}' alone here{did_you_mean(task, known)}"
                )
    for entry in backbones:
        if entry.by_task:
            raise UserError(
                f"{where}: backbone '{entry.label}': `by_task` belongs to a method; remove it"
            )


def _scaled(entry: SweepEntry, size: Scale | None) -> SweepEntry:
    return (
        entry
        if size is None
        else replace(entry, settings={**entry.settings, **size.scaled_settings(entry.name)})
    )


def _layers(
    sweep: Sweep,
    place: TaskPlace,
    entries: tuple[tuple[SweepEntry, Choice], tuple[SweepEntry, Choice]],
    size: Scale | None,
    where: str,
) -> tuple[Layer, ...]:
    """The recipe's layers for one task of a method and a backbone, lowest first."""
    task, spec, _ = place
    (method, way), (backbone, model) = entries
    facts: dict[str, JSON] = {
        "backbone": backbone.name,
        "task": task,
        "dataset": spec.name,
        "method": method.name,
    }
    for kind, registry, choice in (("method", METHODS, way), ("backbone", BACKBONES, model)):
        facts |= {
            f"{kind}.{key}": value
            for key, value in dump(parse(registry.load(choice.name), choice.settings, kind)).items()
        }
    own = (
        Layer(f"{kind} '{entry.label}'", entry.protocol)
        for kind, entry in (("backbone", backbone), ("method", method))
    )
    above = () if size is None else size.layers(facts)
    return (
        Layer(f"dataset {spec.name}", spec.protocol),
        *sweep_layers(sweep.protocol, facts, where),
        *own,
        *above,
    )


def _data_layers(place: TaskPlace, size: Scale | None) -> tuple[Layer, ...]:
    """Where the settings of a task's dataset come from, or of what stands for it at another scale."""
    own = (Layer(f"dataset {place.spec.name}", dataset_settings(place.source)),)
    return own if size is None else size.data_layers(place.spec) or own


def _resolve(registry: Registry[Any], entry: SweepEntry, where: str) -> Choice:
    with error_context(
        where.removesuffix(f": {registry.kind} '{entry.name}'")
    ):  # which the message says itself
        registry.entry(entry.name)
    cls = registry.load(entry.name)
    refuse_protocol_keys(entry.settings, cls, where, "as `protocol: {{{key}: ...}}` in this entry")
    return Choice(entry.name, dump_identity(parse(cls, entry.settings, where)))
