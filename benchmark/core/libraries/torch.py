"""torch: its compiler's settings, the file store of its process groups, AdamW and clipping."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch._dynamo import config as dynamo
from torch._dynamo import exc
from torch._functorch import config as functorch
from torch.optim import AdamW

LIBRARY = "torch"
TRIED = ("2.15.0",)

CompilerError: type[Exception] = exc.TorchDynamoException
# torch 2.6, in which `--compile` is refused, has no such error.
LimitHit: type[Exception] = getattr(exc, "FailOnRecompileLimitHit", exc.TorchDynamoException)


def set_up_compiler(graphs: int) -> None:
    """Forget compiled graphs, and allow this many new ones.

    The backward pass then runs outside autocast, as it does without compiling. So parts in float32
    stay in float32. Raises AttributeError if torch is too old.
    """
    torch.compiler.reset()
    dynamo.recompile_limit = max(graphs, dynamo.recompile_limit)
    functorch.backward_pass_autocast = "off"


def join_group(backend: str, meeting: Path, rank: int, world: int, patience: timedelta) -> None:
    """Join a process group whose members find each other in the file `meeting`."""
    # The class is documented, but it is missing in `torch.distributed.__all__`.
    store = distributed.FileStore(str(meeting), world)  # type: ignore[attr-defined]
    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=world, timeout=patience
    )


def make_adamw(
    groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float
) -> AdamW:
    """Return AdamW over parameter groups that name their weight decay."""
    return AdamW(
        groups,
        lr=lr,
        betas=betas,
        eps=eps,
        amsgrad=False,
        maximize=False,
        foreach=None,  # torch's choice: one kernel for many tensors on a GPU
        capturable=False,
        differentiable=False,
        fused=None,
    )


def clip_gradients(parameters: Iterable[nn.Parameter], norm: float) -> Tensor:
    """Scale gradients in place so that their joint Euclidean norm is at most `norm`."""
    return nn.utils.clip_grad_norm_(
        parameters, norm, norm_type=2.0, error_if_nonfinite=False, foreach=None
    )
