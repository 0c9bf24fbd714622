"""Errors for a library that has changed its arguments.

vlpeft never drops an argument that it does not know.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from typing import Any

from vlpeft.benchmark.core.errors import UserError

FIX = (
    "install the versions in constraints.txt (`pip install -c constraints.txt vlpeft`), "
    "or report it"
)


def refuse_unknown(library: str, function: str, unknown: Iterable[str]) -> None:
    """Raise UserError if a library passed arguments that our `function` does not know.

    `library` is the name of the installed distribution.
    """
    names = sorted(unknown)
    if names:
        raise UserError(
            f"{library} {version(library)} passes {_list_arguments(names)} to {function}, "
            f"which vlpeft does not know; {FIX}"
        )


def require_arguments(library: str, function: Callable[..., Any], names: Iterable[str]) -> None:
    """Raise UserError unless a library's function names all these arguments.

    A function with `**kwargs` accepts a renamed argument and ignores it. So the names are compared.
    """
    missing = set(names) - _argument_names(function)
    refuse_unsupported(library, function.__qualname__, missing)


def refuse_unsupported(library: str, what: str, names: Iterable[str]) -> None:
    """Raise UserError if `what`, a part of a library, lacks arguments that vlpeft passes."""
    missing = sorted(names)
    if missing:
        raise UserError(
            f"{library} {version(library)}: {what} has no {_list_arguments(missing)}, "
            f"which vlpeft passes; {FIX}"
        )


@cache
def _argument_names(function: Callable[..., Any]) -> frozenset[str]:
    parameters = inspect.signature(function).parameters.values()
    stars = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return frozenset(each.name for each in parameters if each.kind not in stars)


def _list_arguments(names: list[str]) -> str:
    quoted = ", ".join(f"`{name}`" for name in names)
    if len(names) > 1:
        return f"arguments {quoted}"
    return f"argument {quoted}"
