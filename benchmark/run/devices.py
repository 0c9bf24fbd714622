"""Which device a process computes on."""

from __future__ import annotations

import torch

from vlpeft.benchmark.core.errors import UserError


def select_device(name: str, rank: int = 0, ranks: int = 1) -> torch.device:
    """The device that a rank of a cell runs on; of several ranks each has a GPU of its own. Raises UserError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: no CUDA GPU is visible here; use --device cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f"--device {name}: no such device; use auto, cpu, cuda or cuda:N"
        ) from error
    if device.type not in ("cpu", "cuda") or (
        device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    ):
        raise UserError(
            f"--device {name}: not a device vlpeft can use here; use auto, cpu, cuda or cuda:N"
        )
    if device.type == "cpu" or ranks == 1:
        return device
    if ":" in name:
        raise UserError(f"--device {name}: {ranks} ranks need a GPU each; use --device cuda")
    count = torch.cuda.device_count()
    if ranks > count:
        raise UserError(
            f"ranks: {ranks} need a GPU each, {count} visible here; use at most {count}, or --device cpu"
        )
    return torch.device("cuda", rank)
