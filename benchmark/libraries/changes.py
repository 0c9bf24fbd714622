"""Errors for a library that has changed its arguments: vlpeft never drops an argument it does not know."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from typing import Any

from vlpeft.benchmark.core.errors import UserError

FIX = "install the versions in constraints.txt (`pip install -c constraints.txt vlpeft`), or report it"


def refuse_unknown(library: str, function: str, unknown: Iterable[str]) -> None:
    """Raise UserError if a library passed arguments that our `function` does not know.

    `library` is the name of the installed distribution.
    """
    names = sorted(unknown)
    if names:
        raise UserError(
            f"{library} {version(library)} passes {_listed(names)} to {function}, which vlpeft does not know; {FIX}"
        )


def require_arguments(library: str, function: Callable[..., Any], names: Iterable[str]) -> None:
    """Raise UserError unless a library's function names all these arguments.

    A function with `**kwargs` accepts a renamed argument and ignores it, so the names are compared.
    """
    missing = set(names) - _argument_names(function)
    refuse_unsupported(library, function.__qualname__, missing)


def refuse_unsupported(library: str, what: str, names: Iterable[str]) -> None:
    """Raise UserError if vlpeft gives `what`, a part of a library, arguments that it does not have."""
    missing = sorted(names)
    if missing:
        raise UserError(
            f"{library} {version(library)}: {what} has no {_listed(missing)}, which vlpeft passes; {FIX}"
        )


@cache
def _argument_names(function: Callable[..., Any]) -> frozenset[str]:
    parameters = inspect.signature(function).parameters.values()
    stars = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return frozenset(each.name for each in parameters if each.kind not in stars)


def _listed(names: list[str]) -> str:
    quoted = ", ".join(f"`{name}`" for name in names)
    return f"argument{'s' if len(names) > 1 else ''} {quoted}"
