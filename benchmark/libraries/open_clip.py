"""open_clip: what it knows of models, the image side of a model, the files it opens."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import open_clip
import torch
from torch import Tensor, nn

LIBRARY = "open_clip_torch"
TRIED = ("3.3.0",)

WEIGHTS = "open_clip_pytorch_model.bin"
"""The file of a repository, where a tag names no file."""
SAFE = {WEIGHTS: "open_clip_model.safetensors"}
"""Files that open_clip takes instead, if a repository has them."""
ENDINGS = (".bin", ".pth")
"""Of files that open_clip replaces by a .safetensors file of the same name, if there is one."""


Kind = Literal["resnet", "vit"]


class Visual(NamedTuple):
    """The image side of a CLIP, changed to give its states, and how it wants images."""

    model: nn.Module
    kind: Kind
    width: int
    preprocessing: Mapping[str, Any]  # open_clip's: size, mean, std, interpolation


def model_names() -> list[str]:
    """The models that open_clip can build."""
    names: list[str] = open_clip.list_models()
    return names


def tags_of(model: str) -> list[str]:
    """Names of the pretrained weights of a model."""
    tags: list[str] = open_clip.list_pretrained_tags_by_model(model)
    return tags


def known_weights(model: str, tag: str) -> Mapping[str, Any]:
    """What open_clip knows of pretrained weights; empty for an unknown tag."""
    known: Mapping[str, Any] = open_clip.get_pretrained_cfg(model, tag)
    return known


def text_model(model: str) -> str | None:
    """The hub's id of the text model that a model is built with, if it is one of the hub's."""
    name: str | None = open_clip.get_model_config(model)["text_cfg"].get("hf_model_name")
    return name


def create_visual(
    model: str, weights: str | None, *, quick_gelu: bool, device: torch.device
) -> Visual | None:
    """The image side of a model in float32 and eval mode; None if it is no plain ResNet or ViT.

    `weights` is a tag or a file; without it weights are random.
    Raises RuntimeError, OSError or ValueError if the model cannot be made.
    """
    with _quiet():
        made = open_clip.create_model(
            model,
            pretrained=weights,
            load_weights=True,
            precision="fp32",
            device=device,
            jit=False,
            force_quick_gelu=quick_gelu,
            force_custom_text=False,
            pretrained_image=False,
            require_pretrained=weights is not None,
            weights_only=True,
        )
    return _as_states(made.visual.eval())


def _as_states(visual: Any) -> Visual | None:
    """Take off pooling and projection."""
    if hasattr(visual, "layer4"):
        width = int(visual.layer4[-1].conv3.out_channels)
        visual.attnpool = nn.Identity()
        return Visual(visual, "resnet", width, visual.preprocess_cfg)
    if not _is_plain_vit(visual):
        return None
    visual.output_tokens, visual.pool_type, visual.proj = True, "none", None
    return Visual(visual, "vit", int(visual.conv1.out_channels), visual.preprocess_cfg)


def _is_plain_vit(visual: Any) -> bool:
    normed = getattr(visual, "ln_post", None) is not None
    return normed and visual.attn_pool is None and not visual.final_ln_after_pool


def visual_states(model: nn.Module, kind: Kind, pixels: Tensor) -> Tensor:
    """States (batch, tokens, width): a ResNet's grid row by row, or a ViT's class state and grid."""
    if kind == "vit":
        states: Tensor = model(pixels)[1]
        return states
    grid: Tensor = model(pixels)
    return grid.flatten(2).transpose(1, 2)


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip logs through the root logger; what goes wrong it raises, too."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
