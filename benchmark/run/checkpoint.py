"""Checkpoints for exact resume: trained tensors, optimizer, schedule, random state and position.

A run that is interrupted and resumed ends with the same bits as one that is not. Only what trains
is saved; the pretrained weights are read again.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from vlpeft.benchmark.cells.records import write_atomically
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.run.loop import TrainingState

# Fields of the state that are saved as they are.
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
    """Return the tensors that train, by name. A shared tensor appears once."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def save_trained(path: Path, model: nn.Module) -> int:
    """Write the tensors that train as a safetensors file, and return its size in bytes."""
    tensors = trained_tensors(model)
    data = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    write_atomically(path, data)
    return len(data)


@torch.no_grad()
def load_trained(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy saved tensors into a model.

    Raises:
        KeyError: the model trains tensors of other names.
    """
    own = trained_tensors(model)
    if own.keys() != tensors.keys():
        differing = sorted(own.keys() ^ tensors.keys())[:3]
        raise KeyError(f"saved and built model train different tensors: {differing}")
    for name, tensor in tensors.items():
        # In place, because the optimizer holds these very tensors.
        own[name].copy_(tensor)


def save_checkpoint(path: Path, state: TrainingState, origin: dict[str, str]) -> None:
    """Write the state between two steps. `origin` names the cell and the data it belongs to."""
    values: dict[str, Any] = {
        "origin": origin,
        "trained": trained_tensors(state.backbone),
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        # Dropout masks come from these states.
        "cpu_rng": torch.get_rng_state(),
        "cuda_rng": [],
    }
    if torch.cuda.is_available():
        values["cuda_rng"] = torch.cuda.get_rng_state_all()
    for name in PLAIN:
        values[name] = getattr(state, name)
    # Serialised in memory first, because the file is replaced atomically.
    buffer = io.BytesIO()
    torch.save(values, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, state: TrainingState, origin: dict[str, str]) -> None:
    """Load a checkpoint into `state`.

    Afterwards every draw, step and number equals that of an uninterrupted run.

    Raises:
        UserError: the checkpoint is of another origin, for instance because the data changed since,
            or of another version of this package.
    """
    # `weights_only` refuses pickled code: a result folder may come from somebody else.
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["origin"] != origin:
        raise UserError(
            f"{path} was made with other data ({saved['origin']}, now {origin}); "
            "delete it to restart the cell"
        )
    if missing := set(PLAIN) - set(saved):
        raise UserError(
            f"{path} was made by another version of vlpeft (no '{min(missing)}'); "
            "delete it to restart the cell"
        )
    load_trained(state.backbone, saved["trained"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.schedule.load_state_dict(saved["schedule"])
    for name in PLAIN:
        setattr(state, name, saved[name])
    # Last, so that nothing above can draw from the restored states.
    torch.set_rng_state(saved["cpu_rng"])
    if saved["cuda_rng"]:
        torch.cuda.set_rng_state_all(saved["cuda_rng"])
