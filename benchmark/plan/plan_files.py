"""The plans that launched sweeps leave in result folders: ROOT/sweeps/NAME.json."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.core.config import parse_json
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import read_bytes
from vlpeft.benchmark.core.paths import resolve_path
from vlpeft.benchmark.plan.sweep_files import SWEEPS

FOLDER = "sweeps"  # of the plans, in a result folder


def plan_file(root: Path, sweep: str, scale: str = "") -> Path:
    """Return the path of a launched sweep's plan; another scale has a file NAME@SCALE."""
    return root / FOLDER / f"{scaled_name(sweep, scale)}.json"


def scaled_name(name: str, scale: str) -> str:
    """Return the name that plans and evidence have: NAME, or NAME@SCALE."""
    if scale:
        return f"{name}@{scale}"
    return name


@dataclass(frozen=True)
class PlanOrigin:
    """What a plan file says about the sweep it was made from; other keys are not read."""

    sweep: str
    source: str
    file: str | None = None


def relative_origin(file: str, root: Path) -> str:
    """Return the sweep's file relative to the result folder, so that both may be moved together."""
    if not file:
        return ""
    return os.path.relpath(file, resolve_path(root))


def refuse_other_sweep(held: PlanOrigin | Plan, file: str, source: str, root: Path) -> None:
    """Raise UserError if the plan in a result folder is of another sweep of the same name.

    A moved or edited file is the same sweep, and so is a copy with equal content.

    Args:
        held: The plan in the folder.
        file: The file of the sweep that is run, from `name_file`.
        source: Its `fingerprint`.
        root: The result folder.
    """
    if held.file is None or held.source == source:
        return
    name = held.sweep.partition("@")[0]
    shipped = SWEEPS / f"{name}.yaml"
    other = resolve_path(resolve_path(root) / held.file) if held.file else shipped
    own = Path(file) if file else shipped
    if not other.exists() or (own.exists() and other.samefile(own)):
        return
    raise UserError(
        f"{root} holds the results of {other}, and {own} is another sweep of the same name "
        f"'{name}'; choose another --root, or rename one of the two files"
    )


def launched_plans(root: Path) -> list[Plan]:
    """Return all plans in a result folder, sorted by name. Raises UserError for a damaged one.

    A plan still lists what was launched, even after the sweep's file has changed.
    """
    return [read_plan_file(path) for path in sorted((root / FOLDER).rglob("*.json"))]


def read_plan_file(path: Path) -> Plan:
    """Read one plan file."""
    try:
        return parse_json(Plan, read_bytes(path), str(path))
    except (OSError, UserError) as error:
        raise UserError(
            f"cannot read {path} ({error}); run its sweep again with --root to rewrite it"
        ) from error
