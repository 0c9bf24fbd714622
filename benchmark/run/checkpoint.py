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

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import open_regular, write_atomically
from vlpeft.benchmark.run.loop import TrainingState

DELETE = "delete it to restart the cell"
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
        ValueError: a tensor has another shape.
    """
    own = trained_tensors(model)
    if own.keys() != tensors.keys():
        differing = sorted(own.keys() ^ tensors.keys())[:3]
        raise KeyError(f"saved and built model train different tensors: {differing}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:  # to copy a smaller one would repeat it
            raise ValueError(f"{name} has shape {list(tensor.shape)}, not {list(own[name].shape)}")
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
            or of another version of this package, or it is damaged.
    """
    saved = _read(path)
    if saved.get("origin") != origin:
        raise UserError(
            f"{path} was made with other data ({saved.get('origin')}, now {origin}); {DELETE}"
        )
    if missing := set(PLAIN) - set(saved):
        raise UserError(
            f"{path} was made by another version of vlpeft (no '{min(missing)}'); {DELETE}"
        )
    try:
        _check_plain(saved, state)
        _restore(state, saved)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: its content does not fit this cell ({reason}); {DELETE}"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """Read the content of a checkpoint. Raises UserError for a damaged file."""
    try:
        with open_regular(path) as file:
            # `weights_only` refuses pickled code: a result folder may come from somebody else.
            saved = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of any type for damaged bytes
        reason = f"{type(error).__name__}: {str(error).partition('. ')[0]}"
        raise UserError(f"{path}: not readable ({' '.join(reason.split())}); {DELETE}") from error
    if not isinstance(saved, dict):
        raise UserError(f"{path}: holds no checkpoint but a {type(saved).__name__}; {DELETE}")
    return saved


def _check_plain(saved: dict[str, Any], state: TrainingState) -> None:
    """Raise TypeError or ValueError for values that training could not continue with."""
    for name in PLAIN:
        found, expected = type(saved[name]), type(getattr(state, name))
        if found is not expected:
            raise TypeError(f"{name} is a {found.__name__}, not a {expected.__name__}")
    if not 0 <= saved["step"] <= state.total:
        raise ValueError(f"step {saved['step']} of {state.total}")
    if len(saved["step_seconds"]) != saved["step"]:
        raise ValueError(f"times of {len(saved['step_seconds'])} steps, not of {saved['step']}")


def _restore(state: TrainingState, saved: dict[str, Any]) -> None:
    """Put the values of a checkpoint in place."""
    load_trained(state.backbone, saved["trained"])
    state.optimizer.load_state_dict(saved["optimizer"])
    _check_moments(state)
    state.schedule.load_state_dict(saved["schedule"])
    for name in PLAIN:
        setattr(state, name, saved[name])
    # Last, so that nothing above can draw from the restored states.
    torch.set_rng_state(saved["cpu_rng"])
    if saved["cuda_rng"]:
        torch.cuda.set_rng_state_all(saved["cuda_rng"])


def _check_moments(state: TrainingState) -> None:
    """Raise ValueError unless the optimizer's tensors have the shapes of what they belong to.

    The optimizer does not check this when it loads them.
    """
    for parameter, values in state.optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if values[name].shape != parameter.shape:
                raise ValueError(f"{name} has another shape than what it belongs to")
