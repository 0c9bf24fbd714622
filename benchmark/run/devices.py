"""Which device a process computes on."""

from __future__ import annotations

import torch

from vlpeft.benchmark.core.errors import UserError


def select_device(name: str, rank: int = 0, ranks: int = 1) -> torch.device:
    """Return the device that a rank of a cell runs on. Several ranks have a GPU each.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:N`. `auto` takes a GPU if there is one.
        rank: index of the process.
        ranks: number of processes of the cell.

    Raises:
        UserError: the device does not exist here, or there are fewer GPUs than ranks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = _visible_device(name)
    if device.type == "cpu" or ranks == 1:
        return device
    if ":" in name:
        raise UserError(f"--device {name}: {ranks} ranks need a GPU each; use --device cuda")
    count = torch.cuda.device_count()
    if ranks > count:
        raise UserError(
            f"ranks: {ranks} need a GPU each, {count} visible here; "
            f"use at most {count}, or --device cpu"
        )
    return torch.device("cuda", rank)


def _visible_device(name: str) -> torch.device:
    """Return the device of a name, once it is clear that this process can use it."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: no CUDA GPU is visible here; use --device cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f"--device {name}: no such device; use auto, cpu, cuda or cuda:N"
        ) from error
    if device.type == "cpu":
        return device
    # torch knows many types of devices, such as mps and xla, that are not tested here.
    if device.type != "cuda" or (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: not a device vlpeft can use here; use auto, cpu, cuda or cuda:N"
        )
    return device
