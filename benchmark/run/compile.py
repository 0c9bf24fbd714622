"""Training with `torch.compile`, layer by layer: a way to run a cell, not a part of its identity.

The layers of a tower are alike, so one graph serves them all (PyTorch calls this "regional
compilation"). Shapes are symbolic from the start, so that one graph serves texts of all lengths.

A layer needs another graph only if its inputs differ in kind:

- the lowest layer, below which nothing trains
- a batch of one example
- a batch without padding
- another task of a joint cell

A graph break is an error here, and so is a graph too many. By default torch would continue without
compiling and, at most, write a line to a log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.libraries.torch import CompilerError, LimitHit, set_up_compiler

# Graphs that layers of all kinds may need together. torch's default of 8 is too low for two towers.
LIMIT = 64


def compile_layers(backbone: Backbone, backend: str = "inductor") -> None:
    """Compile the layers of both towers in place.

    Call this after a method is injected. Names of parameters do not change. The compiler itself
    runs in the first steps.

    Raises:
        UserError: compiling does not work on this machine.
    """
    _set_up()
    with compile_errors():
        # A trial: without it, a missing compiler would show only after features are cached, which
        # can take hours.
        torch.compile(torch.neg, backend=backend)(torch.ones(2, device=backbone.device))
    for tower in (backbone.text, backbone.vision):
        for layer in layers(tower):
            # `fullgraph` turns a graph break into an error, and `dynamic` makes shapes symbolic.
            layer.compile(backend=backend, fullgraph=True, dynamic=True)


def _set_up() -> None:
    """Reset the compiler: a worker runs many cells, and old graphs would count for the limit."""
    try:
        set_up_compiler(LIMIT)
    except AttributeError as error:
        raise UserError(
            f"--compile: torch {torch.__version__} is too old for it; "
            "leave out --compile, or upgrade torch"
        ) from error


def layers(tower: nn.Module) -> Iterator[nn.Module]:
    """Yield the repeated layers of a tower.

    These are the children of its outermost `ModuleList`s. timm keeps blocks in a `Sequential`, so
    the children of a `Sequential` count as well if they are of one class.
    """
    for child in tower.children():
        if _repeats(child):
            yield from child.children()
        else:
            yield from layers(child)


def _repeats(module: nn.Module) -> bool:
    if isinstance(module, nn.ModuleList):
        return True
    kinds = {type(child) for child in module.children()}
    return isinstance(module, nn.Sequential) and len(kinds) == 1


def eager() -> AbstractContextManager[None]:
    """Return a context in which compiled layers run as they were written.

    Evaluation needs it because the shapes and caches change with every token. Counting FLOPs needs
    it because the counter must see single operations.
    """
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def compile_errors() -> Iterator[None]:
    """Raise errors of the compiler as UserErrors with the reason. Wrap what may compile in this."""
    try:
        yield
    except CompilerError as error:
        raise UserError(f"--compile: {_reason(error)}; leave out --compile") from error
    except LimitHit as error:
        # Only the cause of this error names the limit.
        reason = _reason(error.__cause__ or error)
        raise UserError(f"--compile: {reason}; leave out --compile") from error


def _reason(error: BaseException) -> str:
    """Return the first paragraph as one line: the others are for the developers of torch."""
    paragraph = " ".join(str(error).strip().partition("\n\n")[0].split())
    return paragraph.partition(" Explanation:")[0][:300].rstrip(".")
