"""One registry class for methods, backbones, tasks, metrics and data formats.

The registry *reads* the source files of a folder and imports none of them. So a new entry is one
new file, and `vlpeft list` never imports torch. A decorator makes a class an entry; its arguments
are literals:

    @register("lora", paper="Hu et al. 2022", needs=("linears",))
    @dataclass(frozen=True)
    class LoRA(Method): ...

Other packages add entries through entry points of the group `vlpeft.<kind>s`, for instance
`[project.entry-points."vlpeft.methods"]  my_method = "my_package.my_module:MyMethod"`. A sweep can
name single files in `plugins:` (`benchmark/run/plugins.py`).
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeGuard, TypeVar

from vlpeft.benchmark.core.declared import allowed, imported_names, parse_source
from vlpeft.benchmark.core.errors import UserError, broken_source, did_you_mean

T = TypeVar("T")
REPOSITORY = Path(__file__).absolute().parents[3]  # the folder that `vlpeft` is imported from


def register(name: str, **options: object) -> Callable[[type[T]], type[T]]:
    """Mark a class as the registry entry `name`.

    The name and the options become class attributes. In the source, all of them must be literals.
    """

    def mark(cls: type[T]) -> type[T]:
        for key, value in {"name": name, **options}.items():
            setattr(cls, key, value)
        return cls

    return mark


@dataclass(frozen=True)
class RegistryEntry:
    """An entry as its source describes it, before its module is imported."""

    name: str
    module: str
    attribute: str  # the name of the class in the module
    summary: str  # the first paragraph of the docstring, in one line
    options: Mapping[str, Any]
    # Field -> its default as written in the source, "" for a required field.
    settings: Mapping[str, str]
    # Field -> its allowed values, for fields whose type lists them.
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    distribution: str = ""  # name and version of the package of an entry point

    def load(self) -> Any:
        """Import the module and return the class.

        Raises:
            UserError: The import fails; the message names the file and line.
        """
        try:
            return getattr(importlib.import_module(self.module), self.attribute)
        except UserError:
            raise
        except Exception as error:  # the code of the module may raise anything
            raise broken_source(error, f"{self.module.replace('.', '/')}.py") from error


class Registry(Generic[T]):
    """The named classes of one kind, from the files of some folders and from entry points.

    Args:
        kind: What the entries are, such as "method"; the entry-point group is its plural.
        folders: Folders of source files, relative to the repository.
    """

    def __init__(self, kind: str, *folders: str) -> None:
        self.kind, self.folders = kind, folders
        # An import takes 0.2 ms even if the module is there, and a plan asks for each cell.
        self._loaded: dict[str, type[T]] = {}
        self._added: dict[str, RegistryEntry] = {}

    @cached_property
    def entries(self) -> Mapping[str, RegistryEntry]:
        """All entries by name, sorted. Raises UserError if two entries have the same name."""
        found: dict[str, RegistryEntry] = {}
        for entry in [*self._from_source(), *self._from_entry_points(), *self._added.values()]:
            if entry.name in found:
                raise UserError(
                    f"{self.kind} '{entry.name}' is registered in {found[entry.name].module}"
                    f" and in {entry.module}"
                )
            found[entry.name] = entry
        return dict(sorted(found.items()))

    def entry(self, name: str) -> RegistryEntry:
        """Return an entry without importing it.

        Raises:
            UserError: The name is unknown; the message suggests the nearest name.
        """
        if name not in self.entries:
            raise UserError(f"unknown {self.kind} '{name}'{did_you_mean(name, self.entries)}")
        return self.entries[name]

    def add(self, entry: RegistryEntry) -> None:
        """Add an entry of another file; adding it again changes nothing.

        Raises:
            UserError: Another module has an entry of this name.
        """
        held = self.entries.get(entry.name)
        if held == entry:
            return
        if held is not None and held.module != entry.module:
            raise UserError(
                f"{self.kind} '{entry.name}' of {entry.module}.py is registered in {held.module}, "
                "too; rename it"
            )
        self._added[entry.name] = entry
        vars(self).pop("entries", None)  # they are collected again

    def load(self, name: str) -> type[T]:
        """Import an entry's module and return its class."""
        if name not in self._loaded:
            self._loaded[name] = self.entry(name).load()
        return self._loaded[name]

    def _from_source(self) -> Iterator[RegistryEntry]:
        for folder in self.folders:
            for path in sorted((REPOSITORY / folder).glob("*.py")):
                yield from read_entries(path, f"{folder.replace('/', '.')}.{path.stem}")

    def _from_entry_points(self) -> Iterator[RegistryEntry]:
        for point in entry_points(group=f"vlpeft.{self.kind}s"):
            yield _from_entry_point(point)


@cache
def read_entries(path: Path, module: str) -> tuple[RegistryEntry, ...]:
    """Return the entries of a source file, in the order of their classes."""
    tree = parse_source(path)
    found: list[RegistryEntry] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found.extend(_entries_of_class(node, tree, module))
    return tuple(found)


def _entries_of_class(node: ast.ClassDef, tree: ast.Module, module: str) -> Iterator[RegistryEntry]:
    for call in node.decorator_list:
        if not _is_call(call, "register"):
            continue
        name, options = _literals(call, module)
        docstring = ast.get_docstring(node) or ""
        summary = docstring.split("\n\n")[0].replace("\n", " ")
        settings, choices = fields_of(node, tree)
        for base in _bases(node, tree):
            settings = {**base.settings, **settings}
            choices = {**base.choices, **choices}
        yield RegistryEntry(name, module, node.name, summary, options, settings, choices)


def _is_call(node: ast.expr | None, function: str) -> TypeGuard[ast.Call]:
    """Return whether a node calls the function of this name."""
    if not isinstance(node, ast.Call):
        return False
    return isinstance(node.func, ast.Name) and node.func.id == function


def _literals(call: ast.Call, module: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of a `@register(...)`."""
    try:
        name = ast.literal_eval(call.args[0])
        options = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
    except (ValueError, IndexError) as error:
        place = f"{module.replace('.', '/')}.py:{call.lineno}"
        raise UserError(
            f"{place}: {ast.unparse(call)}: write a name and literals; the file is read, not run"
        ) from error
    return name, options


def _default(value: ast.expr | None) -> str:
    """Return a default as written, without the `added_field(...)` around it."""
    if _is_call(value, "added_field"):
        value = value.args[0]
    if value is None:
        return ""
    return ast.unparse(value)


def _bases(node: ast.ClassDef, tree: ast.Module) -> Iterator[RegistryEntry]:
    """Yield the base classes that are entries in other files of this repository."""
    sources = imported_names(tree, REPOSITORY)
    for base in node.bases:
        if not isinstance(base, ast.Name) or base.id not in sources:
            continue
        for entry in read_entries(*sources[base.id]):
            if entry.attribute == base.id:
                yield entry


def _bases_in_file(node: ast.ClassDef, tree: ast.Module) -> Iterator[ast.ClassDef]:
    """Yield the base classes that this file defines; the last base first, as dataclasses do."""
    classes = {item.name: item for item in tree.body if isinstance(item, ast.ClassDef)}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id in classes:
            yield classes[base.id]


def fields_of(
    node: ast.ClassDef, tree: ast.Module
) -> tuple[dict[str, str], dict[str, tuple[Any, ...]]]:
    """Return the fields of a dataclass: defaults as written, and allowed values.

    Fields of base classes in the same file are included, in the order of `dataclasses.fields`.
    """
    settings: dict[str, str] = {}
    choices: dict[str, tuple[Any, ...]] = {}
    for base in _bases_in_file(node, tree):
        inherited, inherited_choices = fields_of(base, tree)
        settings |= inherited
        choices |= inherited_choices
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(item.annotation):
            continue
        settings[item.target.id] = _default(item.value)
        if values := allowed(item.annotation, tree):
            choices[item.target.id] = values
    return settings, choices


def _from_entry_point(point: EntryPoint) -> RegistryEntry:
    """Return the entry of another package, with what its source declares where it can be read."""
    source, distribution = point.module, ""
    if point.dist:
        source, distribution = point.dist.name, f"{point.dist.name} {point.dist.version}"
    summary = f"from the package {source}"
    for entry in _declared_at(point):
        if entry.attribute == point.attr:
            summary = f"{entry.summary} ({summary})"
            return replace(entry, name=point.name, summary=summary, distribution=distribution)
    return RegistryEntry(
        point.name, point.module, point.attr, summary, {}, {}, distribution=distribution
    )


def _declared_at(point: EntryPoint) -> tuple[RegistryEntry, ...]:
    """Return the entries in the source of another package, if that is a file which can be read."""
    top, *rest = point.module.split(".")
    spec = importlib.util.find_spec(top)  # imports nothing, as `top` has no parent
    if spec is None or spec.origin is None:
        return ()
    path = Path(spec.origin)
    if rest:
        path = path.parent.joinpath(*rest).with_suffix(".py")
    try:
        return read_entries(path, point.module)
    except UserError:  # compiled, or broken: loading it will say so
        return ()
