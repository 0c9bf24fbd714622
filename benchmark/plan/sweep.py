"""Sweep files, and the plans that launched sweeps leave in result folders."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.core.config import JSON, Config, load_yaml, parse, parse_json
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.datasets import dataset_path
from vlpeft.benchmark.plan.entries import (
    SweepEntry,
    TaskPlace,
    parse_entry,
    parse_tasks,
    refuse_protocol_keys,
)
from vlpeft.benchmark.plan.recipes import protocol_files
from vlpeft.benchmark.plan.scale import scale_path

SWEEPS = Path(__file__).resolve().parents[1] / "sweeps"
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range that every random generator accepts
NonEmptyList = Annotated[tuple[Any, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Sweep(Config):
    """A sweep file. Every method is crossed with every backbone, task and seed."""

    methods: NonEmptyList
    backbones: NonEmptyList
    tasks: NonEmptyList
    protocol: str | dict[str, JSON]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    title: str = ""
    summary: str = ""
    notes: str = ""  # printed below the table

    def entries(self, kind: str, where: str) -> list[SweepEntry]:
        """Return the `methods` or `backbones` entries, each with a unique label.

        Raises UserError for a bad entry, and for a label that appears twice.
        """
        items = getattr(self, kind)
        read = [parse_entry(item, f"{where}: {kind}[{i}]") for i, item in enumerate(items)]
        names = Counter(entry.name for entry in read)
        labelled = [_add_label(entry, unique=names[entry.name] == 1) for entry in read]
        for label, times in Counter(entry.label for entry in labelled).items():
            if times > 1:
                raise UserError(
                    f"{where}: {kind}: '{label}' appears {times} times; "
                    "remove one, or give each its own `label`"
                )
        return labelled


def _add_label(entry: SweepEntry, *, unique: bool) -> SweepEntry:
    """Label an entry with its name; add its settings if the name is not unique."""
    if entry.label:
        return entry
    if unique:
        return replace(entry, label=entry.name)
    return replace(entry, label=entry.describe())


def sweep_names() -> tuple[str, ...]:
    """Return the names of the shipped sweeps; one in a folder is called folder/name."""
    return tuple(sorted(sweep_name(path) for path in SWEEPS.rglob("*.yaml")))


def sweep_name(path: Path) -> str:
    """Return the name of a sweep file.

    A shipped one is named by its path below the folder of sweeps, any other by its file name.
    """
    resolved = path.resolve()
    if resolved.is_relative_to(SWEEPS):
        return resolved.relative_to(SWEEPS).with_suffix("").as_posix()
    return path.stem


def sweep_path(name_or_path: str) -> Path:
    """Return the file of a shipped sweep, or of a path. Raises UserError for neither."""
    if name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path)
    known = sweep_names()
    if name_or_path in known:
        return SWEEPS / f"{name_or_path}.yaml"
    hint = did_you_mean(name_or_path, known)
    raise UserError(f"unknown sweep '{name_or_path}'{hint}; or give a path ending in .yaml")


def load_sweep(name_or_path: str) -> Sweep:
    """Read a sweep file. Raises UserError with the file, the key and the fix."""
    path = sweep_path(name_or_path)
    values = load_yaml(path)
    refuse_protocol_keys(values, Sweep, str(path), "under `protocol:`")
    return parse(Sweep, values, str(path))


def fingerprint(path: Path, scale: str = "") -> str:
    """Return 12 hex digits that change whenever a file changes that defines the cells.

    These files are the sweep's own, those of its protocol and its datasets, and the scale's.
    """
    files = [path, *protocol_files(load_sweep(str(path)).protocol)]
    files += [dataset_path(place.source) for place in places(path)]
    unique = list(dict.fromkeys(files))
    if scale:
        unique.append(scale_path(scale))
    digest = hashlib.sha256()
    for file in unique:
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def places(path: Path) -> list[TaskPlace]:
    """Return every task of a sweep file with its dataset, those of joint entries included."""
    found: list[TaskPlace] = []
    for i, item in enumerate(load_sweep(str(path)).tasks):
        found += parse_tasks(item, path, f"{path}: tasks[{i}]").places
    return found


def plan_file(root: Path, sweep: str, scale: str = "") -> Path:
    """Return the path of a launched sweep's plan; another scale has a file NAME@SCALE."""
    if scale:
        sweep = f"{sweep}@{scale}"
    return root / "sweeps" / f"{sweep}.json"


def load_plan(name_or_path: str, root: Path, scale: str = "") -> Plan:
    """Read the plan that `vlpeft sweep` left in a result folder.

    Raises UserError if there is none, or if the sweep has changed since then.
    """
    plan = read_plan(name_or_path, root, scale)
    if changed := reason_outdated(plan, name_or_path, scale):
        again = launch_command(name_or_path, root, scale)
        raise UserError(f"{changed} in {root}; {again} for what is new or changed")
    return plan


def reason_outdated(plan: Plan, name_or_path: str, scale: str = "") -> str:
    """Return why a plan no longer matches its sweep; "" if it does."""
    path = sweep_path(name_or_path)
    if plan.source == fingerprint(path, scale):
        return ""
    return f"{path}, its protocol or a dataset of it has changed since it was launched"


def launch_command(name_or_path: str, root: Path, scale: str = "") -> str:
    """Return the command that launches a sweep, for messages."""
    return f"run `vlpeft sweep {as_typed(name_or_path, root, scale)}`"


def as_typed(name_or_path: str, root: Path, scale: str = "") -> str:
    """Return the arguments for a sweep and its result folder, quoted for a shell."""
    words = [name_or_path, "--root", str(root)]
    if scale:
        words += ["--scale", scale]
    return shlex.join(words)


def read_plan(name_or_path: str, root: Path, scale: str = "") -> Plan:
    """Read the plan in a result folder, even if the sweep has changed since then.

    Raises UserError if there is no plan, or if it is damaged.
    """
    path = sweep_path(name_or_path)
    if scale:
        scale_path(scale)  # raises for a misspelled scale
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
            f"--root {root}: is a file, or inside one; "
            "give a result folder that `vlpeft sweep` has filled"
        ) from error
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"cannot read {file} ({error}); {again}") from error


def launched_plans(root: Path) -> list[Plan]:
    """Return all plans in a result folder, sorted by name. Raises UserError for a damaged one.

    A plan still lists what was launched, even after the sweep's file has changed.
    """
    return [_read_launched(path) for path in sorted((root / "sweeps").rglob("*.json"))]


def _read_launched(path: Path) -> Plan:
    """Read one plan file."""
    try:
        return parse_json(Plan, path.read_bytes(), str(path))
    except (OSError, UserError) as error:
        raise UserError(
            f"cannot read {path} ({error}); run its sweep again with --root to rewrite it"
        ) from error
