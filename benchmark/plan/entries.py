"""The entries of a sweep file: its methods, its backbones, and its tasks on datasets.

An entry that varies something (`vlpeft.benchmark.plan.vary`) becomes several, one a combination.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from vlpeft.benchmark.core.config import JSON, Config, parse
from vlpeft.benchmark.core.errors import UserError, error_context
from vlpeft.benchmark.core.paths import YAML
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets import FORMATS, DatasetSpec, change_settings, load_spec
from vlpeft.benchmark.plan.recipes import Layer
from vlpeft.benchmark.plan.resources import parse_resources
from vlpeft.benchmark.plan.tuning import Tuning
from vlpeft.benchmark.plan.vary import (
    KEYS,
    Values,
    Variation,
    combine,
    family,
    label_values,
    parse_variation,
    split_by_owner,
)

# Every other key of an entry is a setting, or one of `vlpeft.benchmark.plan.vary`.
ENTRY_KEYS = ("name", "label", "on", "by_task", "protocol", "resources")
SHOWN_CHARACTERS = 80  # of a bad value, in an error message


class TaskPlace(NamedTuple):
    """A task on a dataset. `source` is the dataset's shipped name, or the path of its YAML file."""

    task: str
    spec: DatasetSpec
    source: str
    varied: Mapping[str, JSON] = {}  # settings of the dataset's format


@dataclass(frozen=True)
class TaskEntry(Config):
    """One `tasks:` entry of a sweep."""

    task: str
    # The name of a shipped dataset, or the path of a YAML file relative to the sweep's file.
    dataset: str


@dataclass(frozen=True)
class Only(Config):
    """The `on:` key of a `tasks:` entry."""

    on: tuple[str, ...]


@dataclass(frozen=True)
class Joint(Config):
    """A `tasks:` entry with several tasks, on which one model trains together."""

    joint: Annotated[tuple[Any, ...], Field(min_length=2)]


@dataclass(frozen=True)
class Tasks:
    """A resolved `tasks:` entry: one task, or several that train one model.

    `on` holds the labels of the only backbones to cross it with; empty means all.
    """

    places: tuple[TaskPlace, ...]
    on: tuple[str, ...]


@dataclass(frozen=True)
class SweepEntry(Config):
    """One `methods:` or `backbones:` entry of a sweep."""

    name: str
    label: str = ""
    # The next two are for methods only: the labels of the backbones to cross it with, and
    # the settings that differ from task to task.
    on: tuple[str, ...] = ()
    by_task: dict[str, dict[str, JSON]] = field(default_factory=dict)
    settings: dict[str, JSON] = field(default_factory=dict)
    protocol: dict[str, JSON] = field(default_factory=dict)
    resources: dict[str, JSON] = field(default_factory=dict)  # as `parse_resources` returns them
    # What varies, with the values of this combination; and those of them that `assign` has not
    # yet added to `settings` or `protocol`, because that needs the entry's class.
    varied: dict[str, JSON] = field(default_factory=dict)
    unassigned: dict[str, JSON] = field(default_factory=dict)
    family: str = ""  # the label without what varies
    tuning: Tuning | None = None  # of a method; `vlpeft.benchmark.plan.sweep` adds it

    def assign(self, cls: type[Any], where: str) -> SweepEntry:
        """Return the entry with its varied values among `settings` and `protocol`.

        Raises UserError for a key that neither `cls` nor the protocol has, or that is fixed, too.
        """
        fixed = (*self.settings, *self.protocol)
        settings, protocol = split_by_owner(self.unassigned, cls, fixed, where)
        return replace(
            self,
            settings={**self.settings, **settings},
            protocol={**self.protocol, **protocol},
            unassigned={},
        )

    def try_settings(self, values: Values, cls: type[Any], where: str) -> SweepEntry:
        """Return the entry of one setting of stage 1, with it in the label.

        Raises UserError for a key that neither `cls` nor the protocol has, or that is fixed, too.
        """
        tried = replace(
            self,
            label=label_values(self.label, values),
            varied={**self.varied, **values},
            unassigned=values,
            family=self.family or self.label,
        )
        return tried.assign(cls, where)

    def layers(self, kind: str, task: str = "") -> tuple[Layer, ...]:
        """Return the layers of its settings, lowest first: for all tasks, then for this one."""
        where = f"{kind} '{self.label}'"
        general = Layer(where, self.settings)
        if task not in self.by_task:
            return (general,)
        return (general, Layer(f"{where}, by_task: {task}", self.by_task[task]))

    def at(self, task: str) -> SweepEntry:
        """Return the entry with the settings that it has for a task."""
        return replace(self, settings={**self.settings, **self.by_task.get(task, {})})

    def describe(self) -> str:
        """Return the name with all settings as in YAML, to distinguish entries of one name."""
        changes = {**self.settings, **self.protocol}
        if not changes:
            return self.name
        return label_values(self.name, changes)


def parse_entry(item: JSON, where: str) -> SweepEntry:
    """Read one `methods:` or `backbones:` entry: a name, or a mapping with settings.

    What it varies is not read yet, see `vary_entry`. Raises UserError for anything else.
    """
    if isinstance(item, str):
        return SweepEntry(item)
    if not isinstance(item, dict) or "name" not in item:
        raise UserError(
            f"{where}: write a name, or a mapping with `name:` and settings, got {_shorten(item)}"
        )
    if isinstance(label := item.get("label"), str) and not label.strip():
        raise UserError(f"{where}: `label` is empty; write a label, or remove the key")
    own = {key: item[key] for key in ENTRY_KEYS if key in item}
    if "resources" in own:
        own["resources"] = parse_resources(own["resources"], where)
    other = (*own, *KEYS, "tune")
    settings = {key: value for key, value in item.items() if key not in other}
    return parse(SweepEntry, {**own, "settings": settings}, where)


def vary_entry(
    entry: SweepEntry, item: JSON, protocol: str | Mapping[str, JSON], where: str
) -> list[SweepEntry]:
    """Return an entry with a label for each combination of what varies.

    Args:
        entry: What `parse_entry` has read, with its label.
        item: The same entry as it is in the file.
        protocol: The sweep's `protocol:` for a method, which may vary keys for all methods; "" for
            a backbone.
        where: The place of the entry, for messages.

    Raises:
        UserError: For a bad list or range, and for a key that varies in both or is fixed here.
    """
    own = Variation()
    if isinstance(item, Mapping):
        own = parse_variation(item, where)
    shared = Variation()
    if isinstance(protocol, Mapping):
        shared = parse_variation(protocol, f"{where.partition(': ')[0]}: protocol")
    for key in shared.settings():
        if key in protocol:
            raise UserError(
                f"{where.partition(': ')[0]}: protocol: '{key}' varies and has a fixed value; "
                "remove one of the two"
            )
        if key in own.settings() or key in entry.protocol:
            raise UserError(
                f"{where}: the sweep's protocol varies '{key}' for all methods, and this entry has "
                "it, too; remove one of the two"
            )
    both = product(combine(own, where), combine(shared, where))
    return [_vary(entry, values, recipe, where) for values, recipe in both]


def _vary(entry: SweepEntry, values: Values, recipe: Values, where: str) -> SweepEntry:
    """Return the entry of one combination."""
    varied = {**values, **recipe}
    with error_context(where):
        label = label_values(entry.label, varied)
    return replace(
        entry,
        label=label,
        protocol={**entry.protocol, **recipe},
        varied=varied,
        unassigned=values,
        family=family(entry.label, varied),
    )


def refuse_protocol_keys(values: Mapping[str, JSON], cls: type[Any], where: str, fix: str) -> None:
    """Raise UserError for a key of the training recipe that is in the wrong place.

    Args:
        values: The mapping to check.
        cls: The class that reads it; its own fields are allowed.
        where: The place, for the message.
        fix: How to write the key; `{key}` is replaced by its name.
    """
    known = {f.name for f in fields(Protocol)} - {f.name for f in fields(cls)} - {"name"}
    for key in values:
        if key in known:
            raise UserError(
                f"{where}: unknown key '{key}' here; "
                f"it belongs to the protocol: write it {fix.format(key=key)}"
            )


def parse_tasks(item: JSON, path: Path, where: str) -> list[Tasks]:
    """Read one `tasks:` entry of the sweep file `path`: one, or one for each combination.

    Raises UserError.
    """
    on: tuple[str, ...] = ()
    variation = Variation()
    if isinstance(item, dict):
        if "on" in item:
            on = parse(Only, {"on": item["on"]}, where).on
        variation = parse_variation(item, where)
        item = {key: value for key, value in item.items() if key not in ("on", *KEYS)}
    if isinstance(item, dict) and "joint" in item:
        if variation.settings():
            raise UserError(f"{where}: a joint entry cannot vary; write one for each value")
        return [Tasks(_parse_joint(item, path, where), on)]
    place = _parse_task(item, path, where)
    return [Tasks((_vary_task(place, values, where),), on) for values in combine(variation, where)]


def _vary_task(place: TaskPlace, values: Values, where: str) -> TaskPlace:
    """Return a task on the dataset with other settings; its name says which."""
    if not values:
        return place
    cls = FORMATS.load(place.spec.format)
    refuse_protocol_keys(values, cls, where, "as `vary: {{{key}: ...}}` under `protocol:`")
    split_by_owner(values, cls, ("root",), where)
    name = label_values(place.spec.name, values)
    return place._replace(spec=change_settings(place.spec, name, values, where), varied=values)


def _parse_joint(item: JSON, path: Path, where: str) -> tuple[TaskPlace, ...]:
    """Read the tasks of a joint entry."""
    items = parse(Joint, item, where).joint
    places = tuple(_parse_task(each, path, f"{where}: joint[{i}]") for i, each in enumerate(items))
    names = {f"{place.task}/{place.spec.name}" for place in places}
    if len(names) < len(places):
        raise UserError(f"{where}: joint: a task appears twice; remove one")
    return places


def _parse_task(item: JSON, path: Path, where: str) -> TaskPlace:
    """Read one task on a dataset: `task/dataset`, or a mapping."""
    from vlpeft.benchmark.tasks import TASKS

    entry = _task_entry(item, where)
    with error_context(where):
        TASKS.entry(entry.task)
    source = entry.dataset
    if source.endswith(YAML):
        source = str(path.parent / source)
        spec = load_spec(source)  # its errors already name the dataset's file
    else:
        with error_context(where):
            spec = load_spec(source)
    if entry.task not in spec.tasks:
        known = ", ".join(spec.tasks)
        raise UserError(
            f"{where}: dataset '{spec.name}' has no task '{entry.task}'; it has: {known}"
        )
    return TaskPlace(entry.task, spec, source)


def _task_entry(item: JSON, where: str) -> TaskEntry:
    """Read the names of a task and its dataset."""
    if isinstance(item, str) and item.count("/") == 1:
        task, dataset = item.split("/")
        item = {"task": task, "dataset": dataset}
    if not isinstance(item, dict):
        raise UserError(
            f"{where}: write task/dataset, or a mapping with `task:` and `dataset:`, "
            f"got {_shorten(item)}"
        )
    refuse_protocol_keys(item, TaskEntry, where, "under the sweep's `protocol:`")
    return parse(TaskEntry, item, where)


def _shorten(item: JSON) -> str:
    """Return a bad value as JSON, cut to fit a message."""
    return json.dumps(item, default=str)[:SHOWN_CHARACTERS]
