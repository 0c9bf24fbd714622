"""What the tiny image tower is pretrained on: drawn scenes, and for each colour what it is, how large, and where.

A quarter of the scenes hold a single thing in easy-VQA's style; none of easy-VQA's own images is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vlpeft.benchmark.datasets.drawing import (
    COLORS,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    draw,
    sample_scene,
    sample_single,
)

PATCH = 8
SINGLE_SHARE = 0.25  # of the images hold one thing, as in easy-VQA
OUTPUTS = 1 + len(SHAPES) + 1 + 2  # per colour: absent or which shape, size, x and y
PATCH_CLASSES = 1 + len(COLORS) * len(
    SHAPES
)  # of what a patch lies on: background or a coloured shape
IGNORED = -100


@dataclass(frozen=True)
class Truth:
    """What the heads predict, by scene and colour."""

    kind: Tensor  # (batch, colours): 0 absent, else 1 + shape
    size: Tensor  # (batch, colours): 0 small, 1 large, IGNORED elsewhere
    place: Tensor  # (batch, colours, 2): centre in [-1, 1]
    patches: Tensor  # (batch, patches): 0 background, else 1 + colour * shapes + shape


def draw_scene(seed: int, index: int) -> Scene:
    """Scene `index` of the pretraining stream; it shares no random stream with a split of the dataset `shapes`."""
    rng = Random(f"pretrain/{seed}/{index}")
    return sample_single(rng) if rng.random() < SINGLE_SHARE else sample_scene(rng)


def pixel_values(scenes: list[Scene]) -> Tensor:
    """(batch, 3, 64, 64) in [-1, 1]: mean and standard deviation 0.5."""
    images = torch.from_numpy(np.stack([draw(scene) for scene in scenes]))
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def scene_labels(scenes: list[Scene]) -> Truth:
    """The labels of a batch."""
    kind = torch.zeros(len(scenes), len(COLORS), dtype=torch.long)
    size = torch.full_like(kind, IGNORED)
    place = torch.zeros(*kind.shape, 2)
    patches = torch.zeros(len(scenes), SIDE // PATCH, SIDE // PATCH, dtype=torch.long)
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            c = tuple(COLORS).index(thing.color)
            kind[i, c] = 1 + SHAPES.index(thing.shape)
            place[i, c] = torch.tensor([thing.x / SIDE - 1, thing.y / SIDE - 1])
            rows, columns = patches_on(thing.top, thing.height), patches_on(thing.left, thing.width)
            patches[i, rows, columns] = 1 + c * len(SHAPES) + SHAPES.index(thing.shape)
            if thing.size:
                size[i, c] = SIZES.index(thing.size)
    return Truth(kind, size, place, patches.flatten(1))


def patches_on(start: int, extent: int) -> slice:
    """The patches, along one axis, whose centre lies on a thing; at least the one its centre lies in."""
    first, end = (
        (max(0, start) + PATCH // 2 - 1) // PATCH,
        (start + extent + PATCH // 2 - 1) // PATCH,
    )
    middle = (2 * start + extent) // (2 * PATCH)
    return slice(first, end) if end > first else slice(middle, middle + 1)


def scene_loss(outputs: Tensor, patches: Tensor, truth: Truth) -> Tensor:
    """Reading the scene off the pooled vector, plus naming what each patch lies on, without which shapes take far longer."""
    present = truth.kind > 0
    kind = F.cross_entropy(outputs[..., :4].flatten(0, 1), truth.kind.flatten())
    sized = truth.size != IGNORED
    size = F.binary_cross_entropy_with_logits(
        outputs[..., 4][sized], truth.size[sized].float(), reduction="sum"
    )
    place = F.mse_loss(outputs[..., 5:][present], truth.place[present], reduction="sum")
    local = F.cross_entropy(patches.flatten(0, 1), truth.patches.flatten())
    return 4 * kind + (size + 4 * place) / present.sum() + 4 * local


def scene_scores(outputs: Tensor, truth: Truth) -> dict[str, float]:
    """Share of things whose attribute is read right, and of scenes of which every presence and shape is."""
    present, sized = truth.kind > 0, truth.size != IGNORED
    right = outputs[..., :4].argmax(-1) == truth.kind
    return {
        "presence": ((outputs[..., :4].argmax(-1) > 0) == present).float().mean().item(),
        "shape_of_present": right[present].float().mean().item(),
        "size_of_present": ((outputs[..., 4] > 0) == truth.size)[sized].float().mean().item(),
        "place_error_pixels": (outputs[..., 5:] - truth.place)[present].abs().mean().item()
        * SIDE
        / 2,
        "whole_scene_presence_and_shapes": right.all(-1).float().mean().item(),
    }
