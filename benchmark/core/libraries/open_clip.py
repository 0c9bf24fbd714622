"""open_clip: its list of models, the image side of a model, and the files that it opens."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import open_clip
import torch
from torch import Tensor, nn

from vlpeft.benchmark.core.libraries.changes import refuse_unsupported

LIBRARY = "open_clip_torch"
TRIED = ("3.3.0",)

WEIGHTS = "open_clip_pytorch_model.bin"
"""The file of a repository, if a tag names none."""
SAFE = {WEIGHTS: "open_clip_model.safetensors"}
"""The files that open_clip prefers to these, if a repository has them."""
ENDINGS = (".bin", ".pth")
"""The endings that open_clip replaces by .safetensors, if a repository has such a file."""


PARTS = {"vision_cfg": open_clip.CLIPVisionCfg, "text_cfg": open_clip.CLIPTextCfg}

EncoderKind = Literal["resnet", "vit"]


class ImageEncoder(NamedTuple):
    """The image side of a CLIP model, changed to return its states, and its preprocessing."""

    model: nn.Module
    kind: EncoderKind
    width: int
    # The settings of open_clip: size, mean, std, interpolation.
    preprocessing: Mapping[str, Any]


def model_names() -> list[str]:
    """Return the names of the models that open_clip can build."""
    names: list[str] = open_clip.list_models()
    return names


def tags_of(model: str) -> list[str]:
    """Return the names of a model's pretrained weights."""
    tags: list[str] = open_clip.list_pretrained_tags_by_model(model)
    return tags


def known_weights(model: str, tag: str) -> Mapping[str, Any]:
    """Return what open_clip knows about pretrained weights; empty for an unknown tag."""
    known: Mapping[str, Any] = open_clip.get_pretrained_cfg(model, tag)
    return known


def text_model(model: str) -> str | None:
    """Return the hub id of the text model inside a model; None if it is not from the hub."""
    name: str | None = open_clip.get_model_config(model)["text_cfg"].get("hf_model_name")
    return name


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise UserError unless a model can be built with these settings."""
    unknown = set(settings) - {"embed_dim", *PARTS}
    for part, cls in PARTS.items():
        names = {field.name for field in fields(cls)}
        unknown |= {f"{part}.{each}" for each in settings.get(part, {}) if each not in names}
    refuse_unsupported(LIBRARY, "the configuration of a model", unknown)


def create_visual(
    model: str,
    weights: str | None,
    *,
    quick_gelu: bool,
    device: torch.device,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> ImageEncoder | None:
    """Return the image side of a model in float32 and evaluation mode.

    Returns None if it is not a plain ResNet or ViT. `weights` is a tag or a file; without it the
    weights are random. `settings` replace those that open_clip has for the model.
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
            **settings,
        )
    return _as_states(made.visual.eval())


def _as_states(visual: Any) -> ImageEncoder | None:
    """Remove pooling and projection; return None for an unknown architecture."""
    if hasattr(visual, "layer4"):
        width = int(visual.layer4[-1].conv3.out_channels)
        visual.attnpool = nn.Identity()
        return ImageEncoder(visual, "resnet", width, visual.preprocess_cfg)
    if not _is_plain_vit(visual):
        return None
    visual.output_tokens, visual.pool_type, visual.proj = True, "none", None
    return ImageEncoder(visual, "vit", int(visual.conv1.out_channels), visual.preprocess_cfg)


def _is_plain_vit(visual: Any) -> bool:
    normed = getattr(visual, "ln_post", None) is not None
    return normed and visual.attn_pool is None and not visual.final_ln_after_pool


def visual_states(model: nn.Module, kind: EncoderKind, pixels: Tensor) -> Tensor:
    """Return the states of images, (batch, tokens, width).

    A ResNet gives its grid, row by row. A ViT gives its class state, then its grid.
    """
    if kind == "vit":
        states: Tensor = model(pixels)[1]
        return states
    grid: Tensor = model(pixels)
    return grid.flatten(2).transpose(1, 2)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip, which logs through the root logger; it also raises its errors."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
