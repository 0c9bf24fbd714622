"""timm: vision transformers by name, and the files it opens."""

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
"""Files that timm takes instead, if a repository has them."""
ENDINGS = (".bin",)
"""Of files that timm replaces by a .safetensors file of the same name, if there is one."""


def create_tower(name: str, *, pretrained: bool) -> nn.Module:
    """A model without classifier, in eval mode; its weights are random unless `pretrained`.

    Raises RuntimeError, OSError or ValueError if it cannot be made.
    """
    made: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    return made.eval()


def has_class_token_only(model: nn.Module) -> bool:
    """Whether a class token is the only token in front of a model's grid."""
    return getattr(model, "has_class_token", False) and getattr(model, "num_prefix_tokens", 0) == 1


def model_settings(model: Any) -> Mapping[str, Any]:
    """How a model's weights want images: input_size, mean, std."""
    settings: Mapping[str, Any] = model.pretrained_cfg
    return settings


def tower_states(model: Any, pixels: Tensor) -> Tensor:
    """States after the final norm, (batch, tokens, width); the first is the class token's."""
    states: Tensor = model.forward_features(pixels)
    return states


def hub_weights(name: str) -> tuple[str, str | None] | None:
    """Repository and file of a model's weights on the hub; None if timm knows of none."""
    known = timm.models.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        return None
    return known.hf_hub_id, known.hf_hub_filename
