"""Plug-ins: files of the user with methods, backbones, tasks, metrics or data formats.

A sweep names them in `plugins:`, and each of its cells knows them, so that workers find them, too.
Like the registries, this reads the files and imports nothing. A file that is imported later is a
module of its own name, and can import other files of its folder.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.declared import imported_names, parse_source
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import read_json
from vlpeft.benchmark.core.registry import Registry, RegistryEntry, read_entries
from vlpeft.benchmark.datasets import FORMATS
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.tasks import TASKS

REGISTRIES: tuple[Registry[Any], ...] = (METHODS, BACKBONES, TASKS, METRICS, FORMATS)
# The modules that define what an entry of each registry derives from, and the name of that class.
BASES: dict[str, tuple[Registry[Any], str]] = {
    "vlpeft.benchmark.contract.method": (METHODS, "Method"),
    "vlpeft.benchmark.contract.backbone": (BACKBONES, "BackboneConfig"),
    "vlpeft.benchmark.tasks.base": (TASKS, "Task"),
    "vlpeft.benchmark.metrics.base": (METRICS, "Metric"),
    "vlpeft.benchmark.datasets.base": (FORMATS, "DataFormat"),
}


def load_plugins(files: Iterable[str | Path]) -> None:
    """Register the entries of some files.

    Raises:
        UserError: A file does not exist, registers nothing, or has a name that is taken.
    """
    for file in files:
        path = Path(file)
        for entry in _read(path):
            _registry(entry, path).add(entry)


def read_cell(folder: Path) -> Cell:
    """Read cell.json in the folder of a cell, and register the plug-ins of the cell."""
    path = folder / "cell.json"
    cell = parse(Cell, read_json(path) or {}, str(path))
    load_plugins(cell.plugins)
    return cell


def _read(path: Path) -> tuple[RegistryEntry, ...]:
    """Return the entries of a file, which can be imported afterwards."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; check `plugins:`, or restore it")
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise UserError(f"{path}: not the name of a Python file; rename it, as in my_method.py")
    _make_importable(path)
    found = read_entries(path, path.stem)
    if not found:
        raise UserError(f"{path}: registers nothing; write @register(NAME) above your class")
    return found


def _make_importable(path: Path) -> None:
    """Add the folder to the end of the search path, where it hides no other module.

    Raises UserError if Python has another module of this name.
    """
    folder = str(path.absolute().parent)
    if folder not in sys.path:
        sys.path.append(folder)
        importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(path.stem)
    except ValueError:  # a module that was made by hand
        spec = None
    found = spec.origin if spec is not None else None
    if found is None or not Path(found).exists() or not path.samefile(found):
        raise UserError(
            f"{path}: Python has another module '{path.stem}' ({found}); rename the file"
        )


def _registry(entry: RegistryEntry, path: Path) -> Registry[Any]:
    """Return the registry of an entry, by what its class derives from."""
    found = _kind(entry.attribute, path)
    if found is None:
        names = ", ".join(name for _, name in BASES.values())
        raise UserError(f"{path}: class {entry.attribute}: derive it from one of {names}")
    return found


def _kind(class_name: str, path: Path) -> Registry[Any] | None:
    """Return the registry that a class of a file belongs to; None for any other class."""
    tree = parse_source(path)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    imported = imported_names(tree)
    for base in classes[class_name].bases:
        name = ast.unparse(base).partition("[")[0]
        if name in classes and name != class_name:
            found = _kind(name, path)
        else:
            found = _kind_of_module(*imported.get(name, (path, "")))
        if found is not None:
            return found
    return None


def _kind_of_module(path: Path, module: str) -> Registry[Any] | None:
    """Return the registry that the classes of a module of vlpeft belong to."""
    if module in BASES:
        return BASES[module][0]
    folder = module.rpartition(".")[0].replace(".", "/")
    for registry in REGISTRIES:
        if folder in registry.folders and read_entries(path, module):
            return registry
    return None
