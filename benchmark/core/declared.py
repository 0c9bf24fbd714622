"""Allowed values of settings, read from the source text without importing anything."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

from vlpeft.benchmark.core.errors import UserError, broken_source

ROOT = Path(__file__).absolute().parents[3]


@cache
def parse_source(path: Path) -> ast.Module:
    """Return the syntax tree of a source file.

    Raises:
        UserError: The file is not valid Python; the message names the line. Or it is not a file.
    """
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path}: not a regular file; remove it, or restore the source")
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError) as error:  # ValueError: the bytes are not UTF-8 text
        raise broken_source(error, str(path)) from error


def imported_names(tree: ast.Module, repository: Path = ROOT) -> dict[str, tuple[Path, str]]:
    """Map each name that a file imports from this repository to its file and module."""
    found: dict[str, tuple[Path, str]] = {}
    for item in tree.body:
        if isinstance(item, ast.ImportFrom) and item.module:
            path = repository / f"{item.module.replace('.', '/')}.py"
            if path.exists():
                found |= {alias.name: (path, item.module) for alias in item.names}
    return found


def allowed(annotation: ast.expr, tree: ast.Module) -> tuple[Any, ...]:
    """Return the values of all `Literal`s in an annotation, or () if it has none.

    Names are followed to their definition in this file or in another file of the repository.
    """
    match annotation:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            literal = ast.literal_eval(values)
            if isinstance(literal, tuple):
                return literal
            return (literal,)
        # Annotated[X, ...] and tuple[X, ...], then list[X].
        case ast.Subscript(slice=ast.Tuple(elts=[inner, *_])) | ast.Subscript(slice=inner):
            return allowed(inner, tree)
        case ast.BinOp(left=left, right=right):
            return (*allowed(left, tree), *allowed(right, tree))
        case ast.Name(id=name):
            return _allowed_by_name(name, tree)
    return ()


def _allowed_by_name(name: str, tree: ast.Module) -> tuple[Any, ...]:
    for item in tree.body:
        if not isinstance(item, ast.Assign):
            continue
        target = item.targets[0]
        if isinstance(target, ast.Name) and target.id == name:
            return allowed(item.value, tree)
    imported = imported_names(tree)
    if name not in imported:
        return ()
    path, _ = imported[name]
    return _allowed_by_name(name, parse_source(path))
