"""Exact resume: what was trained, optimizer, schedule, random state and position, written atomically."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from vlpeft.benchmark.cells.records import write_atomically
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.run.loop import TrainingState

# Fields of the state that are kept as they are.
PLAIN = (
    "step",
    "curve",
    "scalars",
    "window",
    "step_seconds",
    "selection_seconds",
    "selection",
    "best",
)


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that train, by name; shared ones once."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def save_trained(path: Path, model: nn.Module) -> int:
    """Write only what was trained, as safetensors. Returns the size in bytes."""
    data = save(
        {name: tensor.cpu().contiguous() for name, tensor in trained_tensors(model).items()}
    )
    write_atomically(path, data)
    return len(data)


@torch.no_grad()
def load_trained(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put saved tensors back. Raises KeyError where names differ."""
    own = trained_tensors(model)
    if own.keys() != tensors.keys():
        raise KeyError(
            f"saved and built model train different tensors: {sorted(own.keys() ^ tensors.keys())[:3]}"
        )
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def save_checkpoint(path: Path, state: TrainingState, origin: dict[str, str]) -> None:
    """Write the state between two steps; `origin` names the cell and the data it belongs to."""
    buffer = io.BytesIO()
    torch.save(
        {
            "origin": origin,
            "trained": trained_tensors(state.backbone),
            "optimizer": state.optimizer.state_dict(),
            "schedule": state.schedule.state_dict(),
            **{name: getattr(state, name) for name in PLAIN},
            "cpu_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
        buffer,
    )
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, state: TrainingState, origin: dict[str, str]) -> None:
    """Go on where a checkpoint was written; afterwards every draw, step and number is that of the uninterrupted run.

    Raises UserError for a checkpoint of another origin, such as one made before the data changed, or of another version.
    """
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["origin"] != origin:
        raise UserError(
            f"{path} was made with other data ({saved['origin']}, now {origin}); delete it to start the cell afresh"
        )
    if missing := set(PLAIN) - set(saved):
        raise UserError(
            f"{path} was made by another version of vlpeft (no '{min(missing)}'); delete it to start the cell afresh"
        )
    load_trained(state.backbone, saved["trained"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.schedule.load_state_dict(saved["schedule"])
    for name in PLAIN:
        setattr(state, name, saved[name])
    torch.set_rng_state(saved["cpu_rng"])
    if saved["cuda_rng"]:
        torch.cuda.set_rng_state_all(saved["cuda_rng"])
