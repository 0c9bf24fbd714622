"""Allowed values of settings, read from the source like everything else that a list shows: nothing is imported."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

from vlpeft.benchmark.core.errors import broken_source

ROOT = Path(__file__).absolute().parents[3]


@cache
def parse_source(path: Path) -> ast.Module:
    """The syntax tree of a source file. Raises UserError naming the line that is no Python."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError) as error:  # ValueError: bytes that are no text
        raise broken_source(error, str(path)) from error


def imported_names(tree: ast.Module, repository: Path = ROOT) -> dict[str, tuple[Path, str]]:
    """Name -> file and module, of what a file imports from files of this repository."""
    found: dict[str, tuple[Path, str]] = {}
    for item in tree.body:
        if isinstance(item, ast.ImportFrom) and item.module:
            path = repository / f"{item.module.replace('.', '/')}.py"
            if path.exists():
                found |= {alias.name: (path, item.module) for alias in item.names}
    return found


def allowed(annotation: ast.expr, tree: ast.Module) -> tuple[Any, ...]:
    """The values of all Literals in an annotation, those behind names of this repository too; () for an open one."""
    match annotation:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            literal = ast.literal_eval(values)
            return literal if isinstance(literal, tuple) else (literal,)
        case (
            ast.Subscript(slice=ast.Tuple(elts=[inner, *_])) | ast.Subscript(slice=inner)
        ):  # Annotated[X, ...], tuple[X, ...]
            return allowed(inner, tree)
        case ast.BinOp(left=left, right=right):
            return (*allowed(left, tree), *allowed(right, tree))
        case ast.Name(id=name):
            return _alias(name, tree)
    return ()


def _alias(name: str, tree: ast.Module) -> tuple[Any, ...]:
    for item in tree.body:
        if (
            isinstance(item, ast.Assign)
            and isinstance(item.targets[0], ast.Name)
            and item.targets[0].id == name
        ):
            return allowed(item.value, tree)
    path, _ = imported_names(tree).get(name, (None, ""))
    return _alias(name, parse_source(path)) if path is not None else ()
