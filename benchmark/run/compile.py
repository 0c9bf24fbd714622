"""Training with `torch.compile`, layer by layer: a way to run a cell, no part of what it is.

The layers of a tower are alike, so one graph serves them all (PyTorch's "regional compilation"), whatever the lengths of a
batch's texts: shapes are symbols from the start. A layer makes another graph only where its inputs differ in kind: the
lowest layer, below which nothing trains; a batch of one example; a batch without padding; another task of a joint cell.
A graph that breaks, or one too many, is an error: torch would go on without compiling, and say so in a log at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from vlpeft.benchmark.contract.backbone import Backbone
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.libraries.torch import CompilerError, LimitHit, set_up_compiler

LIMIT = (
    64  # graphs that layers of all kinds may need together; torch's 8 are too few for two towers
)


def compile_layers(backbone: Backbone, backend: str = "inductor") -> None:
    """Compile the layers of both towers in place, after a method is injected; names of parameters stay as they are.

    Compiling itself happens in the first steps. Raises UserError where there is nothing to compile with.
    """
    _set_up()
    with compile_errors():
        torch.compile(torch.neg, backend=backend)(
            torch.ones(2, device=backbone.device)
        )  # before features are computed for hours
    for tower in (backbone.text, backbone.vision):
        for layer in layers(tower):
            layer.compile(backend=backend, fullgraph=True, dynamic=True)


def _set_up() -> None:
    try:
        set_up_compiler(
            LIMIT
        )  # a worker runs cell after cell: another method's graphs would count against the limit
    except AttributeError as error:
        raise UserError(
            f"--compile: torch {torch.__version__} is too old for it; leave out --compile, or upgrade torch"
        ) from error


def layers(tower: nn.Module) -> Iterator[nn.Module]:
    """What a tower repeats: the children of its outermost lists, and of its outermost sequences (timm's blocks) of one class."""
    for child in tower.children():
        alike = len({type(each) for each in child.children()}) == 1
        if isinstance(child, nn.ModuleList) or (isinstance(child, nn.Sequential) and alike):
            yield from child.children()
        else:
            yield from layers(child)


def eager() -> AbstractContextManager[None]:
    """Run what is compiled as it was written: evaluation has shapes and caches that change with each token, counting needs operations."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def compile_errors() -> Iterator[None]:
    """Around what may compile. Raises UserError with the reason where that fails."""
    try:
        yield
    except CompilerError as error:
        raise UserError(f"--compile: {_reason(error)}; leave out --compile") from error
    except LimitHit as error:  # its cause says which limit, it itself does not
        raise UserError(
            f"--compile: {_reason(error.__cause__ or error)}; leave out --compile"
        ) from error


def _reason(error: BaseException) -> str:
    """The first paragraph, as one line: others are for torch's developers."""
    paragraph = " ".join(str(error).strip().partition("\n\n")[0].split())
    return paragraph.partition(" Explanation:")[0][:300].rstrip(".")
