"""One registry class for methods, backbones, tasks and data formats.

An entry is found by *reading* the source files of its folder, not by importing them: adding one is adding one file,
and listing them never imports torch. A class becomes an entry by its decorator, whose arguments are literals:

    @register("lora", paper="Hu et al. 2022", needs=("linears",))
    @dataclass(frozen=True)
    class LoRA(Method): ...

Other packages add entries through an entry point of the group `vlpeft.<kind>s`, for instance
`[project.entry-points."vlpeft.methods"]  my_method = "my_package.my_module:MyMethod"`.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from vlpeft.benchmark.core.declared import allowed, imported_names, parse_source
from vlpeft.benchmark.core.errors import UserError, broken_source, did_you_mean

T = TypeVar("T")
REPOSITORY = Path(__file__).absolute().parents[3]  # the folder that `vlpeft` is imported from


def register(name: str, **options: object) -> Callable[[type[T]], type[T]]:
    """Mark a class as the registry entry `name`. Name and options become class attributes; all must be literals."""

    def mark(cls: type[T]) -> type[T]:
        for key, value in {"name": name, **options}.items():
            setattr(cls, key, value)
        return cls

    return mark


@dataclass(frozen=True)
class RegistryEntry:
    """What is known of an entry before its module is imported."""

    name: str
    module: str
    attribute: str
    summary: str
    options: Mapping[str, Any]
    settings: Mapping[str, str]  # field -> its default as written, "" where it is required
    choices: Mapping[str, tuple[Any, ...]] = field(
        default_factory=dict
    )  # field -> allowed values, where they are listed

    def load(self) -> Any:
        """Import the module and return the class. Raises UserError naming file and line where that fails."""
        try:
            return getattr(importlib.import_module(self.module), self.attribute)
        except UserError:
            raise
        except Exception as error:  # whatever its author has written there
            raise broken_source(error, f"{self.module.replace('.', '/')}.py") from error


class Registry(Generic[T]):
    """The named classes of one kind, found in `folders` (package paths below the repository) and in entry points."""

    def __init__(self, kind: str, *folders: str) -> None:
        self.kind, self.folders = kind, folders

    @cached_property
    def entries(self) -> Mapping[str, RegistryEntry]:
        """All entries by name, sorted. A name taken twice is an error."""
        found: dict[str, RegistryEntry] = {}
        for entry in [
            *self._from_source(),
            *map(_from_entry_point, entry_points(group=f"vlpeft.{self.kind}s")),
        ]:
            if entry.name in found:
                raise UserError(
                    f"{self.kind} '{entry.name}' is registered in {found[entry.name].module} and in {entry.module}"
                )
            found[entry.name] = entry
        return dict(sorted(found.items()))

    def entry(self, name: str) -> RegistryEntry:
        """Return an entry without importing it. Raises UserError with the nearest name for an unknown one."""
        if name not in self.entries:
            raise UserError(f"unknown {self.kind} '{name}'{did_you_mean(name, self.entries)}")
        return self.entries[name]

    def load(self, name: str) -> type[T]:
        """Import an entry's module and return its class."""
        cls: type[T] = self.entry(name).load()
        return cls

    def _from_source(self) -> Iterator[RegistryEntry]:
        for folder in self.folders:
            for path in sorted((REPOSITORY / folder).glob("*.py")):
                yield from _scan(path, f"{folder.replace('/', '.')}.{path.stem}")


@cache
def _scan(path: Path, module: str) -> tuple[RegistryEntry, ...]:
    tree = parse_source(path)
    return tuple(
        entry
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for entry in _entry_of(node, tree, module)
    )


def _entry_of(node: ast.ClassDef, tree: ast.Module, module: str) -> Iterator[RegistryEntry]:
    for call in node.decorator_list:
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == "register"
        ):
            name, options = _literals(call, module)
            summary = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
            settings, choices = fields_of(node, tree)
            for base in _bases(node, tree):
                settings, choices = {**base.settings, **settings}, {**base.choices, **choices}
            yield RegistryEntry(name, module, node.name, summary, options, settings, choices)


def _literals(call: ast.Call, module: str) -> tuple[str, dict[str, Any]]:
    """The arguments of a `@register(...)`."""
    try:
        name, options = (
            ast.literal_eval(call.args[0]),
            {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg},
        )
    except (ValueError, IndexError) as error:
        place = f"{module.replace('.', '/')}.py:{call.lineno}"
        raise UserError(
            f"{place}: {ast.unparse(call)}: write a name and literals there, since the file is read, not run"
        ) from error
    return name, options


def _default(value: ast.expr | None) -> str:
    """A default as written, without the `added(...)` around those of later fields."""
    if (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Name)
        and value.func.id == "added"
    ):
        value = value.args[0]
    return "" if value is None else ast.unparse(value)


def _bases(node: ast.ClassDef, tree: ast.Module) -> Iterator[RegistryEntry]:
    """Base classes that are entries of other files of this repository."""
    sources = imported_names(tree, REPOSITORY)
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in sources:
            yield from (entry for entry in _scan(*sources[base.id]) if entry.attribute == base.id)


def fields_of(
    node: ast.ClassDef, tree: ast.Module
) -> tuple[dict[str, str], dict[str, tuple[Any, ...]]]:
    """A dataclass's fields: defaults as written, and allowed values."""
    settings, choices = {}, {}
    for item in node.body:
        if (
            isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and "ClassVar" not in ast.unparse(item.annotation)
        ):
            settings[item.target.id] = _default(item.value)
            if values := allowed(item.annotation, tree):
                choices[item.target.id] = values
    return settings, choices


def _from_entry_point(point: EntryPoint) -> RegistryEntry:
    source = point.dist.name if point.dist else point.module
    return RegistryEntry(point.name, point.module, point.attr, f"from the package {source}", {}, {})
