"""Launched sweeps, by the plans in their result folders. Their own files and data may be gone."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.paths import resolve_path
from vlpeft.benchmark.plan.plan_files import FOLDER, read_plan_file
from vlpeft.benchmark.plan.sweep import SweepHandle


@dataclass(frozen=True)
class LaunchedSweep:
    """A sweep as its launch left it. It can do what a `SweepHandle` does with results.

    Attributes:
        root: The result folder.
        file: The plan in it.
        typed: What the user named: the folder, or the plan.
    """

    root: Path
    file: Path
    typed: Path

    @cached_property
    def plan(self) -> Plan:
        """The plan. Raises UserError for a damaged one."""
        return read_plan_file(self.file)

    @property
    def name(self) -> str:
        """The name in the plan: NAME, or NAME@SCALE."""
        return self.plan.sweep

    @property
    def scale(self) -> str:
        """The scale; "" for the sweep's own sizes."""
        return self.name.partition("@")[2]

    def read_plan(self) -> Plan:
        """Return the plan."""
        return self.plan

    def load_plan(self) -> Plan:
        """Return the plan, also if the sweep's file has changed since the launch."""
        return self.plan

    def reason_outdated(self, plan: Plan) -> str:
        """Return why a plan no longer matches the sweep; "" if it does, or if nobody can say."""
        try:
            return self.sweep_handle().reason_outdated(plan)
        except UserError:  # the sweep or one of its files is gone, and the plan is enough
            return ""

    def sweep_handle(self) -> SweepHandle:
        """Return the sweep that was launched. Raises UserError if its file is gone."""
        name = self.name.partition("@")[0]
        if not self.plan.file:
            return SweepHandle(name, self.scale, self.root)
        path = resolve_path(resolve_path(self.root) / self.plan.file)
        if not path.exists():
            raise UserError(
                f"{self.typed}: this command needs the file of the sweep, and {path} does not "
                "exist; name the file where it is now"
            )
        return SweepHandle(str(path), self.scale, self.root)

    def launch_command(self) -> str:
        """Return the command that launches the sweep again, for messages."""
        try:
            return self.sweep_handle().launch_command()
        except UserError:
            return f"run `vlpeft sweep SWEEP {shlex.join(['--root', str(self.root)])}`"

    def as_typed(self) -> str:
        """Return the argument that names the results, quoted for a shell."""
        return shlex.quote(str(self.typed))


def launched_sweeps(path: Path) -> list[LaunchedSweep]:
    """Return the sweeps of a result folder, or the one of a plan in it.

    Raises UserError if the folder holds none, or if the file is not a plan.
    """
    if path.is_dir():
        files = sorted((path / FOLDER).rglob("*.json"))
        if not files:
            raise UserError(
                f"{path} holds no launched sweep; give a folder that `vlpeft sweep --root` "
                "has filled, or a sweep's name"
            )
        return [LaunchedSweep(path, file, path) for file in files]
    folders = [folder for folder in path.parents if folder.name == FOLDER]
    if not folders:
        raise UserError(f"{path} is not a plan; plans are in the folder {FOLDER}/ of results")
    return [LaunchedSweep(folders[0].parent, path, path)]


def choose_launched(path: Path, scale: str = "") -> LaunchedSweep:
    """Return the one launched sweep that a path and a scale name.

    Raises UserError if there are several, or none of this scale.
    """
    found = launched_sweeps(path)
    if scale:
        found = [each for each in found if each.scale == scale]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"{path} holds no sweep at the scale '{scale}'; leave --scale out")
    files = ", ".join(str(each.file) for each in found)
    raise UserError(f"{path} holds {len(found)} sweeps; name the plan of one of them: {files}")
