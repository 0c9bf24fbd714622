"""Calls of models and functions that would ignore an argument which they do not know."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn

from vlpeft.benchmark.core.libraries.changes import require_arguments

LIBRARY = "transformers"


def call_model(model: nn.Module, **arguments: Any) -> Any:
    """Call a model of transformers.

    Raises UserError if its `forward` lacks one of the arguments.
    """
    check_call(type(model).forward, tuple(arguments))
    return model(**arguments)


def call_function(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Call a function of transformers.

    Raises UserError if it lacks one of the named arguments.
    """
    # A bound method's signature is read from its function, so that the check is cached per class.
    check_call(getattr(function, "__func__", function), tuple(named))
    return function(*given, **named)


@cache
def check_call(function: Callable[..., Any], names: tuple[str, ...]) -> None:
    """Raise UserError if a function lacks one of these arguments.

    Signatures are slow to read, and a model is called in every step. So each combination is
    checked once.
    """
    require_arguments(LIBRARY, function, names)
