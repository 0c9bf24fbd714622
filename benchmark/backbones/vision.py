"""Vision towers from transformers, timm or open_clip, and one image transform."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, ViTModel

from vlpeft.benchmark.backbones.weights import WeightSource, reads_weights
from vlpeft.benchmark.contract.backbone import VisionTower
from vlpeft.benchmark.core.errors import UserError, WeightsError, did_you_mean
from vlpeft.benchmark.datasets.base import Pixels
from vlpeft.benchmark.libraries import open_clip, timm
from vlpeft.benchmark.libraries.transformers import call_model, find_file

Pool = Literal["pooler", "cls", "mean"]
Triple = tuple[float, float, float]
FEATURES = "features:"
HALF: tuple[Triple, Triple] = (
    (0.5, 0.5, 0.5),
    (0.5, 0.5, 0.5),
)  # the in21k checkpoints' own values


def vision_tower(source: str, pool: Pool, tokens: bool) -> VisionTower:
    """Build a tower from `tiny`, a Hugging Face id or folder, `random:ID`, `timm:NAME` (also `timm:local-dir:FOLDER`), or
    `open_clip:NAME/TAG` (also `open_clip:NAME/FILE` and `open_clip:random:NAME`).

    `features:WIDTH` (see `FeatureTower`) is for backbones that need no pooled vector, and refused here.

    `pool` makes the first feature: the pretrained tanh pooler, the CLS state after the final norm, or the mean patch.
    `tokens` appends all states of the last layer behind it.
    """
    if source.startswith(FEATURES):
        raise UserError(
            f"vision: {source}: this backbone needs a pooled vector of each image, which features do not hold; use clip_bart"
        )
    if source.startswith("open_clip:"):
        return OpenClipTower(source.removeprefix("open_clip:"), pool, tokens)
    if source.startswith("timm:"):
        return TimmTower(source.removeprefix("timm:"), pool, tokens)
    return HuggingFaceTower(WeightSource.parse(source, tiny="vit"), pool, tokens)


class FeatureTower(VisionTower):
    """No tower: the dataset holds what one would give, the grid alone, (tokens, width) an image (`DataFormat.features`)."""

    leading = 0
    tokens = 49  # of VL-Adapter's release, 7 x 7; only `random_inputs` needs to know

    def __init__(self, source: str) -> None:
        super().__init__()
        width = source.removeprefix(FEATURES)
        if not width.isdecimal() or not int(width):
            raise UserError(f"vision: {source}: write {FEATURES}WIDTH, as in {FEATURES}2048")
        self.width = int(width)

    def random_inputs(self, images: int) -> Tensor:
        """(images, tokens, width)."""
        return torch.randn(images, self.tokens, self.width)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, tokens, width), as it is."""
        return features


class HuggingFaceTower(VisionTower):
    """transformers' ViTModel."""

    leading = 2  # pooled, CLS

    def __init__(self, source: WeightSource, pool: Pool, tokens: bool) -> None:
        super().__init__()
        self.pool, self.tokens = pool, tokens
        self.model = source.model(ViTModel, add_pooling_layer=pool == "pooler")
        config = cast("Any", self.model.config)
        self.width, self.size = config.hidden_size, config.image_size
        self.mean, self.std = normalisation(source, HALF)

    @property
    def hub_model(self) -> PreTrainedModel:
        """The whole tower."""
        return self.model

    def forward(self, pixels: Tensor) -> Tensor:
        """(batch, 3, size, size) to (batch, 1 + tokens, width)."""
        out = call_model(self.model, pixel_values=pixels)
        states = out.last_hidden_state
        return _assemble(
            out.pooler_output if self.pool == "pooler" else None, states, self.pool, self.tokens
        )


class TimmTower(VisionTower):
    """A timm vision transformer with a class token; timm's checkpoints hold no tanh pooler, so `pool` is cls or mean."""

    leading = 2  # pooled, CLS

    def __init__(self, name: str, pool: Pool, tokens: bool) -> None:
        super().__init__()
        if pool == "pooler":
            raise UserError(
                f"timm:{name} has no pretrained pooler: choose `pool: cls` or `pool: mean`"
            )
        self.pool, self.tokens = pool, tokens
        random = name.startswith("random:") or not reads_weights()
        try:
            self.model = timm.create_tower(name.removeprefix("random:"), pretrained=not random)
        except (RuntimeError, OSError, ValueError) as error:
            said = f"cannot make timm:{name}: {' '.join(str(error).split())[:160]}"
            if random:
                raise UserError(f"{said}; see timm.list_models('*vit*')") from error
            raise WeightsError(
                f"{said}; see timm.list_models('*vit*'), or `vlpeft prefetch SWEEP` where there is a network"
            ) from error
        if not timm.has_class_token_only(self.model):
            raise UserError(
                f"timm:{name} needs one class token and no other prefix token; choose one like vit_base_patch16_224"
            )
        config = timm.model_settings(self.model)
        self.width, self.size = (
            int(cast("Any", self.model).num_features),
            int(config["input_size"][-1]),
        )
        self.mean, self.std = config["mean"], config["std"]

    def forward(self, pixels: Tensor) -> Tensor:
        """(batch, 3, size, size) to (batch, 1 + tokens, width)."""
        states = timm.tower_states(self.model, pixels)
        return _assemble(None, states, self.pool, self.tokens)


class OpenClipTower(VisionTower):
    """The image side of a CLIP, without its projection.

    A ResNet gives the output of layer4, before attention pooling: RN101 at 224 px a grid of 7 x 7, width 2048, row by row,
    as VL-Adapter's features are (theirs were computed in half precision). It has no class state, so `pool` is mean.
    A ViT gives its states after ln_post; `pool` is cls or mean.
    """

    def __init__(self, name: str, pool: Pool, tokens: bool) -> None:
        super().__init__()
        self.pool, self.tokens = pool, tokens
        visual = _open_clip_visual(name)
        if visual is None:
            raise UserError(
                f"open_clip:{name} is no plain CLIP ResNet or ViT; choose one like RN101/openai, or `timm:NAME`"
            )
        self.leading, self.width = {"resnet": 1, "vit": 2}[visual.kind], visual.width
        if pool not in ("mean", "cls")[: self.leading]:
            raise UserError(f"open_clip:{name} has no {pool} to pool by: choose `pool: mean`")
        self.model, self.kind = visual.model, visual.kind
        settings = visual.preprocessing
        self.size = int(np.max(settings["size"]))
        self.mean, self.std, self.resample = (
            settings["mean"],
            settings["std"],
            Image.Resampling[settings["interpolation"].upper()],
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(batch, 3, size, size) to (batch, 1 + tokens, width)."""
        states = open_clip.visual_states(self.model, self.kind, pixels)
        pooled = states.mean(1) if self.kind == "resnet" else None
        return _assemble(pooled, states, self.pool, self.tokens)

    def train(self, mode: bool = True) -> Self:
        """Batch norms keep CLIP's statistics in training too: an image's features must not depend on its neighbours."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def _open_clip_visual(name: str) -> open_clip.Visual | None:
    """The image side of `NAME/TAG`, `NAME/FILE` or `random:NAME`. Tags of OpenAI's weights need QuickGELU, a file's NAME says it."""
    model, _, weights = name.removeprefix("random:").partition("/")
    random = name.startswith("random:")
    known = open_clip.model_names()
    if model not in known:
        raise UserError(f"open_clip has no model '{model}'{did_you_mean(model, known)}")
    tag = open_clip.known_weights(model, weights)
    if not random and not tag and not Path(weights).is_file():
        tags = open_clip.tags_of(model)
        raise UserError(
            f"open_clip:{name}: '{weights}' is neither a file nor a tag of {model}{did_you_mean(weights, tags)}"
        )
    read = not random and reads_weights()
    try:
        return open_clip.create_visual(
            model,
            weights if read else None,
            quick_gelu=bool(tag.get("quick_gelu")),
            device=torch.get_default_device(),
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise WeightsError(
            f"cannot make open_clip:{name}: fetch its weights where there is a network (`vlpeft prefetch SWEEP`), or give a file as "
            f"`open_clip:{model}/FILE` ({' '.join(str(error).split())[:120]})"
        ) from error


def transform(pixels: Pixels, tower: VisionTower) -> Tensor:
    """Image to the tower's input, (3, size, size) float32: resized without crop (by its interpolation), scaled, normalised."""
    if pixels.shape[:2] != (tower.size, tower.size):
        pixels = np.asarray(
            Image.fromarray(pixels).resize(
                (tower.size, tower.size), resample=tower.resample, box=None, reducing_gap=None
            )
        )
    scaled = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    return (scaled - torch.tensor(tower.mean)[:, None, None]) / torch.tensor(tower.std)[
        :, None, None
    ]


def _assemble(pooled: Tensor | None, states: Tensor, pool: Pool, tokens: bool) -> Tensor:
    if pooled is None:
        pooled = states[:, 0] if pool == "cls" else states[:, 1:].mean(1)
    return torch.cat([pooled[:, None], states], 1) if tokens else pooled[:, None]


def normalisation(source: WeightSource, otherwise: tuple[Triple, Triple]) -> tuple[Triple, Triple]:
    """Mean and standard deviation of the pixels, from the checkpoint's preprocessor where it has one."""
    file = None
    if not source.random and reads_weights():
        file = find_file(
            source.location, "preprocessor_config.json", revision=source.revision, required=False
        )
    if file is None:
        return otherwise
    values = json.loads(Path(file).read_text(encoding="utf-8"))
    return tuple(values["image_mean"]), tuple(values["image_std"])
