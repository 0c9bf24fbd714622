"""The files of sweeps: the shipped ones by name, all others by path."""

from __future__ import annotations

from pathlib import Path

from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.core.paths import YAML, resolve_path

SWEEPS = Path(__file__).resolve().parents[1] / "sweeps"


def sweep_names() -> tuple[str, ...]:
    """Return the names of the shipped sweeps; one in a folder is called folder/name."""
    return tuple(sorted(sweep_name(path) for path in SWEEPS.rglob("*.yaml")))


def sweep_name(path: Path) -> str:
    """Return the name of a sweep file.

    A shipped one is named by its path below the folder of sweeps, any other by its file name.
    """
    resolved = resolve_path(path)
    if resolved.is_relative_to(SWEEPS):
        return resolved.relative_to(SWEEPS).with_suffix("").as_posix()
    return path.stem


def sweep_path(name_or_path: str) -> Path:
    """Return the file of a shipped sweep, or of a path. Raises UserError for neither."""
    if name_or_path.endswith(YAML):
        return Path(name_or_path)
    known = sweep_names()
    if name_or_path in known:
        return SWEEPS / f"{name_or_path}.yaml"
    hint = did_you_mean(name_or_path, known)
    raise UserError(f"unknown sweep '{name_or_path}'{hint}; or give a path ending in .yaml")


def name_file(path: Path) -> str:
    """Return the sweep's file as a plan that is not written yet has it: "" for a shipped one."""
    resolved = resolve_path(path)
    if resolved.is_relative_to(SWEEPS):
        return ""
    return str(resolved)
