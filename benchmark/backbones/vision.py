"""Vision towers from transformers or timm, with one way of pooling and one image transform."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import ViTModel
from transformers.utils import cached_file

from benchmark.backbones.base import VisionTower
from benchmark.backbones.weights import Source
from benchmark.datasets.base import Pixels
from benchmark.errors import UserError

Pool = Literal["pooler", "cls", "mean"]
Triple = tuple[float, float, float]
HALF: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # the in21k checkpoints' own values


def vision_tower(source: str, pool: Pool, tokens: bool) -> VisionTower:
    """Build a tower from `tiny`, a Hugging Face id or folder, `random:ID`, or `timm:NAME` (also `timm:local-dir:FOLDER`).

    `pool` makes the first feature: the pretrained tanh pooler, the CLS state after the final norm, or the mean patch.
    `tokens` appends all states of the last layer behind it.
    """
    if source.startswith("timm:"):
        return TimmTower(source.removeprefix("timm:"), pool, tokens)
    return HuggingFaceTower(Source.parse(source, tiny="vit"), pool, tokens)


class HuggingFaceTower(VisionTower):
    """transformers' ViTModel."""

    def __init__(self, source: Source, pool: Pool, tokens: bool) -> None:
        super().__init__()
        self.pool, self.tokens = pool, tokens
        self.model = source.model(ViTModel, add_pooling_layer=pool == "pooler")
        config = cast("Any", self.model.config)
        self.width, self.size = config.hidden_size, config.image_size
        self.mean, self.std = normalisation(source, HALF)

    def forward(self, pixels: Tensor) -> Tensor:
        """(batch, 3, size, size) to (batch, 1 + tokens, width)."""
        out = self.model(pixel_values=pixels)
        states = out.last_hidden_state
        return _assemble(out.pooler_output if self.pool == "pooler" else None, states, self.pool, self.tokens)


class TimmTower(VisionTower):
    """A timm vision transformer with a class token; timm's checkpoints hold no tanh pooler, so `pool` is cls or mean."""

    def __init__(self, name: str, pool: Pool, tokens: bool) -> None:
        super().__init__()
        if pool == "pooler":
            raise UserError(f"timm:{name} has no pretrained pooler: choose `pool: cls` or `pool: mean`")
        self.pool, self.tokens = pool, tokens
        random = name.startswith("random:") or torch.get_default_device().type == "meta"
        try:
            self.model: nn.Module = timm.create_model(name.removeprefix("random:"), pretrained=not random, num_classes=0).eval()
        except (RuntimeError, OSError, ValueError) as error:
            raise UserError(f"cannot make timm:{name}: {' '.join(str(error).split())[:160]}; see timm.list_models('*vit*')") from error
        if not getattr(self.model, "has_class_token", False) or getattr(self.model, "num_prefix_tokens", 0) != 1:
            raise UserError(f"timm:{name} needs one class token and no other prefix token; choose one like vit_base_patch16_224")
        config = cast("dict[str, Any]", self.model.pretrained_cfg)
        self.width, self.size = int(cast("Any", self.model).num_features), int(config["input_size"][-1])
        self.mean, self.std = config["mean"], config["std"]

    def forward(self, pixels: Tensor) -> Tensor:
        """(batch, 3, size, size) to (batch, 1 + tokens, width)."""
        states = cast("Any", self.model).forward_features(pixels)
        return _assemble(None, states, self.pool, self.tokens)


def transform(pixels: Pixels, tower: VisionTower) -> Tensor:
    """Image to the tower's input, (3, size, size) float32: resized without crop (by its interpolation), scaled, normalised."""
    if pixels.shape[:2] != (tower.size, tower.size):
        pixels = np.asarray(Image.fromarray(pixels).resize((tower.size, tower.size), tower.resample))
    scaled = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    return (scaled - torch.tensor(tower.mean)[:, None, None]) / torch.tensor(tower.std)[:, None, None]


def _assemble(pooled: Tensor | None, states: Tensor, pool: Pool, tokens: bool) -> Tensor:
    if pooled is None:
        pooled = states[:, 0] if pool == "cls" else states[:, 1:].mean(1)
    return torch.cat([pooled[:, None], states], 1) if tokens else pooled[:, None]


def normalisation(source: Source, otherwise: tuple[Triple, Triple]) -> tuple[Triple, Triple]:
    """Mean and standard deviation of the pixels, from the checkpoint's preprocessor where it has one."""
    file = None
    if not source.random and torch.get_default_device().type != "meta":
        file = cached_file(
            source.location, "preprocessor_config.json", revision=source.revision, _raise_exceptions_for_missing_entries=False
        )
    if file is None:
        return otherwise
    values = json.loads(Path(file).read_text(encoding="utf-8"))
    return tuple(values["image_mean"]), tuple(values["image_std"])
