"""Hashes of code: what a module computes, with the modules of its package that it imports.

The sources are read and not imported. Comments, docstrings, blank lines and line breaks do not
count, so a reworded comment does not make two results incomparable.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from vlpeft.benchmark.core.declared import ROOT, parse_source

PROJECT = "vlpeft"
# Not followed: it reads settings and words errors. What it resolves is in the cell itself.
NOT_COUNTED = "vlpeft.benchmark.core"
COUNTED = "vlpeft.benchmark.core.libraries"  # but this: it calls what computes
DIGITS = 12


@cache
def hash_code(modules: tuple[str, ...], *, follow: bool = True, version: str = "") -> str:
    """Return a hash of modules and of what they import, as the files were when first asked for.

    Imports are followed within the project, and for a module of another package within that package
    and the folder it is in, unless that is a folder of installed packages.

    Args:
        modules: Their full names.
        follow: Whether imported modules count.
        version: Of the distribution that they are part of; "" for the project itself.
    """
    files: dict[str, Path] = {}
    for module in modules:
        homes = _homes(module)
        waiting = [module]
        while waiting:
            name = waiting.pop()
            path = _file(name, homes)
            if path is None or name in files:
                continue
            files[name] = path
            if follow:
                waiting += _imports(name, path)
    digest = hashlib.sha256(version.encode())
    for name in sorted(files):
        digest.update(f"\0{name}\0{_hash_file(files[name])}".encode())
    return digest.hexdigest()[:DIGITS]


@cache
def _homes(module: str) -> dict[str, Path]:
    """Return the folders that imports are looked up in: for a top-level name, or "" for any."""
    homes = {PROJECT: ROOT}
    top = module.partition(".")[0]
    if top == PROJECT:
        return homes
    # The module itself runs here, so its packages are imported already.
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.has_location:
        return homes
    path = Path(spec.origin)
    home = path.parents[module.count(".") + (path.stem == "__init__")]
    homes[top] = home
    installed = {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib")}
    if str(home) not in installed:
        homes[""] = home
    return homes


def _file(module: str, homes: Mapping[str, Path]) -> Path | None:
    """Return the file of a module that counts; None for others, and for what is not a module."""
    if module.startswith(NOT_COUNTED) and not module.startswith(COUNTED):
        return None
    home = homes.get(module.partition(".")[0], homes.get(""))
    if home is None or not module:
        return None
    stem = home.joinpath(*module.split("."))
    for path in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return next(stem.parent.glob(f"{stem.name}.*.so"), None)  # compiled


def _imports(module: str, path: Path) -> Iterator[str]:
    """Yield the names that a file may import as modules, also inside functions."""
    if path.suffix != ".py":
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    if module.partition(".")[0] != PROJECT and package:
        yield package  # its __init__.py runs first
    for node in ast.walk(parse_source(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the module that an import names, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    kept = parts[: len(parts) - node.level + 1]
    return ".".join([*kept, *filter(None, [node.module])])


@cache
def _hash_file(path: Path) -> str:
    """Return the hash of what a source file computes, or of the bytes of any other file."""
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256("".join(_words(parse_source(path))).encode()).hexdigest()


def _words(node: object) -> Iterator[str]:
    """Yield a syntax tree as words.

    `ast.dump` is not used, because its form depends on the version of Python. Empty fields are left
    out, since versions differ in them, and so are texts that are statements, such as docstrings.
    """
    if isinstance(node, list):
        for item in node:
            yield from _words(item)
        yield ";"
    elif isinstance(node, ast.AST):
        if isinstance(node, ast.Pass) or _is_text(node):
            return
        yield f"({type(node).__name__} "
        for name, value in ast.iter_fields(node):
            if value not in (None, []) and name not in ("type_comment", "kind"):
                yield f"{name} "
                yield from _words(value)
        yield ")"
    else:
        yield f"{node!r} "


def _is_text(node: ast.AST) -> bool:
    """Return whether a node is a text that stands alone."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    return isinstance(node.value.value, str)


def hash_versions(hashes: Iterable[str]) -> str:
    """Return one hash of several, in their order; a single one stays as it is."""
    found = list(dict.fromkeys(hashes))
    if len(found) == 1:
        return found[0]
    return hashlib.sha256("+".join(found).encode()).hexdigest()[:DIGITS]
