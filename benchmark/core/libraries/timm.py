"""timm: vision transformers by name, and the files that it opens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

LIBRARY = "timm"
TRIED = ("1.0.31",)

SAFE = {
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}
"""The files that timm prefers to these, if a repository has them."""
ENDINGS = (".bin",)
"""The endings that timm replaces by .safetensors, if a repository has such a file."""


def create_tower(name: str, *, pretrained: bool) -> nn.Module:
    """Return a model without classifier, in evaluation mode.

    Its weights are random unless `pretrained` is set. Raises RuntimeError, OSError or ValueError if
    it cannot be made.
    """
    made: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    return made.eval()


def has_class_token_only(model: nn.Module) -> bool:
    """Check whether a class token is the only token before a model's grid."""
    return getattr(model, "has_class_token", False) and getattr(model, "num_prefix_tokens", 0) == 1


def model_settings(model: Any) -> Mapping[str, Any]:
    """Return how a model's weights expect images: input_size, mean, std."""
    settings: Mapping[str, Any] = model.pretrained_cfg
    return settings


def tower_states(model: Any, pixels: Tensor) -> Tensor:
    """Return the states after the final norm, (batch, tokens, width).

    The first one is that of the class token.
    """
    states: Tensor = model.forward_features(pixels)
    return states


def hub_weights(name: str) -> tuple[str, str | None] | None:
    """Return the repository and file of a model's weights on the hub; None if timm knows none."""
    known = timm.models.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        return None
    return known.hf_hub_id, known.hf_hub_filename
