"""Sweeps: the content of their files, and what a sweep is at a scale and in a result folder."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.core.config import (
    JSON,
    Config,
    Seed,
    decode_yaml,
    parse,
    parse_json,
    read_yaml,
)
from vlpeft.benchmark.core.errors import UserError, error_context
from vlpeft.benchmark.core.files import read_bytes
from vlpeft.benchmark.core.paths import resolve_path
from vlpeft.benchmark.datasets import dataset_path
from vlpeft.benchmark.plan.entries import (
    SweepEntry,
    TaskPlace,
    parse_entry,
    parse_tasks,
    refuse_protocol_keys,
    vary_entry,
)
from vlpeft.benchmark.plan.plan_files import plan_file, refuse_other_sweep, scaled_name
from vlpeft.benchmark.plan.recipes import locate_protocol, protocol_files
from vlpeft.benchmark.plan.scale import scale_path
from vlpeft.benchmark.plan.sweep_files import name_file, sweep_name, sweep_names, sweep_path
from vlpeft.benchmark.plan.tuning import parse_tuning
from vlpeft.benchmark.run.plugins import load_plugins

NonEmptyList = Annotated[tuple[Any, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Sweep(Config):
    """A sweep file. Every method is crossed with every backbone, task and seed."""

    methods: NonEmptyList
    backbones: NonEmptyList
    tasks: NonEmptyList
    protocol: str | dict[str, JSON]
    tune: dict[str, JSON] | None = None  # see vlpeft.benchmark.plan.tuning
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    title: str = ""
    summary: str = ""
    notes: str = ""  # printed below the table
    # Files with methods, backbones and so on of the user, relative to the sweep's file; absolute
    # once the sweep is read.
    plugins: tuple[str, ...] = ()

    def entries(self, kind: str, where: str) -> list[SweepEntry]:
        """Return the `methods` or `backbones` entries, each with a unique label.

        An entry that varies something appears once for each combination.

        Raises UserError for a bad entry, and for a label that appears twice.
        """
        places = {f"{where}: {kind}[{i}]": item for i, item in enumerate(getattr(self, kind))}
        read = {place: parse_entry(item, place) for place, item in places.items()}
        names = Counter(entry.name for entry in read.values())
        protocol = self.protocol if kind == "methods" else ""
        labelled = []
        for place, entry in read.items():
            own = _add_label(entry, unique=names[entry.name] == 1)
            if kind == "methods":
                own = self._add_tuning(own, places[place], where, place)
            labelled += vary_entry(own, places[place], protocol, place)
        for label, times in Counter(entry.label for entry in labelled).items():
            if times > 1:
                raise UserError(
                    f"{where}: {kind}: '{label}' appears {times} times; "
                    "remove one, or give each its own `label`"
                )
        return labelled

    def _add_tuning(self, entry: SweepEntry, item: JSON, where: str, place: str) -> SweepEntry:
        """Add the tuning of a method: its own, or the sweep's. `tune: null` means none."""
        if isinstance(item, Mapping) and "tune" in item:
            if item["tune"] is None:
                return entry
            return replace(entry, tuning=parse_tuning(item["tune"], place))
        if self.tune is None:
            return entry
        return replace(entry, tuning=parse_tuning(self.tune, where))


def _add_label(entry: SweepEntry, *, unique: bool) -> SweepEntry:
    """Label an entry with its name; add its settings if the name is not unique."""
    if entry.label:
        return entry
    if unique:
        return replace(entry, label=entry.name)
    return replace(entry, label=entry.describe())


def load_sweep(name_or_path: str) -> Sweep:
    """Read a sweep file. Raises UserError with the file, the key and the fix."""
    path = sweep_path(name_or_path)
    return _parse_sweep(read_yaml(path), path)


def _parse_sweep(data: bytes, path: Path) -> Sweep:
    """Parse a sweep, find the files that it names, and register its plug-ins."""
    values = decode_yaml(data, path)
    refuse_protocol_keys(values, Sweep, str(path), "under `protocol:`")
    sweep = parse(Sweep, values, str(path))
    folder = path.absolute().parent
    plugins = tuple(str(folder / file) for file in sweep.plugins)
    with error_context(f"{path}: plugins"):
        load_plugins(plugins)
    protocol = sweep.protocol
    if isinstance(protocol, str):
        protocol = locate_protocol(protocol, folder)
    elif isinstance(protocol.get("base"), str):
        protocol = {**protocol, "base": locate_protocol(str(protocol["base"]), folder)}
    return replace(sweep, plugins=plugins, protocol=protocol)


def default_root(name: str) -> Path:
    """Return the result folder of a launch without `--root`, relative to the current folder."""
    return Path("runs") / name


@dataclass(frozen=True)
class SweepHandle:
    """A sweep as it was named: by a name or path, at a scale, with its result folder.

    The file is read once, so all that a handle says is about the same content.

    Attributes:
        named: The name of a shipped sweep, or the path of a YAML file.
        scale: The name of a shipped scale; "" for the sweep's own sizes.
        root: The result folder; only the plan of a launch needs one.
    """

    named: str
    scale: str = ""
    root: Path = Path()

    @cached_property
    def path(self) -> Path:
        """The sweep's file. Raises UserError for an unknown name."""
        return sweep_path(self.named)

    @cached_property
    def data(self) -> bytes:
        """The bytes of the file. Raises UserError if it cannot be read."""
        return read_yaml(self.path)

    @cached_property
    def sweep(self) -> Sweep:
        """The content of the file. Raises UserError for a bad one."""
        return _parse_sweep(self.data, self.path)

    @property
    def name(self) -> str:
        """The name that plans and evidence have: NAME, or NAME@SCALE."""
        return scaled_name(sweep_name(self.path), self.scale)

    def places(self) -> list[TaskPlace]:
        """Return every task with its dataset, those of joint entries included."""
        found: list[TaskPlace] = []
        for i, item in enumerate(self.sweep.tasks):
            for tasks in parse_tasks(item, self.path, f"{self.path}: tasks[{i}]"):
                found += tasks.places
        return found

    def fingerprint(self) -> str:
        """Return 12 hex digits that change whenever a file changes that defines the cells.

        The sweep's own file counts as it was read. The files of its protocol, its datasets and its
        scale count as they are now.
        """
        protocol = self.sweep.protocol
        with error_context(f"{self.path}: protocol"):
            files = list(protocol_files(protocol))
        files += [dataset_path(place.source) for place in self.places()]
        unique = list(dict.fromkeys(files))
        if self.scale:
            unique.append(scale_path(self.scale))
        digest = hashlib.sha256(self.data + b"\0")
        for file in unique:
            digest.update(file.read_bytes() + b"\0")
        return digest.hexdigest()[:12]

    def load_plan(self) -> Plan:
        """Read the plan that `vlpeft sweep` left in the result folder.

        Raises UserError if there is none, or if the sweep has changed since then.
        """
        plan = self.read_plan()
        if changed := self.reason_outdated(plan):
            raise UserError(
                f"{changed} in {self.root}; {self.launch_command()} for what is new or changed, "
                f"or name {self.root} in place of the sweep for what was launched"
            )
        return plan

    def read_plan(self) -> Plan:
        """Read the plan in the result folder, even if the sweep has changed since then.

        Raises UserError if there is no plan, if it is damaged, or if it is of another sweep.
        """
        plan = self._read_plan()
        refuse_other_sweep(plan, name_file(self.path), self.fingerprint(), self.root)
        return plan

    def _read_plan(self) -> Plan:
        name = sweep_name(self.path)
        if self.scale:
            scale_path(self.scale)  # raises for a misspelled scale
        file = plan_file(self.root, self.name)
        try:
            return parse_json(Plan, read_bytes(file), str(file))
        except FileNotFoundError as error:
            raise UserError(
                f"{self.root} holds no results of the sweep '{name}'; "
                f"{self._find_results() or self.launch_command()}"
            ) from error
        except NotADirectoryError as error:
            raise UserError(
                f"--root {self.root}: is a file, or inside one; "
                "give a result folder that `vlpeft sweep` has filled"
            ) from error
        except (OSError, ValueError, UserError) as error:
            raise UserError(f"cannot read {file} ({error}); {self.launch_command()}") from error

    def _find_results(self) -> str:
        """Return where results lie if the sweep was launched from the folder of its file, or ""."""
        root = self.path.parent / default_root(self.name)
        if self.named in sweep_names() or not plan_file(root, self.name).exists():
            return ""
        return f"there are some next to its file: add {shlex.join(['--root', str(root)])}"

    def reason_outdated(self, plan: Plan) -> str:
        """Return why a plan no longer matches the sweep; "" if it does."""
        if plan.source == self.fingerprint():
            return ""
        return (
            f"{self.path}, its protocol, its scale or one of its datasets has changed since the "
            "launch"
        )

    def absolute(self) -> SweepHandle:
        """Return a handle that means the same in every current folder."""
        named = self.named
        if named not in sweep_names():
            named = str(resolve_path(Path(named)))
        return replace(self, named=named, root=resolve_path(self.root))

    def launch_command(self) -> str:
        """Return the command that launches the sweep, for messages."""
        return f"run `vlpeft sweep {self.as_typed()}`"

    def as_typed(self) -> str:
        """Return the arguments for the sweep and its result folder, quoted for a shell."""
        words = [self.named, "--root", str(self.root)]
        if self.scale:
            words += ["--scale", self.scale]
        return shlex.join(words)
