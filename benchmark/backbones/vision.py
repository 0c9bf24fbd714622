"""Vision towers from transformers, timm or open_clip, and one image transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, ViTModel

from vlpeft.benchmark.backbones.files import (
    check_file,
    check_folder,
    library_errors,
    local_path,
    read_file_shapes,
)
from vlpeft.benchmark.backbones.geometries import find_geometry
from vlpeft.benchmark.backbones.normalisation import Triple, normalisation
from vlpeft.benchmark.backbones.weights import WeightSource, reads_weights
from vlpeft.benchmark.contract.visual import VisionTower
from vlpeft.benchmark.core.errors import UserError, WeightsError, did_you_mean
from vlpeft.benchmark.core.libraries import open_clip, timm
from vlpeft.benchmark.core.libraries.transformers import call_model
from vlpeft.benchmark.datasets.base import Pixels

Pooling = Literal["pooler", "cls", "mean"]
FEATURES = "features:"
# Mean and standard deviation of the pixels for the in21k checkpoints. BLIP and CLIP have others, so
# a checkpoint's own numbers come first: see `normalisation`.
HALF: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def vision_tower(source: str, pool: Pooling, tokens: bool) -> VisionTower:
    """Build a vision tower.

    `source` is `tiny`, a Hugging Face id or folder, `random:ID`, `timm:NAME` (also
    `timm:local-dir:FOLDER`), or `open_clip:NAME/TAG` (also `open_clip:NAME/FILE` and
    `open_clip:random:NAME`). `features:WIDTH` (see `FeatureTower`) is for backbones that need no
    pooled vector.

    `pool` makes the first feature: the pretrained tanh pooler, the CLS state after the final norm,
    or the mean patch. `tokens` appends all states of the last layer.

    Raises UserError for a source that cannot give these, and WeightsError if it cannot be loaded.
    """
    if source.startswith(FEATURES):
        raise UserError(
            f"vision: {source}: this backbone needs a pooled vector of each image, "
            "which features do not contain; use clip_bart"
        )
    if source.startswith("open_clip:"):
        return OpenClipTower(source.removeprefix("open_clip:"), pool, tokens)
    if source.startswith("timm:"):
        return TimmTower(source.removeprefix("timm:"), pool, tokens)
    return HuggingFaceTower(WeightSource.parse(source, tiny="vit"), pool, tokens)


class FeatureTower(VisionTower):
    """No tower: the dataset contains the features (see `DataFormat.features`).

    They are the grid alone, (tokens, width) per image.
    """

    leading = 0
    # The 7 x 7 grid of VL-Adapter's release; only `random_inputs` needs to know it.
    tokens = 49

    def __init__(self, source: str) -> None:
        super().__init__()
        width = source.removeprefix(FEATURES)
        if not width.isdecimal() or not int(width):
            raise UserError(f"vision: {source}: write {FEATURES}WIDTH, as in {FEATURES}2048")
        self.width = int(width)

    def random_inputs(self, images: int) -> Tensor:
        """Draw random features, (images, tokens, width)."""
        return torch.randn(images, self.tokens, self.width)

    def forward(self, features: Tensor) -> Tensor:
        """Return features (batch, tokens, width) as they are."""
        return features


class HuggingFaceTower(VisionTower):
    """The ViTModel of transformers."""

    # The pooled vector, then the CLS state.
    leading = 2

    def __init__(self, source: WeightSource, pool: Pooling, tokens: bool) -> None:
        super().__init__()
        self.pool: Pooling = pool
        self.tokens = tokens
        self.model = source.model(ViTModel, add_pooling_layer=pool == "pooler")
        config = cast("Any", self.model.config)
        self.width = config.hidden_size
        self.size = config.image_size
        self.mean, self.std = normalisation(source, HALF)

    @property
    def hub_model(self) -> PreTrainedModel:
        """The whole tower."""
        return self.model

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (batch, 3, size, size) to (batch, 1 + tokens, width)."""
        out = call_model(self.model, pixel_values=pixels)
        pooled = None
        # tanh(W h + b) of the normalised CLS state, with pretrained weights. It is the x_R of the
        # routing release.
        if self.pool == "pooler":
            pooled = out.pooler_output
        return _assemble(pooled, out.last_hidden_state, self.pool, self.tokens)


class TimmTower(VisionTower):
    """A timm vision transformer with a class token.

    The checkpoints of timm contain no tanh pooler, so `pool` is cls or mean.
    """

    # The pooled vector, then the CLS state.
    leading = 2

    def __init__(self, name: str, pool: Pooling, tokens: bool) -> None:
        super().__init__()
        if pool == "pooler":
            raise UserError(
                f"timm:{name} has no pretrained pooler: choose `pool: cls` or `pool: mean`"
            )
        self.pool: Pooling = pool
        self.tokens = tokens
        self.model = _create_timm_tower(name)
        # `leading` and `pool: cls` count on exactly one token before the grid.
        if not timm.has_class_token_only(self.model):
            raise UserError(
                f"timm:{name} needs one class token and no other prefix token; "
                "choose one like vit_base_patch16_224"
            )
        config = timm.model_settings(self.model)
        self.width = int(cast("Any", self.model).num_features)
        self.size = int(config["input_size"][-1])
        self.mean = config["mean"]
        self.std = config["std"]

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (batch, 3, size, size) to (batch, 1 + tokens, width)."""
        states = timm.tower_states(self.model, pixels)
        return _assemble(None, states, self.pool, self.tokens)


class OpenClipTower(VisionTower):
    """The image side of a CLIP model, without its projection.

    A ResNet gives the output of layer4, before attention pooling. For RN101 at 224 px that is a
    grid of 7 x 7, of width 2048, row by row. VL-Adapter's features are the same, but were computed
    in half precision. There is no class state, so `pool` is mean.

    A ViT gives its states after ln_post; `pool` is cls or mean.
    """

    def __init__(self, name: str, pool: Pooling, tokens: bool) -> None:
        super().__init__()
        self.pool: Pooling = pool
        self.tokens = tokens
        visual = _create_open_clip_visual(name)
        if visual is None:
            raise UserError(
                f"open_clip:{name} is not a plain CLIP ResNet or ViT; "
                "choose one like RN101/openai, or `timm:NAME`"
            )
        self.leading = {"resnet": 1, "vit": 2}[visual.kind]
        self.width = visual.width
        if pool not in ("mean", "cls")[: self.leading]:
            raise UserError(f"open_clip:{name} has no {pool} to pool by: choose `pool: mean`")
        self.model = visual.model
        self.kind = visual.kind
        settings = visual.preprocessing
        self.size = int(np.max(settings["size"]))
        self.mean = settings["mean"]
        self.std = settings["std"]
        self.resample = Image.Resampling[settings["interpolation"].upper()]

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (batch, 3, size, size) to (batch, 1 + tokens, width)."""
        states = open_clip.visual_states(self.model, self.kind, pixels)
        # CLIP's own attention pooling and projection are left out, as in VL-Adapter's features.
        pooled = None
        if self.kind == "resnet":
            pooled = states.mean(1)
        return _assemble(pooled, states, self.pool, self.tokens)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode, but keep CLIP's statistics in the batch norms.

        With the statistics of a batch, an image's features would depend on its neighbours.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def transform(pixels: Pixels, tower: VisionTower) -> Tensor:
    """Turn an image into the tower's input, (3, size, size) in float32.

    The image, (height, width, 3) from 0 to 255, is resized without a crop by the tower's
    interpolation. So its aspect ratio is not kept. Then it is scaled to 0..1 and normalised.
    """
    # CLIP's own transform crops the centre; VL-Adapter squeezes the image, and so do BLIP's tests.
    if pixels.shape[:2] != (tower.size, tower.size):
        image = Image.fromarray(pixels)
        resized = image.resize(
            (tower.size, tower.size), resample=tower.resample, box=None, reducing_gap=None
        )
        pixels = np.asarray(resized)
    scaled = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    mean = torch.tensor(tower.mean)[:, None, None]
    std = torch.tensor(tower.std)[:, None, None]
    return (scaled - mean) / std


def _create_timm_tower(name: str) -> nn.Module:
    random = name.startswith("random:") or not reads_weights()
    _check_timm_folder(name)

    def describe(cause: str) -> UserError:
        message = f"cannot make timm:{name}: {cause}; see timm.list_models('*vit*')"
        if random:
            return UserError(message)
        return WeightsError(f"{message}, or `vlpeft prefetch SWEEP` on a machine with a network")

    with library_errors(describe):
        return timm.create_tower(name.removeprefix("random:"), pretrained=not random)


def _check_timm_folder(name: str) -> None:
    """Check the files of `local-dir:FOLDER`: a plan reads no more than the headers."""
    where, _, place = name.partition(":")
    if where != "local-dir":
        return
    folder = local_path(place)
    if folder is None:
        raise WeightsError(f"timm:{name}: {place} does not exist; fix the path")
    check_folder(folder)
    for file in sorted(folder.glob("*.safetensors")):
        read_file_shapes(file)


def _create_open_clip_visual(name: str) -> open_clip.ImageEncoder | None:
    """Return the image side of `NAME/TAG`, `NAME/FILE` or `random:NAME`."""
    model, _, weights = name.removeprefix("random:").partition("/")
    random = name.startswith("random:")
    known = open_clip.model_names()
    if model not in known:
        raise UserError(f"open_clip has no model '{model}'{did_you_mean(model, known)}")
    tag = open_clip.known_weights(model, weights)
    file = _find_open_clip_file(weights, known_tag=bool(tag) or random)
    if not random and not tag and file is None:
        tags = open_clip.tags_of(model)
        raise UserError(
            f"open_clip:{name}: '{weights}' is neither a file nor a tag of {model}"
            f"{did_you_mean(weights, tags)}"
        )
    read: str | None = None
    settings: dict[str, Any] = {}
    if not random and reads_weights():
        read = weights
    elif geometry := find_geometry("open_clip", model):
        settings = geometry.values()
    with library_errors(lambda cause: _open_clip_error(name, file, cause)):
        return open_clip.create_visual(
            model,
            read,
            # The tags of OpenAI's weights need QuickGELU. For a file, NAME itself says it.
            quick_gelu=bool(tag.get("quick_gelu")),
            device=torch.get_default_device(),
            settings=settings,
        )


def _find_open_clip_file(weights: str, *, known_tag: bool) -> Path | None:
    """Return the checked file of `NAME/FILE`; None for a tag and for a name without a file."""
    if known_tag or not weights:
        return None
    file = local_path(weights)
    if file is None:
        return None
    check_file(file)
    if file.suffix == ".safetensors":
        read_file_shapes(file)
    return file


def _open_clip_error(name: str, file: Path | None, cause: str) -> WeightsError:
    if file is not None:
        return WeightsError(f"cannot make open_clip:{name}: {cause}; copy or download {file} again")
    model = name.removeprefix("random:").partition("/")[0]
    return WeightsError(
        f"cannot make open_clip:{name}: fetch its weights on a machine with a network "
        f"(`vlpeft prefetch SWEEP`), or give a file as `open_clip:{model}/FILE` ({cause})"
    )


def _assemble(pooled: Tensor | None, states: Tensor, pool: Pooling, tokens: bool) -> Tensor:
    """Return the pooled vector, (batch, 1, width), with the states behind it if `tokens` is set."""
    if pooled is None:
        pooled = _pool_states(states, pool)
    if tokens:
        return torch.cat([pooled[:, None], states], 1)
    return pooled[:, None]


def _pool_states(states: Tensor, pool: Pooling) -> Tensor:
    # The mean leaves out the class state, which is not a patch.
    if pool == "cls":
        return states[:, 0]
    return states[:, 1:].mean(1)
