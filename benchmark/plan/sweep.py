"""A sweep file read: its methods, backbones, tasks and recipe; and the plan that a launched one leaves behind."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.core.config import JSON, Config, Protocol, load_yaml, parse, parse_json
from vlpeft.benchmark.core.errors import UserError, did_you_mean, error_context
from vlpeft.benchmark.datasets import DatasetSpec, dataset_path, load_spec
from vlpeft.benchmark.plan.recipes import Layer, protocol_files
from vlpeft.benchmark.plan.scale import scale_path

SWEEPS = Path(__file__).resolve().parents[1] / "sweeps"
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what every generator takes
NonEmpty = Annotated[tuple[Any, ...], Field(min_length=1)]


class TaskPlace(NamedTuple):
    """A task on a dataset; `source` is how the sweep names the dataset: as shipped, or its YAML's path."""

    task: str
    spec: DatasetSpec
    source: str


@dataclass(frozen=True)
class TaskEntry(Config):
    """One `tasks:` entry of a sweep."""

    task: str
    dataset: str  # a shipped dataset, or the path of a dataset YAML (relative to the sweep's file)


@dataclass(frozen=True)
class Only(Config):
    """`on:` of a `tasks:` entry."""

    on: tuple[str, ...]


@dataclass(frozen=True)
class Joint(Config):
    """A `tasks:` entry of several tasks that one model is trained on together."""

    joint: Annotated[tuple[Any, ...], Field(min_length=2)]


@dataclass(frozen=True)
class Tasks:
    """A resolved `tasks:` entry: one task, or several to train on together; `on` labels the only backbones to cross it with."""

    places: tuple[TaskPlace, ...]
    on: tuple[str, ...]


@dataclass(frozen=True)
class SweepEntry(Config):
    """One `methods:` or `backbones:` entry of a sweep."""

    name: str
    label: str = ""
    on: tuple[str, ...] = ()  # of a method: labels of the only backbones to cross it with
    by_task: dict[str, dict[str, JSON]] = field(
        default_factory=dict
    )  # of a method: settings that differ from task to task
    settings: dict[str, JSON] = field(default_factory=dict)
    protocol: dict[str, JSON] = field(default_factory=dict)

    def layers(self, kind: str, task: str = "") -> tuple[Layer, ...]:
        """Its settings, those of a task over them, and where they stand."""
        where = f"{kind} '{self.label}'"
        own = (
            (Layer(f"{where}, by_task: {task}", self.by_task[task]),)
            if task in self.by_task
            else ()
        )
        return (Layer(where, self.settings), *own)

    def at(self, task: str) -> SweepEntry:
        """The entry as it is for a task."""
        return replace(self, settings={**self.settings, **self.by_task.get(task, {})})


@dataclass(frozen=True)
class Sweep(Config):
    """A sweep file. Every method is crossed with every backbone, task and seed."""

    methods: NonEmpty
    backbones: NonEmpty
    tasks: NonEmpty
    protocol: str | dict[str, JSON]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    title: str = ""
    summary: str = ""
    notes: str = ""  # printed under the table

    def entries(self, kind: str, where: str) -> list[SweepEntry]:
        """The `methods` or `backbones` entries with unique labels."""
        read = [_entry(item, f"{where}: {kind}[{i}]") for i, item in enumerate(getattr(self, kind))]
        names = Counter(e.name for e in read)
        labelled = [
            replace(e, label=e.label or (e.name if names[e.name] == 1 else _describe(e)))
            for e in read
        ]
        for label, times in Counter(e.label for e in labelled).items():
            if times > 1:
                raise UserError(
                    f"{where}: {kind}: '{label}' stands {times} times; remove one, or give each its own `label`"
                )
        return labelled


def sweep_names() -> tuple[str, ...]:
    """Names of the shipped sweeps; those in a folder are called folder/name."""
    return tuple(sorted(sweep_name(path) for path in SWEEPS.rglob("*.yaml")))


def sweep_name(path: Path) -> str:
    """What a sweep's file is called: a shipped one by its place among them, a user's own by its file's name."""
    shipped = path.resolve().is_relative_to(SWEEPS)
    return path.resolve().relative_to(SWEEPS).with_suffix("").as_posix() if shipped else path.stem


def sweep_path(name_or_path: str) -> Path:
    """The file of a shipped sweep's name, or the path of a user's own. Raises UserError for neither."""
    if name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path)
    if name_or_path in sweep_names():
        return SWEEPS / f"{name_or_path}.yaml"
    raise UserError(
        f"unknown sweep '{name_or_path}'{did_you_mean(name_or_path, sweep_names())}; or give a path ending in .yaml"
    )


def load_sweep(name_or_path: str) -> Sweep:
    """Read a sweep file. Raises UserError naming file, key and fix."""
    path = sweep_path(name_or_path)
    values = load_yaml(path)
    refuse_protocol_keys(values, Sweep, str(path), "under `protocol:`")
    return parse(Sweep, values, str(path))


def fingerprint(path: Path, scale: str = "") -> str:
    """Hash of all that says what a sweep's cells are: its file, its protocol's, its datasets' and a scale's."""
    files = [
        path,
        *protocol_files(load_sweep(str(path)).protocol),
        *(dataset_path(place.source) for place in places(path)),
    ]
    digest = hashlib.sha256()
    for file in (*dict.fromkeys(files), *((scale_path(scale),) if scale else ())):
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def places(path: Path) -> list[TaskPlace]:
    """Every task of a sweep's file, on its dataset; those of joint entries, too."""
    tasks = (
        parse_tasks(item, path, f"{path}: tasks[{i}]")
        for i, item in enumerate(load_sweep(str(path)).tasks)
    )
    return [place for each in tasks for place in each.places]


def plan_file(root: Path, sweep: str, scale: str = "") -> Path:
    """Where a launched sweep's plan lies; at another scale than its own, under NAME@SCALE."""
    return root / "sweeps" / f"{sweep}{f'@{scale}' if scale else ''}.json"


def load_plan(name_or_path: str, root: Path, scale: str = "") -> Plan:
    """The plan that `vlpeft sweep` left in a result folder. Raises UserError if there is none or the sweep has changed since."""
    plan = read_plan(name_or_path, root, scale)
    if changed := reason_outdated(plan, name_or_path, scale):
        raise UserError(
            f"{changed} in {root}; {launch_command(name_or_path, root, scale)} for what is new or changed"
        )
    return plan


def reason_outdated(plan: Plan, name_or_path: str, scale: str = "") -> str:
    """Why a plan is not what its sweep says now; "" where it is."""
    path = sweep_path(name_or_path)
    same = plan.source == fingerprint(path, scale)
    return (
        "" if same else f"{path}, its protocol or a dataset of it has changed since it was launched"
    )


def launch_command(name_or_path: str, root: Path, scale: str = "") -> str:
    """The command, for messages."""
    return f"run `vlpeft sweep {as_typed(name_or_path, root, scale)}`"


def as_typed(name_or_path: str, root: Path, scale: str = "") -> str:
    """A command's words for a sweep and its result folder, as a shell reads them."""
    return shlex.join([name_or_path, "--root", str(root), *(("--scale", scale) if scale else ())])


def read_plan(name_or_path: str, root: Path, scale: str = "") -> Plan:
    """The same, even if the sweep has changed. Raises UserError if there is no plan."""
    path = sweep_path(name_or_path)
    if scale:
        scale_path(scale)  # a misspelt one is said to be that
    file = plan_file(root, sweep_name(path), scale)
    again = launch_command(name_or_path, root, scale)
    try:
        return parse_json(Plan, file.read_bytes(), str(file))
    except FileNotFoundError as error:
        raise UserError(
            f"{root} holds no results of the sweep '{sweep_name(path)}'; {again}"
        ) from error
    except NotADirectoryError as error:
        raise UserError(
            f"--root {root}: a file, or below one; name the result folder that `vlpeft sweep` has filled"
        ) from error
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"cannot read {file} ({error}); {again}") from error


def launched_plans(root: Path) -> list[Plan]:
    """The plans of a result folder, by name: what was launched there, whatever has become of the sweep's file since.

    Raises UserError for a damaged one.
    """
    return [_launched(path) for path in sorted((root / "sweeps").rglob("*.json"))]


def _launched(path: Path) -> Plan:
    try:
        return parse_json(Plan, path.read_bytes(), str(path))
    except (OSError, UserError) as error:
        raise UserError(
            f"cannot read {path} ({error}); run its sweep again with --root, which writes it anew"
        ) from error


def _entry(item: JSON, where: str) -> SweepEntry:
    if isinstance(item, str):
        return SweepEntry(item)
    if not isinstance(item, dict) or "name" not in item:
        raise UserError(
            f"{where}: write a name, or a mapping with `name:` and settings, got {json.dumps(item, default=str)[:80]}"
        )
    own = {key: item[key] for key in ("name", "label", "on", "by_task", "protocol") if key in item}
    return parse(
        SweepEntry, {**own, "settings": {k: v for k, v in item.items() if k not in own}}, where
    )


def _describe(entry: SweepEntry) -> str:
    parts = [f"{k}={v}" for k, v in {**entry.settings, **entry.protocol}.items()]
    return f"{entry.name} ({', '.join(parts)})" if parts else entry.name


def refuse_protocol_keys(values: Mapping[str, JSON], cls: type[Any], where: str, fix: str) -> None:
    """Say where a key of the training recipe belongs that stands in the wrong place."""
    known = {f.name for f in fields(Protocol)} - {f.name for f in fields(cls)} - {"name"}
    for key in values:
        if key in known:
            raise UserError(
                f"{where}: unknown key '{key}' here; it belongs to the protocol: write it {fix.format(key=key)}"
            )


def parse_tasks(item: JSON, path: Path, where: str) -> Tasks:
    on: tuple[str, ...] = ()
    if isinstance(item, dict) and "on" in item:
        on = parse(Only, {"on": item["on"]}, where).on
        item = {key: value for key, value in item.items() if key != "on"}
    return Tasks(_places(item, path, where), on)


def _places(item: JSON, path: Path, where: str) -> tuple[TaskPlace, ...]:
    if isinstance(item, dict) and "joint" in item:
        places = tuple(
            _task(each, path, f"{where}: joint[{i}]")
            for i, each in enumerate(parse(Joint, item, where).joint)
        )
        names = [f"{place.task}/{place.spec.name}" for place in places]
        if len(set(names)) < len(names):
            raise UserError(f"{where}: joint: a task stands twice; remove one")
        return places
    return (_task(item, path, where),)


def _task(item: JSON, path: Path, where: str) -> TaskPlace:
    if isinstance(item, str) and item.count("/") == 1:
        task, dataset = item.split("/")
        item = {"task": task, "dataset": dataset}
    if not isinstance(item, dict):
        raise UserError(
            f"{where}: write task/dataset, or a mapping with `task:` and `dataset:`, got {json.dumps(item, default=str)[:80]}"
        )
    from vlpeft.benchmark.tasks import TASKS

    refuse_protocol_keys(item, TaskEntry, where, "under the sweep's `protocol:`")
    wanted = parse(TaskEntry, item, where)
    with error_context(where):
        TASKS.entry(wanted.task)
    dataset = wanted.dataset
    if dataset.endswith((".yaml", ".yml")):
        dataset = str(path.parent / dataset)
        spec = load_spec(dataset)  # its errors name its own file
    else:
        with error_context(where):
            spec = load_spec(dataset)
    if wanted.task not in spec.tasks:
        raise UserError(
            f"{where}: dataset '{spec.name}' has no task '{wanted.task}'; it has: {', '.join(spec.tasks)}"
        )
    return TaskPlace(wanted.task, spec, dataset)
