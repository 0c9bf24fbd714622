"""The entries of a sweep with every setting filled in, before they are crossed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Choice
from vlpeft.benchmark.cells.results import Results
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.core.config import JSON, dump, dump_identity, parse
from vlpeft.benchmark.core.errors import UserError, did_you_mean, error_context
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.datasets import dataset_path
from vlpeft.benchmark.plan.entries import SweepEntry, Tasks, parse_tasks, refuse_protocol_keys
from vlpeft.benchmark.plan.scale import Scale, load_scale
from vlpeft.benchmark.plan.search import Trials, read_trials
from vlpeft.benchmark.plan.sweep import Sweep, SweepHandle
from vlpeft.benchmark.plan.vary import Values


@dataclass(frozen=True)
class Resolved:
    """A method or backbone of a sweep: its entry, and its choice with all settings filled in."""

    entry: SweepEntry
    choice: Choice
    settings: Mapping[str, JSON]  # all of them, also those that `choice` leaves out of ids
    tried: tuple[Resolved, ...] = ()  # a method's settings that are compared first


@dataclass(frozen=True)
class Grid:
    """A sweep with every entry resolved, ready to be crossed."""

    sweep: Sweep
    where: str  # the sweep's file, for messages
    methods: list[Resolved]
    backbones: list[Resolved]
    tasks: list[Tasks]
    size: Scale | None
    results: Results | None
    trials: Trials  # of its searches


def read_grid(handle: SweepHandle, results: Results | None) -> Grid:
    """Read a sweep file and resolve its entries."""
    sweep, where = handle.sweep, str(handle.path)
    methods = [_resolve_method(entry, where) for entry in sweep.entries("methods", where)]
    size = None
    if handle.scale:
        size = load_scale(handle.scale)
    backbones = [
        _resolve_backbone(entry, size, where) for entry in sweep.entries("backbones", where)
    ]
    tasks = _read_tasks(sweep, handle.path)
    trials = Trials()
    if results is not None and any(_is_searched(method) for method in methods):
        trials = read_trials(handle.root)
    grid = Grid(sweep, where, methods, backbones, tasks, size, results, trials)
    _check_on(grid)
    _check_by_task(grid)
    return grid


def _is_searched(method: Resolved) -> bool:
    return method.entry.tuning is not None and method.entry.tuning.search is not None


def _resolve_method(entry: SweepEntry, where: str) -> Resolved:
    """Resolve a method."""
    where = f"{where}: method '{entry.label}'"
    entry = _assign(METHODS, entry, where)
    tried: tuple[Resolved, ...] = ()
    if entry.tuning is not None:
        tried = tuple(resolve_tried(entry, values, where) for values in entry.tuning.settings)
        _check_search(entry, where)
    return replace(resolve_entry(METHODS, entry, where), tried=tried)


def _check_search(entry: SweepEntry, where: str) -> None:
    """Raise UserError for a search of a setting that `by_task` replaces."""
    if entry.tuning is None or entry.tuning.search is None:
        return
    for key in entry.tuning.search.ranges:
        if any(key in settings for settings in entry.by_task.values()):
            raise UserError(
                f"{where}: tune: '{key}' is searched, and by_task has it, too; "
                "remove one of the two"
            )


def resolve_tried(entry: SweepEntry, values: Values, where: str) -> Resolved:
    """Resolve a method with one of the settings that are compared. Raises UserError."""
    each = entry.try_settings(values, METHODS.load(entry.name), f"{where}: tune")
    return resolve_entry(METHODS, each, where)


def _resolve_backbone(entry: SweepEntry, size: Scale | None, where: str) -> Resolved:
    """Resolve a backbone; a scale replaces some of its settings."""
    entry = _assign(BACKBONES, entry, f"{where}: backbone '{entry.label}'")
    scaled = entry
    if size is not None:
        settings = {**entry.settings, **size.scaled_settings(entry.name)}
        scaled = replace(entry, settings=settings)
    where = f"{where}: backbone '{entry.label}'"
    return replace(resolve_entry(BACKBONES, scaled, where), entry=entry)


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


def resolve_entry(registry: Registry[Any], entry: SweepEntry, where: str) -> Resolved:
    """Fill in the settings of an entry whose name is known. Raises UserError."""
    cls = registry.load(entry.name)
    refuse_protocol_keys(entry.settings, cls, where, "as `protocol: {{{key}: ...}}` in this entry")
    config = parse(cls, entry.settings, where)
    return Resolved(entry, Choice(entry.name, dump_identity(config)), dump(config))


def _check_on(grid: Grid) -> None:
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


def _check_by_task(grid: Grid) -> None:
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


def allows(on: tuple[str, ...], backbone: Resolved) -> bool:
    """True if an `on:` includes this backbone; an empty one includes all."""
    return not on or any(label in on for label in _names(backbone))


def _names(backbone: Resolved) -> tuple[str, str]:
    """Return what `on:` may call a backbone: its label, or that of all that its entry varies."""
    return backbone.entry.label, backbone.entry.family
