"""The image tower, pretrained by classification as ViT-in21k was, here of drawn scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from vlpeft.benchmark.datasets.drawing import COLORS, SIDE
from vlpeft.benchmark.pretraining.common import (
    HEADS,
    HELD_OUT,
    INIT,
    WIDTH,
    Scalars,
    TrainingSchedule,
    load_tower,
    save,
    train,
    write_json,
)
from vlpeft.benchmark.pretraining.images import (
    OUTPUTS,
    PATCH,
    PATCH_CLASSES,
    draw_scene,
    pixel_values,
    scene_labels,
    scene_loss,
    scene_scores,
)

PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def pretrain_vit(folder: Path, seed: int, plan: TrainingSchedule) -> Scalars:
    """Pretrain the tower, write it to `folder`, and return its scores.

    A linear map reads the attributes of the scene from the pooled vector. Another one names the
    thing on each patch.
    """
    torch.manual_seed(seed)  # each tower on its own, so a change of one leaves the others
    vit = ViTModel(_config())
    reader = nn.Linear(WIDTH, len(COLORS) * OUTPUTS)
    namer = nn.Linear(WIDTH, PATCH_CLASSES)

    def loss(step: int) -> Tensor:
        scenes = [draw_scene(seed, step * plan.batch + i) for i in range(plan.batch)]
        seen = vit(pixel_values(scenes))
        attributes = _by_color(reader(seen.pooler_output))
        patches = namer(seen.last_hidden_state[:, 1:])  # without the class token
        return scene_loss(attributes, patches, scene_labels(scenes))

    train("vit", nn.ModuleList([vit, reader, namer]), loss, plan.vit_steps, plan.vit_lr)
    save(vit, folder)
    write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    return _score(load_tower(ViTModel, folder), reader, seed, plan)


def _config() -> ViTConfig:
    return ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        intermediate_size=2 * WIDTH,
        image_size=SIDE,
        patch_size=PATCH,
        initializer_range=INIT,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def _by_color(outputs: Tensor) -> Tensor:
    """Reshape to (batch, colours, OUTPUTS)."""
    return outputs.view(-1, len(COLORS), OUTPUTS)


@torch.no_grad()
def _score(vit: Any, reader: nn.Linear, seed: int, plan: TrainingSchedule) -> Scalars:
    scenes = [draw_scene(seed, HELD_OUT + i) for i in range(plan.held_out)]
    chunks = (pixel_values(scenes[i : i + 100]) for i in range(0, len(scenes), 100))
    pooled = [vit(pixels).pooler_output for pixels in chunks]
    return scene_scores(_by_color(reader(torch.cat(pooled))), scene_labels(scenes))
